//! Finds the examples, which each test runs as a user does.

use std::path::PathBuf;

/// Returns the program of an example.
///
/// cargo gives tests the paths of binaries, not those of examples, but builds both next to each
/// other: `target/PROFILE/deps/THIS_TEST` and `target/PROFILE/examples/NAME`.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test");
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let found = this.ancestors().map(|folder| folder.join("examples").join(&name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no example {name}: `cargo test` builds it; before `--test NAME` run `cargo build --examples`")
    })
}

//! Child processes: this test binary again, programs of other packages, the examples.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment variable that marks a test which runs as a child of itself.
const CHILD: &str = "POLLWATCH_TEST_CHILD";

/// True in a child that [`rerun`] made.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs the test `name` of this binary in a child.
pub fn rerun(name: &str) -> Command {
    rerun_in(&std::env::current_exe().expect("the path of this test binary"), name)
}

/// A command that runs the test `name` of a copy of this binary in a child.
pub fn rerun_in(binary: &Path, name: &str) -> Command {
    let mut command = Command::new(binary);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    command
}

/// True if `program` can be started. Otherwise the test must return, and this says why it was
/// skipped.
pub fn is_installed(program: &str) -> bool {
    let package = match program {
        "prometheus-alertmanager" => program,
        "prometheus" | "promtool" => "prometheus",
        "script" => "bsdutils",
        "node" => "nodejs",
        other => other,
    };
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skipped(&format!("no `{program}` here; Debian's package `{package}` has it, and .ci/run installs that"));
    }
    found
}

/// Prints that a test was skipped, on both outputs, since the harness captures only one of them.
pub fn skipped(reason: &str) {
    println!("SKIPPED: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// The path of an example of this package.
///
/// cargo passes the path of an example to no test, but it builds the examples beside them:
/// `target/PROFILE/deps/THIS` and `target/PROFILE/examples/NAME`.
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test binary");
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let found = this.ancestors().map(|folder| folder.join("examples").join(&file)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no example {name}: `cargo test` builds it; before `--test NAME` run `cargo build --examples`")
    })
}

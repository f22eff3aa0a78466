//! What tests with other programs share: finding those, waiting for them, a real Prometheus and Alertmanager, and what
//! these are shown.

// Each test takes what it needs of this.
#![allow(dead_code)]

pub(crate) mod alertmanager;
pub(crate) mod child;
pub(crate) mod prometheus;
#[cfg(feature = "server")]
pub(crate) mod watched;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// For what must come, on a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(50);

/// Whether there is such a program; else the test says that it is skipped.
pub(crate) fn is_installed(program: &str) -> bool {
    let package = match program {
        "prometheus-alertmanager" => program,
        "prometheus" | "promtool" => "prometheus",
        "script" => "bsdutils",
        "node" => "nodejs",
        other => other,
    };
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skipped(&format!("no `{program}` here; it is in Debian's package `{package}`, which .ci/run installs"));
    }
    found
}

/// A test that cannot be made says so, and passes.
pub(crate) fn skipped(why: &str) {
    println!("SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "still waiting after {DEADLINE:?} for {what}");
        thread::sleep(EVERY);
    }
}

/// A file of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a document between ``` fences that begin with `head`.
pub(crate) fn fenced(document: &str, head: &str) -> Vec<String> {
    let (text, begin) = (read(document), format!("```{head}\n"));
    let blocks = text.split(&begin).skip(1);
    let blocks: Vec<String> = blocks.map(|rest| rest.split_once("```").expect("an end").0.into()).collect();
    assert!(!blocks.is_empty(), "no ```{head} in {document}");
    blocks
}

/// cargo names no example to a test, but builds them next to it: target/PROFILE/deps/THIS, target/PROFILE/examples/NAME.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test");
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let found = this.ancestors().map(|folder| folder.join("examples").join(&name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no example {name}: `cargo test` builds it; before `--test NAME` run `cargo build --examples`")
    })
}

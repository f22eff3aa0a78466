//! Programs whose debug information is outside of the binary: beside it, or in files of the
//! compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{is_child, rerun_in, scratch, skipped};

use super::program;

/// Makes a copy of this test binary without symbols, and a debug file beside it, to which its
/// `.gnu_debuglink` refers.
fn split_off(name: &str) -> Option<(PathBuf, PathBuf)> {
    let folder = scratch(name);
    let (program, debug) = (folder.join("stripped"), folder.join("stripped.debug"));
    let current = std::env::current_exe().unwrap();
    let objcopy = |args: &[&Path]| Command::new("objcopy").args(args).status();
    match objcopy(&[Path::new("--only-keep-debug"), &current, &debug]) {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            skipped(&format!("no `objcopy` here: {error}"));
            return None;
        }
    }
    let link = format!("--add-gnu-debuglink={}", debug.display());
    let status = objcopy(&[Path::new("--strip-all"), Path::new(&link), &current, &program]).unwrap();
    assert!(status.success(), "{status}");
    Some((program, debug))
}

/// Runs a program and returns its log.
fn log_of(program: &mut Command) -> String {
    let output = program.env_remove("RUST_LOG").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Checks that the blocking functions have names, files and lines.
#[track_caller]
fn assert_has_lines(log: &str) {
    for function in ["sleeps", "computes", "locks"] {
        let named = format!("::{function} (");
        let has_line = |line: &str| line.split_once(&named).is_some_and(|(_, rest)| rest.contains("program.rs:"));
        assert!(log.lines().any(has_line), "{function}: {log}");
    }
    assert!(!log.contains("stacks may lack functions or lines"), "{log}");
}

#[test]
fn a_debug_file_beside_the_program_gives_lines() {
    if is_child() {
        return program::main();
    }
    let Some((program, debug)) = split_off("debug-file") else { return };
    let name = "stripped::split::a_debug_file_beside_the_program_gives_lines";
    assert_has_lines(&log_of(&mut rerun_in(&program, name)));
    // A damaged one is logged once and counted. Stalls are reported with offsets.
    let whole = std::fs::read(&debug).unwrap();
    std::fs::write(&debug, &whole[..whole.len() / 3]).unwrap();
    let log = log_of(&mut rerun_in(&program, name));
    assert!(log.contains("at stripped+0x"), "{log}");
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("stacks may lack functions or lines")).collect();
    assert!(
        complaints.len() == 1 && complaints[0].contains("stripped.debug is truncated or damaged"),
        "{complaints:?}"
    );
}

/// Split debug information, in a package of its own.
#[test]
#[ignore = "compiles tokio and the like once more: about a minute; .ci/run does it"]
fn split_debug_information_gives_lines() {
    for kind in ["packed", "unpacked"] {
        let folder = scratch(&format!("split-{kind}"));
        let profile = format!("opt-level = 1\ndebug = true\nsplit-debuginfo = {kind:?}");
        let program = super::build_package(&folder, &profile);
        let has_split_file = |folder: &Path, extension: &str| {
            let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            files.any(|path| path.extension().is_some_and(|e| e == extension))
        };
        match kind {
            "packed" => assert!(has_split_file(program.parent().unwrap(), "dwp")),
            _ => assert!(has_split_file(&program.parent().unwrap().join("deps"), "dwo")),
        }
        assert_has_lines(&log_of(&mut Command::new(program)));
    }
}

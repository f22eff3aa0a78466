//! The hint that nobody takes the log line of a stall. A subscriber is that of a whole process, so
//! each case runs in a child.

use std::process::Command;

use pollwatch::Watchdog;
use tracing_subscriber::EnvFilter;

use test_support::*;

/// The environment variable that names the program to be, in a child.
const PROGRAM: &str = "POLLWATCH_TEST_PROGRAM";

/// Runs as a program that blocks, and returns what it prints on the standard error.
#[track_caller]
fn stderr_of(program: &str) -> String {
    let mut child: Command = rerun("a_line_that_nobody_takes_is_mentioned_once");
    let out = child.env(PROGRAM, program).output().expect("this test runs as a child");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stderr).expect("UTF-8")
}

/// The subscribers of other programs: none, a filter that names their own crates, and one that
/// every event passes.
fn be(program: &str) {
    let fmt = || tracing_subscriber::fmt().with_writer(std::io::sink);
    match program {
        "own crates" => fmt().with_env_filter(EnvFilter::new("example=debug,tower_http=debug")).init(),
        "no RUST_LOG" => fmt().with_env_filter(EnvFilter::new("")).init(),
        "warn" => fmt().with_env_filter(EnvFilter::new("warn")).init(),
        "everything" => fmt().init(),
        _ => {}
    }
    let builder = Watchdog::builder().threshold(THRESHOLD).log(program != "log off");
    let (watchdog, stalls) = start_with(builder);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for n in 1..=3 {
        runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
        stalls.wait(|stall| stall.id == n && stall.phase == pollwatch::Phase::Resolved).expect("a stall is reported");
    }
    // Waits for the thread of the log.
    watchdog.shutdown();
}

#[test]
fn a_line_that_nobody_takes_is_mentioned_once() {
    if is_child() {
        return be(&std::env::var(PROGRAM).unwrap());
    }
    for program in ["no subscriber", "own crates", "no RUST_LOG"] {
        let stderr = stderr_of(program);
        assert_eq!(stderr.matches("nothing takes its log line").count(), 1, "{program}: {stderr:?}");
        assert!(stderr.contains("`pollwatch=warn`") && stderr.lines().count() == 1, "{program}: {stderr:?}");
    }
    for program in ["warn", "everything", "log off"] {
        assert_eq!(stderr_of(program), "", "{program}");
    }
}

//! A current-thread runtime in a program without symbols: nothing shows that a thread drives it.

use std::thread::sleep;

use pollwatch::Watchdog;
use test_support::*;

use super::stripped_test;

/// The promise in the coverage of a runtime, and the log line that takes it back.
const PROMISE: &str = "of all else, what blocks its thread in a system call";
const TAKEN_BACK: &str = "the program has no symbols of tokio";

/// Blocks the root, which is not watched, until coverage says that such blocks are not found.
fn program() {
    tracing_subscriber::fmt().with_ansi(false).init();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).start().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let is_promised = || {
        let coverage = watchdog.coverage();
        let promised = coverage.runtimes[0].thread_waits;
        assert_eq!(coverage.to_string().contains(PROMISE), promised, "{coverage}");
        promised
    };
    assert!(is_promised(), "the symbols have not been searched");
    runtime.block_on(async {
        wait_until("coverage takes the promise back", || {
            sleep(THRESHOLD * 5);
            !is_promised()
        });
        sleep(THRESHOLD * 20);
    });
    watchdog.shutdown();
}

#[test]
fn a_stripped_program_does_not_promise_what_needs_symbols() {
    if is_child() {
        return program();
    }
    let Some(stripped) = stripped_test("stripped-current-thread") else { return };
    let name = "stripped::current_thread::a_stripped_program_does_not_promise_what_needs_symbols";
    let output = rerun_in(&stripped, name).env_remove("RUST_LOG").output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(log.matches(TAKEN_BACK).count(), 1, "{log}");
}

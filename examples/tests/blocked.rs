//! The example `blocked`, run as a user runs it: its report of each way to block.

#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::example;

const SOURCE: &str = include_str!("../blocked/main.rs");
/// The time limit for all attempts. On a busy machine a thread may be starved before it blocks, or
/// the watchdog may get no CPU while it blocks.
const PATIENCE: Duration = Duration::from_secs(120);

/// Each way to block, its reason with the system call, its function with the text of the line, and
/// the advice.
const WAYS: [(&str, &str, &str, &str, &str); 4] = [
    ("sleep", "a sleep (off-CPU, syscall clock_nanosleep)", "sleeps", "thread::sleep(TIME);", "use tokio::time::sleep"),
    (
        "file",
        "a sync file read (off-CPU, syscall read) on ",
        "reads_a_file",
        "read_to_string(",
        "use tokio::fs or move it to tokio::task::spawn_blocking",
    ),
    (
        "lock",
        "a Mutex (off-CPU, syscall futex)",
        "waits_for_a_lock",
        "balance.lock()",
        "shorten the critical section of whoever holds it, or use tokio::sync::Mutex",
    ),
    (
        "dns",
        "a name look-up (DNS) (off-CPU, syscall poll)",
        "looks_a_name_up",
        ".to_socket_addrs()",
        "use tokio::net::lookup_host or an async resolver",
    ),
];

fn line_of(text: &str) -> usize {
    SOURCE.lines().position(|line| line.contains(text)).expect("it is in the source") + 1
}

#[test]
fn the_four_usual_ways_to_block_are_reported() {
    for (way, reason, function, call, advice) in WAYS {
        let line = line_of(call);
        let expected = [
            format!(": blocked in {reason}"),
            format!("at blocked::{function} (examples/blocked/main.rs:{line})\n"),
            format!("  advice: {advice}\n"),
        ];
        let mut outputs = Vec::new();
        let start = Instant::now();
        let is_reported = std::iter::repeat(()).take_while(|()| start.elapsed() < PATIENCE).any(|()| {
            let output = Command::new(example("blocked")).arg(way).env("NO_COLOR", "1").output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
            assert!(
                stdout.contains("stacks: taken\n"),
                "the example was built with other features than this test (`cargo test` builds both): {stdout}"
            );
            // Only reports made while the worker is blocked count.
            let mut events = stdout.split(" WARN pollwatch::stall: ").filter(|event| event.contains(" ongoing "));
            let is_reported = events.any(|event| expected.iter().all(|part| event.contains(part)));
            outputs.push(stdout);
            is_reported
        });
        assert!(is_reported, "{way}: no {expected:#?} in\n{}", outputs.concat());
    }
}

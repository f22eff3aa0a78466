//! Tests of the reports of the example `blocked`, run as a user runs it.

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
/// The times for which the example blocks, one attempt after the other. The report comes while the
/// worker is blocked if it is blocked for longer than the machine takes for a first stack: that is
/// some seconds for a debug build on a busy machine.
const FIRST_TIME: Duration = Duration::from_millis(600);
const LONGEST_TIME: Duration = Duration::from_secs(20);
/// The time limit for all attempts. On a busy machine a thread may be starved before it blocks, or
/// the watchdog may get no CPU while it blocks.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of the example's blocks, and its expected report.
struct Block {
    /// The example's argument.
    name: &'static str,
    /// The reason, with the system call.
    reason: &'static str,
    /// The function that blocks, and the text of the line in it.
    function: &'static str,
    call: &'static str,
    advice: &'static str,
}

const BLOCKS: [Block; 4] = [
    Block {
        name: "sleep",
        reason: "a sleep (off-CPU, syscall clock_nanosleep)",
        function: "sleeps",
        call: "std::thread::sleep(time);",
        advice: "use tokio::time::sleep",
    },
    Block {
        name: "file",
        reason: "a sync file read (off-CPU, syscall read) on ",
        function: "reads_a_file",
        call: "read_to_string(",
        advice: "use tokio::fs or move it to tokio::task::spawn_blocking",
    },
    Block {
        name: "lock",
        reason: "a Mutex (off-CPU, syscall futex)",
        function: "waits_for_a_lock",
        call: "balance.lock()",
        advice: "shorten the critical section of whoever holds it, or use tokio::sync::Mutex",
    },
    Block {
        name: "dns",
        reason: "a name look-up (DNS) (off-CPU, syscall poll)",
        function: "looks_a_name_up",
        call: ".to_socket_addrs()",
        advice: "use tokio::net::lookup_host or an async resolver",
    },
];

fn line_of(text: &str) -> usize {
    SOURCE.lines().position(|line| line.contains(text)).expect("the line is in the source") + 1
}

#[test]
fn each_block_is_reported_with_its_reason_line_and_advice() {
    for Block { name, reason, function, call, advice } in BLOCKS {
        let line = line_of(call);
        let expected = [
            format!(": blocked in {reason}"),
            format!("at blocked::{function} (examples/blocked/main.rs:{line})\n"),
            format!("  advice: {advice}\n"),
        ];
        let mut outputs = Vec::new();
        let start = Instant::now();
        let times = std::iter::successors(Some(FIRST_TIME), |time| Some((2 * *time).min(LONGEST_TIME)));
        let is_reported = times.take_while(|_| start.elapsed() < PATIENCE).any(|time| {
            let mut command = Command::new(example("blocked"));
            let output = command.args([name, &time.as_millis().to_string()]).env("NO_COLOR", "1").output().unwrap();
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
        assert!(is_reported, "{name}: no {expected:#?} in\n{}", outputs.concat());
    }
}

//! The example `blocked`, run as a user runs it: what it tells of each way to block.

#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    feature = "capture"
))]

use test_support as common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::example;

const SOURCE: &str = include_str!("../examples/blocked/main.rs");
/// For all attempts: on a machine with more to do, a thread is starved before it gets to block, or nobody has a CPU to look at it
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// The way, the reason with its system call, the function and what stands in its line, the advice.
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
fn tells_the_four_usual_ways() {
    for (way, reason, function, call, advice) in WAYS {
        let line = line_of(call);
        let told = [
            format!(": blocked in {reason}"),
            format!("at blocked::{function} (examples/blocked/main.rs:{line})\n"),
            format!("  advice: {advice}\n"),
        ];
        let mut heard = Vec::new();
        let begin = Instant::now();
        let is_told = std::iter::repeat(()).take_while(|()| begin.elapsed() < PATIENCE).any(|()| {
            let output = Command::new(example("blocked")).arg(way).env("NO_COLOR", "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
            assert!(
                said.contains("stacks: taken\n"),
                "not as this test was compiled (`cargo test` builds both): {said}"
            );
            // While it lasts.
            let mut events = said.split(" WARN pollwatch::stall: ").filter(|event| event.contains(" ongoing "));
            let is_told = events.any(|event| told.iter().all(|part| event.contains(part)));
            heard.push(said);
            is_told
        });
        assert!(is_told, "{way}: no {told:#?} in\n{}", heard.concat());
    }
}

//! The example `incidents`, run as a user runs it.

#![cfg(feature = "prometheus")]

use test_support as common;

use std::process::{Command, Stdio};

fn example() -> Command {
    let mut command = Command::new(common::example("incidents"));
    // A backtrace would only take time.
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command
}

/// The place that a line names, `examples/incidents.rs:LINE:COLUMN`, and the function in the source that the line is in.
fn call(line: &str) -> &str {
    let (_, at) = line.split_once("examples/incidents.rs:").unwrap_or_else(|| panic!("no place in {line:?}"));
    let number: usize = at.split(':').next().and_then(|n| n.parse().ok()).expect("a line number");
    include_str!("../examples/incidents.rs").lines().nth(number - 1).expect("a line of the source")
}

#[test]
fn shows_each_incident_in_the_log_and_in_the_metrics() {
    let out = example().output().expect("the example starts");
    let text = String::from_utf8(out.stdout).expect("UTF-8").replace('\\', "/");
    assert!(out.status.success(), "{}\n{text}", out.status);
    let line = |words: &[&str]| {
        let found = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no line with {words:?} in:\n{text}"))
    };
    assert!(text.contains("writes the order") && !text.contains("writes its items"), "{text}");
    let cancelled = line(&["pollwatch_tasks_cancelled_total{runtime=\"main\",", "} 1"]);
    assert!(call(cancelled).contains("write_order("), "{cancelled}");

    let panicked = line(&["pollwatch_tasks_panicked_total{runtime=\"main\",", "} 1"]);
    let told = line(&["WARN pollwatch::tasks: a task of \"main\"", " panicked: index out of bounds"]);
    let [counted, told] = [panicked, told].map(call);
    assert!(counted == told && told.contains("nightly_job("), "{counted} {told}");

    let alive = line(&["pollwatch_tasks_alive{runtime=\"main\",", "} 1500"]);
    let told = line(&["WARN pollwatch::tasks: ", " are alive, more than 500"]);
    let [counted, told] = [alive, told].map(call);
    assert!(counted == told && told.contains("watchdog.spawn("), "{counted} {told}");
}

//! Tests of the output of the example `incidents`, run as a user runs it.

mod common;

use std::process::{Command, Stdio};

fn example() -> Command {
    let mut command = Command::new(common::example("incidents"));
    // A backtrace would take time, and is not needed.
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command
}

/// The source line that a line of output names as `examples/incidents.rs:LINE:COLUMN`.
fn call(line: &str) -> &str {
    let (_, at) = line.split_once("examples/incidents.rs:").unwrap_or_else(|| panic!("no location in {line:?}"));
    let number: usize = at.split(':').next().and_then(|n| n.parse().ok()).expect("a line number");
    include_str!("../incidents.rs").lines().nth(number - 1).expect("a line of the source")
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
    let logged = line(&["WARN pollwatch::tasks: a task of \"main\"", " panicked: index out of bounds"]);
    let [counted, logged] = [panicked, logged].map(call);
    assert!(counted == logged && logged.contains("nightly_job("), "{counted} {logged}");

    let alive = line(&["pollwatch_tasks_alive{runtime=\"main\",", "} 1500"]);
    let logged = line(&["WARN pollwatch::tasks: ", " are alive, more than 500"]);
    let [counted, logged] = [alive, logged].map(call);
    assert!(counted == logged && logged.contains("watchdog.spawn("), "{counted} {logged}");
}

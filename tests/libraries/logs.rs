//! Situations of logs that nobody reads.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pollwatch::Cause;
use test_support::{is_child, rerun};

use crate::fixture::{Expected, Situation, check};

#[inline(never)]
fn logs(stop: &AtomicBool, line: &str) {
    while !stop.load(Ordering::Relaxed) {
        log::error!("{line}"); // blocks here
    }
}

/// Logs until it is reported, and prints that on standard error.
fn log_until_reported() {
    env_logger::builder().target(env_logger::Target::Stdout).init();
    let (reason, advice) = ("the writer of the program's own log", "tracing_appender::non_blocking");
    check(Expected { cause: Cause::Syscall, syscalls: &["write"], reason, advice, function: "logs::logs" }, || {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // Long lines fill the pipe without much computing.
        let line = "a".repeat(16 * 1024);
        let release = move || {
            stop.store(true, Ordering::Relaxed);
            eprintln!("\nreported");
        };
        Situation::new(move || logs(&stopped, &line), release)
    });
}

#[test]
fn a_logger_that_nobody_reads_is_diagnosed() {
    if is_child() {
        return log_until_reported();
    }
    let mut child = rerun("logs::a_logger_that_nobody_reads_is_diagnosed");
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let mut output = child.stdout.take().unwrap();
    let mut printed = Vec::new();
    for line in errors.lines().map_while(Result::ok) {
        if line == "reported" {
            // More than an attempt logs after its report.
            let _ = output.read(&mut vec![0; 1 << 20]);
        }
        printed.push(line);
    }
    drop(output);
    assert!(child.wait().unwrap().success(), "{printed:#?}");
}

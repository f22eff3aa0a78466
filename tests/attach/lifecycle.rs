//! A process that ends, is stopped, runs another program, or is let go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pollwatch::attach::{Attach, Ended};
use pollwatch::{Certainty, Phase, ProcessError};
use test_support::wait_until;

use crate::fixture::{Target, is_in, wait_for};

const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

fn signal(target: &Target, signal: i32) {
    // SAFETY: the call only takes integers, and the child has not been waited for.
    assert_eq!(unsafe { libc::kill(target.child.id() as i32, signal) }, 0);
}

#[test]
fn a_process_that_ends() {
    let mut target = Target::start("sleep");
    let attached = target.attach().start().unwrap();
    wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    assert_eq!(attached.wait(Some(Duration::ZERO)), None);
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    assert_eq!(attached.wait(LIMIT), Some(Ended::Exited));
    attached.detach();
    assert!(attached.stalls().iter().all(|stall| stall.phase == Phase::Resolved), "{:#?}", attached.stalls());
    assert!(attached.snapshot().runtimes.iter().all(|runtime| runtime.blocked_workers == 0));
}

#[test]
fn a_process_that_runs_another_program() {
    let target = Target::start("exec");
    let attached = target.attach().start().unwrap();
    assert_eq!(attached.wait(LIMIT), Some(Ended::Replaced));
}

#[test]
fn a_stopped_process_has_no_stall() {
    let target = Target::start("idle");
    let attached = target.attach().start().unwrap();
    assert_eq!(attached.wait(Some(Duration::from_millis(300))), None);
    signal(&target, libc::SIGSTOP);
    assert_eq!(attached.wait(Some(Duration::from_millis(700))), None);
    signal(&target, libc::SIGCONT);
    assert_eq!(attached.wait(Some(Duration::from_millis(300))), None);
    assert!(attached.stalls().iter().all(|stall| stall.certainty != Certainty::Observed), "{:#?}", attached.stalls());
}

#[test]
fn time_in_which_the_process_is_stopped_is_in_no_stall() {
    let target = Target::start("sleep");
    let attached = target.attach().start().unwrap();
    wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    let stop = Instant::now();
    signal(&target, libc::SIGSTOP);
    assert_eq!(attached.wait(Some(Duration::from_secs(1))), None);
    let stopped = stop.elapsed();
    signal(&target, libc::SIGCONT);
    let known = attached.stalls().len();
    while attached.stalls().len() < known + 2 {
        assert!(stop.elapsed() < Duration::from_secs(60), "no stall after the stop");
        std::thread::sleep(Duration::from_millis(10));
    }
    let longest = attached.stalls().iter().map(|stall| stall.elapsed).max().unwrap();
    assert!(longest < stopped, "{longest:?} of {stopped:?}");
}

#[test]
fn a_detached_process_runs_on() {
    let mut target = Target::start("sleep");
    for _ in 0..3 {
        let attached = target.attach().start().unwrap();
        wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
        attached.detach();
        attached.detach();
        assert_eq!(attached.wait(LIMIT), Some(Ended::Detached));
        let (scans, stalls) = (attached.scans(), attached.stalls().len());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!((attached.scans(), attached.stalls().len()), (scans, stalls));
    }
    assert!(target.child.try_wait().unwrap().is_none());
}

#[test]
fn errors_say_what_is_missing() {
    let error = Attach::new(u32::MAX).start().unwrap_err();
    assert!(matches!(error.process_error(), Some(ProcessError::NotFound { .. })), "{error}");
    let target = Target::start("idle");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = target.attach().listen(taken.local_addr().unwrap()).start().unwrap_err();
    assert_eq!(error.kind(), pollwatch::ErrorKind::AddressInUse, "{error}");
}

/// Returns the body of a page.
fn get(addr: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}

#[test]
fn the_pages_of_a_watchdog_are_served() {
    let target = Target::start("sleep");
    let attached = target.attach().listen("127.0.0.1:0").start().unwrap();
    let addr = attached.local_addr().unwrap();
    wait_for(&attached, |stall| is_in(stall, "sleeps_in_a_task"));
    let metrics = get(addr, "/metrics");
    let count = |line: &str| line.starts_with("pollwatch_stalls_total{runtime=\"multi-thread\",cause=\"syscall\"}");
    let line = metrics.lines().find(|line| count(line)).unwrap_or_else(|| panic!("{metrics}"));
    assert!(!line.ends_with(" 0"), "{line}");
    assert!(!metrics.contains("pollwatch_polls_total"), "it is not known");
    for (path, part) in [
        ("/", "<html"),
        ("/live", "\"multi-thread\""),
        ("/stalls", "sleeps_in_a_task"),
        ("/threads", "sleeps_in_a_task"),
        ("/stalls/folded", "sleeps_in_a_task"),
        ("/stalls/flamegraph", "<svg"),
        ("/incidents", ""),
        ("/healthz", "ok"),
    ] {
        // Between two blocks the threads are elsewhere.
        wait_until(path, || get(addr, path).contains(part));
    }
}

//! A process that is stopped for longer than every limit, and continues.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fixture::*;
use super::report::Report;
use test_support::sigstop::*;
use test_support::*;

/// Longer than the default of every limit, and than the time after which a watchdog that does not
/// answer counts as stopped.
const TIME_STOPPED: Duration = Duration::from_secs(7);

/// Runtimes of each kind in several states: idle, with timers, with some load, and with blocking
/// that is handed over.
fn service() {
    let (observer, may_end) = (Observer::start(), continue_flag());
    let _idle = observer.runtimes(all_kinds());
    let active = [("timers 2", multi_thread(2)), ("timers 1", current_thread()), ("blocking", multi_thread(2))];
    let active = observer.runtimes(active.into());
    observer.check_health();
    println!("\nready");
    println!("\naddress {}", observer.watchdog.local_addr().unwrap());
    std::thread::scope(|scope| {
        for watched in &active {
            let (blocks, may_end) = (watched.name.contains("blocking"), may_end.clone());
            scope.spawn(move || {
                watched.run(4, || {
                    let may_end = may_end.clone();
                    async move {
                        while !may_end.load(Ordering::Acquire) {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            spin_shortly();
                            if blocks {
                                tokio::task::block_in_place(|| std::thread::sleep(2 * LONG_THRESHOLD));
                            }
                        }
                    }
                });
            });
        }
        wait_until("the parent continues it", || may_end.load(Ordering::Acquire));
    });
    observer.finish();
}

/// A probe asks for the health while the process is stopped. It is answered first, then asked again
/// and again while the process continues.
#[test]
fn a_process_that_is_suspended_is_silent() {
    if is_child() {
        return service();
    }
    undisturbed(|| {
        let (child, mut lines) = StoppableChild::start("suspended::a_process_that_is_suspended_is_silent");
        let address = lines.by_ref().find_map(|line| line.strip_prefix("address ")?.parse().ok());
        let address = address.expect("the child prints its address");
        std::thread::sleep(LONG_THRESHOLD);
        child.stop();
        let mut waiting = connect(address);
        waiting.write_all(b"GET /healthz HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n").unwrap();
        std::thread::sleep(TIME_STOPPED);
        child.signal(libc::SIGCONT);
        let mut reply = String::new();
        waiting.read_to_string(&mut reply).unwrap();
        let mut unhealthy = Vec::new();
        if !reply.starts_with("HTTP/1.1 200 ") {
            unhealthy.push(reply);
        }
        let continued = Instant::now();
        while continued.elapsed() < TIME {
            let reply = get(address, "/healthz");
            if reply.status != 200 {
                unhealthy.push(reply.body);
            }
            std::thread::sleep(BETWEEN_REQUESTS);
        }
        let mut report = Report::parse(&child.finish(lines));
        unhealthy.iter().for_each(|body| report.add_unhealthy(body));
        report.assert_silent_but_for_pauses()
    });
}

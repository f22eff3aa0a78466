//! Tests of the workers: their runtimes, and what is known of them.

use std::collections::BTreeSet;

use actix_web::web::{self, ServiceConfig};
use test_support::*;

use crate::fixture::{Fixture, Host};

/// The runtimes that a watchdog watches now.
fn alive(fixture: &Fixture) -> BTreeSet<String> {
    let runtimes = fixture.watchdog.coverage().runtimes.into_iter();
    runtimes.filter(|runtime| runtime.alive).map(|runtime| runtime.name.to_string()).collect()
}

fn ping(config: &mut ServiceConfig) {
    config.route("/ping", web::get().to(async || "pong"));
}

#[test]
fn workers_are_known_before_their_first_request() {
    for host in [Host::Actix, Host::Tokio] {
        let fixture = Fixture::start();
        let _server = fixture.serve_on(host, 2, ping);
        wait_equal("the workers", &BTreeSet::from(["actix-1".into(), "actix-2".into()]), || alive(&fixture));
        let coverage = fixture.watchdog.coverage();
        assert!(coverage.runtimes.iter().all(|runtime| !runtime.every_task && !runtime.workers), "{coverage}");
        let text = "runtime \"actix-1\": watched futures only; of all else, what blocks its thread in a system call";
        assert!(coverage.to_string().contains(text), "{coverage}");
    }
}

#[test]
fn two_blocked_workers_are_two_stalls() {
    for host in [Host::Actix, Host::Tokio] {
        let (fixture, gate) = (Fixture::start(), Gate::new());
        let key = gate.key();
        let server = fixture.serve_on(host, 2, move |config| {
            let key = key.clone();
            let waits = move || {
                let key = key.clone();
                async move { key.pass().to_string() }
            };
            config.route("/wait/{id}", web::get().to(waits));
        });
        let addr = server.addr;
        let ask = move |id| std::thread::spawn(move || get(addr, &format!("/wait/{id}")).body);
        // actix gives connections to its workers in turns, so that some wait behind a blocked one.
        let clients: Vec<_> = (0..6).map(ask).collect();
        for runtime in ["actix-1", "actix-2"] {
            let stall = fixture.collected.wait_ongoing(runtime).expect("each worker is blocked");
            assert_eq!(stall.worker, Some(0), "{stall}");
            let blocked = || fixture.metrics().find("pollwatch_blocked_workers", &[("runtime", runtime)]);
            wait_until("a blocked worker", || blocked() == Some(1.0));
        }
        gate.open();
        assert!(clients.into_iter().all(|client| client.join().unwrap() == "true"));
        fixture.wait_requests("/wait/{id}", &[("GET", "2xx", 6)]);
    }
}

/// Each server has runtimes of its own. The names of those that have ended are given again.
#[test]
fn servers_come_and_go() {
    let fixture = Fixture::start();
    for round in 1..=5 {
        let (one, two) = (fixture.serve(1, ping), fixture.serve(2, ping));
        assert_eq!([get(one.addr, "/ping").body, get(two.addr, "/ping").body], ["pong", "pong"]);
        fixture.wait_requests("/ping", &[("GET", "2xx", 2 * round)]);
        drop((one, two));
        wait_equal("the living workers", &BTreeSet::new(), || alive(&fixture));
    }
    let known = fixture.watchdog.coverage().runtimes.len();
    assert_eq!(known, 3);
}

/// A watchdog has names for 63 runtimes, and a large host has more workers.
#[test]
fn workers_without_a_name_are_counted() {
    let fixture = Fixture::start();
    let server = fixture.serve(65, ping);
    wait_equal("the workers without a name", &2, || fixture.watchdog.coverage().unnamed_runtimes);
    // All workers get some of the requests, and a worker is counted once.
    for _ in 0..130 {
        assert_eq!(get(server.addr, "/ping").body, "pong");
    }
    fixture.wait_requests("/ping", &[("GET", "2xx", 130)]);
    let coverage = fixture.watchdog.coverage();
    assert_eq!((coverage.runtimes.len(), coverage.unnamed_runtimes), (63, 2), "{coverage}");
}

/// The watchdog asks for the delay while it finds polls of the worker in its scans.
#[test]
fn the_delay_of_each_worker_is_measured() {
    let fixture = Fixture::start();
    let server = fixture.serve(2, |config| {
        let work = async || block(THRESHOLD / 4).as_micros().to_string();
        config.route("/work", web::get().to(work));
    });
    for runtime in ["actix-1", "actix-2"] {
        wait_until("a measured delay", || {
            get(server.addr, "/work");
            fixture.metrics().find("pollwatch_schedule_delay_seconds_count", &[("runtime", runtime)]) > Some(0.0)
        });
    }
}

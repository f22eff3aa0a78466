//! When shedding starts and stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use bytes::Bytes;
use http::Response;
use pollwatch::Watchdog;
use pollwatch_shed::Shed;

use crate::client::{ask_once, drive, get};
use crate::fixture::Fixture;
use test_support::*;

#[test]
fn overload_rejects_requests_and_stops() {
    const CONNECTIONS: usize = 32;
    const REQUESTS: usize = 40;
    let fixture = Fixture::new(&Shed::new().allow("/kept"));
    let app = Router::new()
        .route("/slow", on_get(async || format!("{:?}", block(Duration::from_millis(20)))))
        .route("/kept", on_get(async || "kept"))
        .route("/livez", on_get(async || "alive"));
    let addr = fixture.serve(app);
    let (rejected, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (rejected.clone(), answered.clone());
    let path = |connection| match connection {
        0 => "/kept",
        1 => "/livez",
        _ => "/slow",
    };
    drive(
        addr,
        (CONNECTIONS, REQUESTS),
        move |connection, _| get(path(connection)),
        move |connection, _, answer| {
            let answer = answer.expect("an answer");
            match (path(connection), answer.status().as_u16()) {
                ("/slow", 503) => {
                    assert_eq!(answer.headers()["retry-after"], "1");
                    counts.0.fetch_add(1, Ordering::Relaxed);
                }
                ("/slow", 200) => drop(counts.1.fetch_add(1, Ordering::Relaxed)),
                (_, status) => assert_eq!(status, 200, "{}", path(connection)),
            }
        },
    );
    let [rejected, answered] = [rejected, answered].map(|count| count.load(Ordering::Relaxed));
    assert!(rejected > 0 && answered > 0, "{rejected} of {} rejected", rejected + answered);
    assert_eq!(["/slow", "/kept", "/livez"].map(|route| fixture.rejected(route)), [rejected, 0, 0]);
    // One at a time: a worker is free.
    wait_until("all are admitted again", || (0..5).all(|_| ask_once(addr, get("/slow")).unwrap().status() == 200));
}

/// Sends requests of a blocking route on many connections until some are rejected.
#[track_caller]
fn drive_until_rejected(addr: SocketAddr, route: &'static str) {
    let rejected = Arc::new(AtomicU64::new(0));
    wait_until("requests are rejected", || {
        let count = rejected.clone();
        let check = move |_, _, answer: hyper::Result<Response<Bytes>>| {
            if answer.expect("an answer").status() == 503 {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        drive(addr, (24, 10), move |_, _| get(route), check);
        rejected.load(Ordering::Relaxed) > 0
    });
}

/// Without the watchdog's layer, no poll of these requests is measured in stable mode.
#[test]
fn overload_is_found_without_the_watchdogs_layer() {
    let fixture = Fixture::new(&Shed::new());
    let app = Router::new().route("/slow", on_get(async || format!("{:?}", block(Duration::from_millis(20)))));
    let addr = fixture.serve_unwatched(app);
    drive_until_rejected(addr, "/slow");
    assert!(fixture.rejected("/slow") > 0);
    wait_until("all are admitted again", || (0..5).all(|_| ask_once(addr, get("/slow")).unwrap().status() == 200));
}

/// A current-thread runtime has one thread, which is in no poll between two polls. The watchdog
/// must not conclude then that nobody polls its probe.
#[test]
fn a_current_thread_runtime_rejects_requests_as_well() {
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
    let runtime = watchdog.build_runtime("single", current_thread()).unwrap();
    let app = Router::new().route("/slow", on_get(async || format!("{:?}", block(Duration::from_millis(20)))));
    let app = app.layer(Shed::new().layer(&watchdog)).layer(watchdog.layer());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = axum::serve(listener, app) => {}
                _ = stopped => {}
            }
        });
    });
    drive_until_rejected(addr, "/slow");
    wait_until("all are admitted again", || (0..5).all(|_| ask_once(addr, get("/slow")).unwrap().status() == 200));
    drop(stop);
    server.join().unwrap();
}

/// Returns whether no request was rejected. On a machine without free CPUs some may be: the
/// watchdog or a task was late as well then.
#[track_caller]
fn no_request_is_rejected(fixture: &Fixture) -> bool {
    let (rejected, snapshot) = (fixture.all_rejected(), fixture.watchdog.snapshot());
    let delay = &runtime_of(&snapshot, "main").schedule_delay;
    let in_time = delay.buckets.iter().find(|b| b.bound >= Duration::from_millis(25)).expect("a bucket").count;
    let is_disturbed = snapshot.watchdog.oversleeps > 0 || in_time < delay.count;
    assert!(rejected == 0 || is_disturbed, "{rejected} rejected: {delay:?}");
    rejected == 0
}

/// Repeats an attempt that was disturbed, up to five times. The unit tests of the monitor prove
/// with a simulated clock that no request is rejected without a delay.
fn until_undisturbed(mut attempt: impl FnMut() -> bool) {
    if !(0..5).any(|_| attempt()) {
        eprintln!("skipped: this machine is too busy");
    }
}

#[test]
fn without_overload_no_request_is_rejected() {
    until_undisturbed(|| {
        let fixture = Fixture::new(&Shed::new());
        let addr = fixture.serve(Router::new().route("/", on_get(async || "quick")));
        drive(addr, (4, 1_000), |_, _| get("/"), |_, _, answer| drop(answer.expect("an answer")));
        no_request_is_rejected(&fixture)
    });
}

#[test]
fn one_long_block_of_all_workers_is_no_overload() {
    undisturbed(|| {
        let fixture = Fixture::new(&Shed::new());
        let app = Router::new()
            .route("/", on_get(async || "quick"))
            .route("/block", on_get(async || format!("{:?}", block(Duration::from_millis(400)))));
        let addr = fixture.serve(app);
        let path = |i| if i == 20 { "/block" } else { "/" };
        drive(addr, (2, 200), move |_, i| get(path(i)), |_, _, answer| drop(answer.expect("an answer")));
        // The blocked workers delay the probe, so only the watchdog's own delay shows a
        // disturbance.
        let (rejected, snapshot) = (fixture.all_rejected(), fixture.watchdog.snapshot());
        if rejected == 0 || snapshot.watchdog.oversleeps > 0 {
            return Ok(());
        }
        Err(format!("{rejected} rejected: {:?}", runtime_of(&snapshot, "main").schedule_delay))
    });
}

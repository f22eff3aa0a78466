//! The response to a rejected request, its count, and the requests that are never rejected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use http::StatusCode;

use crate::client::{ask_once, get};
use crate::fixture::{Busy, Fixture, all};
use test_support::*;

#[test]
fn rejections_are_503_and_counted() {
    let fixture = Fixture::new(&all().retry_after(Duration::from_secs(7)).allow("/paid/{id}"));
    let _busy = Busy::new(&fixture);
    let app = Router::new()
        .route("/free/{id}", on_get(async || "done"))
        .route("/paid/{id}", on_get(async || "done"))
        .route("/healthz", on_get(async || "well"));
    let addr = fixture.serve(app);
    let asked = AtomicU64::new(0);
    let answer = wait_for("a request is rejected", || {
        asked.fetch_add(1, Ordering::Relaxed);
        let answer = ask_once(addr, get("/free/1")).unwrap();
        (answer.status() != StatusCode::OK).then_some(answer)
    });
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"7".parse().unwrap()));
    assert!(answer.body().is_empty());
    for _ in 0..20 {
        assert_eq!(ask_once(addr, get("/healthz")).unwrap().status(), StatusCode::OK);
        assert_eq!(ask_once(addr, get("/paid/1")).unwrap().body(), "done");
    }
    let ok = asked.into_inner() - 1;
    let wanted: &[_] = if ok > 0 { &[("GET", "2xx", ok), ("GET", "5xx", 1)] } else { &[("GET", "5xx", 1)] };
    fixture.wait_requests("/free/{id}", wanted);
    fixture.wait_requests("/paid/{id}", &[("GET", "2xx", 20)]);
    let rejected = ["/free/{id}", "/paid/{id}", "/healthz"].map(|route| fixture.rejected(route));
    assert_eq!(rejected, [1, 0, 0]);
}

#[test]
fn nothing_is_rejected_when_the_watchdog_has_stopped() {
    let fixture = Fixture::new(&all());
    let busy = Busy::new(&fixture);
    let addr = fixture.serve(Router::new().route("/", on_get(async || "done")));
    wait_until("requests are rejected", || ask_once(addr, get("/")).unwrap().status() == 503);
    fixture.watchdog.shutdown();
    for _ in 0..20 {
        assert_eq!(ask_once(addr, get("/")).unwrap().status(), 200);
    }
    drop(busy);
}

//! Tests of requests that end in other ways than by a response, and of work that is no stall.

use std::fmt;
use std::io::Write;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{Error, HttpResponse, ResponseError, web};
use pollwatch::{Stall, Watchdog};
use test_support::*;

use crate::fixture::Fixture;

/// Blocks, and has the route of its request: no frame of an earlier request is left on the worker.
#[track_caller]
fn assert_still_measured(fixture: &Fixture, addr: std::net::SocketAddr) {
    undisturbed(|| {
        let before = fixture.stalls().len();
        assert_eq!(get(addr, "/block").body, "blocked");
        let stalls = fixture.stalls().split_off(before);
        let last = stalls.last().ok_or("the machine disturbed the stall")?;
        assert_eq!(last.route.as_deref(), Some("/block"), "{last}");
        Ok(())
    });
}

async fn blocked() -> &'static str {
    block(THRESHOLD * 2);
    "blocked"
}

#[test]
fn a_panic_is_counted_and_leaves_nothing_behind() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, |config| {
        let panics = async |_: web::Path<u32>| -> &'static str {
            yield_once().await;
            // As `panic!` does, without a line on stderr.
            resume_unwind(Box::new("on purpose"))
        };
        config.route("/panic/{id}", web::get().to(panics)).route("/block", web::get().to(blocked));
    });
    for id in 0..3 {
        let mut stream = connect(server.addr);
        write!(stream, "GET /panic/{id} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        // actix closes the connection, and no response was sent.
        let _ = std::io::Read::read_to_string(&mut stream, &mut text);
        assert_eq!(text, "");
    }
    fixture.wait_requests("/panic/{id}", &[("GET", "panicked", 3)]);
    assert_still_measured(&fixture, server.addr);
}

/// An error that makes its response itself, with a status that only this response has.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl ResponseError for Refused {
    fn error_response(&self) -> HttpResponse {
        HttpResponse::Conflict().finish()
    }
}

/// A middleware that returns an error instead of a response.
async fn refuse(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if request.query_string() == "refused" { Err(Refused.into()) } else { next.call(request).await }
}

#[test]
fn an_error_counts_as_the_client_sees_it() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, |config| {
        config.service(web::scope("").route("/ping", web::get().to(async || "pong")).wrap(from_fn(refuse)));
    });
    assert_eq!(get(server.addr, "/ping?refused").status, 409);
    assert_eq!(get(server.addr, "/ping").status, 200);
    fixture.wait_requests("/ping", &[("GET", "2xx", 1), ("GET", "4xx", 1)]);
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let fixture = Fixture::start();
    let polls = Arc::new(AtomicU64::new(0));
    let seen = polls.clone();
    let server = fixture.serve(1, move |config| {
        let polls = polls.clone();
        let waits = move || {
            let polls = polls.clone();
            async move { counted(polls, std::future::pending::<&'static str>()).await }
        };
        config.route("/wait", web::get().to(waits)).route("/block", web::get().to(blocked));
    });
    for n in 1..=3 {
        let mut stream = connect(server.addr);
        stream.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        wait_until("the handler runs", || seen.load(Ordering::Relaxed) >= n);
    }
    fixture.wait_requests("/wait", &[("GET", "cancelled", 3)]);
    assert_still_measured(&fixture, server.addr);
}

#[test]
fn blocking_work_is_not_reported() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, |config| {
        let work = async || web::block(|| block(THRESHOLD * 10)).await.unwrap().as_millis().to_string();
        config.route("/work", web::get().to(work)).route("/block", web::get().to(blocked));
    });
    for _ in 0..3 {
        assert!(get(server.addr, "/work").body.parse::<u128>().unwrap() >= (THRESHOLD * 10).as_millis());
    }
    fixture.wait_requests("/work", &[("GET", "2xx", 3)]);
    assert_eq!(fixture.stalls().iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    assert_still_measured(&fixture, server.addr);
}

#[test]
fn a_task_of_spawn_is_reported_under_the_route_of_its_request() {
    let fixture = Fixture::start();
    let data = web::Data::new(fixture.watchdog.clone());
    let server = fixture.serve(1, move |config| {
        let spawns = async |watchdog: web::Data<Watchdog>| {
            watchdog.spawn(async { block(THRESHOLD * 3) }).await.unwrap().as_millis().to_string()
        };
        config.app_data(data.clone()).route("/spawn/{id}", web::get().to(spawns));
    });
    assert_eq!(get(server.addr, "/spawn/7").status, 200);
    let is_spawned = |stall: &Stall| stall.parent_route.as_deref() == Some("/spawn/{id}");
    let stall = fixture.collected.wait(is_spawned).expect("a stall of the task");
    assert!(stall.site.to_string().contains("tests/http/outcomes.rs") && stall.route.is_none(), "{stall}");
}

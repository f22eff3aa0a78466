//! Tests with 64 concurrent connections to handlers of which some block: no stall has the route of
//! another request.

use std::convert::Infallible;
use std::io::Write;
use std::panic::resume_unwind;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use pollwatch::Watchdog;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::client::{self, Answer, Request};
use crate::fixture::serve;
use test_support::*;

const CONNECTIONS: usize = 64;
/// The number of requests on each connection.
const REQUESTS: usize = 40;

/// Routes and a path for each; the first half blocks.
const ROUTES: [(&str, &str, &str); 8] = [
    ("/block/{id}", "GET", "/block/1"),
    ("/block/stream", "GET", "/block/stream"),
    ("/block/upload", "POST", "/block/upload"),
    ("/block/panic", "GET", "/block/panic"),
    ("/fast/{id}", "GET", "/fast/1"),
    ("/fast/stream", "GET", "/fast/stream"),
    ("/fast/upload", "POST", "/fast/upload"),
    ("/fast/panic", "GET", "/fast/panic"),
];

const CHUNKS: usize = 3;

/// A body with a visit in its middle.
fn chunks(truth: GroundTruth, route: &'static str) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::iter(0..CHUNKS).map(move |i| {
        if i == CHUNKS / 2 {
            visit(&truth, route);
        }
        Ok(Bytes::from_static(b"chunk"))
    })
}

fn visit(truth: &GroundTruth, route: &str) {
    truth.visit(route, route.starts_with("/block"));
}

/// Unwinds as `panic!` does, without a line on stderr.
fn unwind() -> ! {
    resume_unwind(Box::new("on purpose"))
}

fn app(truth: &GroundTruth) -> Router {
    let mut app = Router::new();
    for (route, _, _) in ROUTES {
        let truth = truth.clone();
        app = match route.rsplit('/').next() {
            Some("{id}") => app.route(
                route,
                get(async move || {
                    yield_once().await;
                    visit(&truth, route);
                    "whole"
                }),
            ),
            Some("stream") => app.route(route, get(async move || Body::from_stream(chunks(truth, route)))),
            Some("upload") => app.route(
                route,
                post(async move |body: Bytes| {
                    visit(&truth, route);
                    body
                }),
            ),
            _ => app.route(
                route,
                get(async move || -> &'static str {
                    visit(&truth, route);
                    unwind()
                }),
            ),
        };
    }
    app
}

/// Every other connection requests one route only, the rest request all in turn.
fn pick(connection: usize, i: usize) -> (&'static str, Request) {
    let which = if connection.is_multiple_of(2) { connection / 2 } else { connection + i };
    let (route, method, path) = ROUTES[which % ROUTES.len()];
    let body = if method == "POST" { Bytes::from(vec![b'x'; 20_000]) } else { Bytes::new() };
    (route, client::request(method, path).map(|_| Full::new(body)))
}

fn check(connection: usize, i: usize, answer: Answer) {
    let (route, _) = pick(connection, i);
    let Ok(answer) = answer else {
        return assert!(route.ends_with("/panic"), "{route}: {answer:?}");
    };
    match route.rsplit('/').next() {
        Some("panic") => assert_eq!(answer.status(), 500),
        Some("upload") => assert_eq!(answer.body().len(), 20_000),
        Some("stream") => assert_eq!(answer.body(), &b"chunk".repeat(CHUNKS)[..]),
        _ => assert_eq!(answer.body(), "whole"),
    }
}

fn fixture() -> LayerFixture {
    LayerFixture::start_with(Watchdog::builder().threshold(LOAD_THRESHOLD).capture_stacks(false))
}

/// Runs the load and checks all stalls and counts against the ground truth. `panicked` is the
/// status under which panics are counted.
#[track_caller]
fn drive(fixture: &LayerFixture, truth: &GroundTruth, addr: std::net::SocketAddr, panicked: &'static str) {
    client::drive(addr, (CONNECTIONS, REQUESTS), |connection, i| pick(connection, i).1, check);
    truth.check(fixture);
    let mut wanted = [0u64; ROUTES.len()];
    for (connection, i) in (0..CONNECTIONS).flat_map(|c| (0..REQUESTS).map(move |i| (c, i))) {
        let route = pick(connection, i).0;
        wanted[ROUTES.iter().position(|(name, _, _)| *name == route).unwrap()] += 1;
    }
    for ((route, method, _), wanted) in ROUTES.into_iter().zip(wanted) {
        let status = if route.ends_with("/panic") { panicked } else { "2xx" };
        fixture.wait_requests(route, &[(method, status, wanted)]);
    }
    fixture.assert_slots_are_empty();
}

#[test]
fn every_stall_of_axum_has_its_route() {
    let (fixture, truth) = (fixture(), GroundTruth::default());
    let addr = serve(&fixture, app(&truth).layer(fixture.watchdog.layer()));
    drive(&fixture, &truth, addr, "panicked");
}

#[test]
fn every_stall_of_axum_has_its_route_where_panics_are_caught() {
    // Within the layer, and around it.
    for (inside, status) in [(true, "5xx"), (false, "panicked")] {
        let (fixture, truth) = (fixture(), GroundTruth::default());
        let (app, layer, catch) = (app(&truth), fixture.watchdog.layer(), CatchPanicLayer::new());
        let app = if inside { app.layer(catch).layer(layer) } else { app.layer(layer).layer(catch) };
        drive(&fixture, &truth, serve(&fixture, app), status);
    }
}

type BoxBody = UnsyncBoxBody<Bytes, Infallible>;

/// A service without a router.
async fn plain(
    truth: GroundTruth,
    request: http::Request<hyper::body::Incoming>,
) -> hyper::Result<http::Response<BoxBody>> {
    let path = request.uri().path();
    let Some((route, _, _)) = ROUTES.into_iter().find(|(_, _, known)| *known == path) else {
        let mut response = http::Response::new(Full::default().boxed_unsync());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let body = match route.rsplit('/').next() {
        Some("{id}") => {
            yield_once().await;
            visit(&truth, route);
            Full::from("whole").boxed_unsync()
        }
        Some("stream") => {
            StreamBody::new(chunks(truth, route).map(|chunk| chunk.map(http_body::Frame::data))).boxed_unsync()
        }
        Some("upload") => {
            let body = request.into_body().collect().await?.to_bytes();
            visit(&truth, route);
            Full::new(body).boxed_unsync()
        }
        _ => {
            visit(&truth, route);
            unwind()
        }
    };
    Ok(http::Response::new(body))
}

#[test]
fn every_stall_of_hyper_has_its_route() {
    let (fixture, truth) = (fixture(), GroundTruth::default());
    let layer = fixture.watchdog.layer().route_by(|request| {
        let known = ROUTES.into_iter().find(|(_, _, path)| *path == request.uri.path());
        known.map(|(route, _, _)| route.into())
    });
    let of_service = truth.clone();
    let service = ServiceBuilder::new().layer(layer).service_fn(move |request| plain(of_service.clone(), request));
    let listener = fixture.listen();
    let addr = listener.local_addr().unwrap();
    fixture.runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    drive(&fixture, &truth, addr, "panicked");
}

/// Clients disconnect while their request blocks, and while it waits afterwards.
#[test]
fn disconnecting_clients_leave_no_frame_behind() {
    const GONE: usize = 200;
    let (fixture, truth) = (fixture(), GroundTruth::default());
    let of_handler = truth.clone();
    let gone = async move || {
        of_handler.visit("/gone/{id}", true);
        std::future::pending::<()>().await;
    };
    let app = app(&truth).route("/gone/{id}", get(gone)).layer(fixture.watchdog.layer());
    let addr = serve(&fixture, app);
    let leavers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..GONE / 4 {
                    let mut stream = connect(addr);
                    stream.write_all(b"GET /gone/1 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
                }
            })
        })
        .collect();
    client::drive(addr, (8, REQUESTS), |connection, i| pick(connection, i).1, check);
    leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
    // hyper has read each request, and learns of the disconnect at the next poll at the latest.
    wait_until("all that came are gone", || {
        let route = fixture.route("/gone/{id}");
        route.is_some_and(|route| {
            route.requests.iter().map(|requests| requests.count).sum::<u64>() == truth.visits("/gone/{id}")
        })
    });
    let requests = fixture.route("/gone/{id}").unwrap().requests;
    assert!(requests.iter().all(|r| (r.method, r.status.as_str()) == ("GET", "cancelled")), "{requests:?}");
    truth.check(&fixture);
    fixture.assert_slots_are_empty();
}

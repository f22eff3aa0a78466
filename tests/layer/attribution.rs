//! Tests that a block in a request is reported under the route of the request.

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path};
use axum::routing::{get, post};
use futures_util::StreamExt;
use pollwatch::{Cause, Phase, Stall};
use tower::ServiceBuilder;

use crate::client::{self, Request};
use crate::fixture::serve;
use test_support::*;

/// A new user's first steps: the layer on an axum app, and a request to its slow route.
#[test]
fn the_first_report_names_the_route_while_it_blocks() {
    undisturbed(|| {
        let fixture = LayerFixture::start();
        let gate = Gate::new();
        let key = gate.key();
        let slow = move |Path(id): Path<u32>| async move { format!("{id} {}", key.pass()) };
        let app =
            Router::new().route("/slow/{id}", get(slow)).route("/", get(|| async {})).layer(fixture.watchdog.layer());
        let addr = serve(&fixture, app);
        let client = std::thread::spawn(move || client::ask_once(addr, client::get("/slow/7")).unwrap());

        let first = fixture.collected.wait_ongoing("main").expect("the stall is reported while it blocks");
        if first.route.is_none() || matches!(first.cause, Cause::Starved | Cause::Paused) {
            return Err(format!("the thread got no CPU until long after its poll started: {first}"));
        }
        assert_eq!(first.route.as_deref(), Some("/slow/{id}"), "{first}");
        assert!(first.to_string().contains("\n  route /slow/{id} · task "), "{first}");
        // The route is counted just after the first report is sent.
        let count = || fixture.metrics().find("pollwatch_route_stalls_total", &[("route", "/slow/{id}")]);
        wait_until("a count while the request blocks", || count() == Some(1.0));
        let metrics = fixture.metrics();
        let so_far = metrics.get("pollwatch_route_stall_seconds_total", &[("route", "/slow/{id}")]);
        assert!(so_far >= THRESHOLD.as_secs_f64(), "{so_far}");
        let later = fixture.metrics().get("pollwatch_route_stall_seconds_total", &[("route", "/slow/{id}")]);
        assert!(later > so_far, "the duration grows while it lasts");

        gate.open();
        assert_eq!(client.join().unwrap().body(), "7 true");
        let end =
            fixture.collected.wait(|s| s.id == first.id && s.phase == Phase::Resolved).expect("the stall is resolved");
        assert_eq!(end.route.as_deref(), Some("/slow/{id}"), "{end}");
        fixture.wait_requests("/slow/{id}", &[("GET", "2xx", 1)]);
        let metrics = fixture.metrics();
        let requests = [("route", "/slow/{id}"), ("method", "GET"), ("status", "2xx")];
        assert_eq!(metrics.get("pollwatch_route_requests_total", &requests), 1.0);
        for name in ["pollwatch_route_busy_seconds_total", "pollwatch_route_poll_max_seconds"] {
            assert!(metrics.get(name, &[("route", "/slow/{id}")]) >= end.elapsed.as_secs_f64() * 0.9, "{name}");
        }
        Ok(())
    });
}

/// Sends a request and returns the stall that it causes.
fn stall_of(
    fixture: &LayerFixture,
    app: impl Fn() -> Router,
    request: impl Fn() -> Request,
    is_it: impl Fn(&Stall) -> bool,
) {
    let addr = serve(fixture, app());
    undisturbed(|| {
        let known: Vec<u64> = fixture.stalls().iter().map(|s| s.id).collect();
        client::ask_once(addr, request()).expect("an answer");
        let new: Vec<Stall> = fixture.stalls().into_iter().filter(|s| !known.contains(&s.id)).collect();
        // A busy machine may add stalls of its own.
        match new.iter().any(&is_it) {
            true => Ok(()),
            false => Err(format!("{new:#?}")),
        }
    });
}

fn blocks() {
    block(THRESHOLD * 2);
}

fn of_route(route: &str) -> impl Fn(&Stall) -> bool {
    move |stall| stall.route.as_deref() == Some(route) && stall.parent_route.is_none()
}

struct Extracted;

impl<S: Sync> FromRequestParts<S> for Extracted {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut http::request::Parts, _: &S) -> Result<Extracted, Infallible> {
        blocks();
        Ok(Extracted)
    }
}

#[test]
fn handlers_extractors_and_bodies_are_attributed() {
    let fixture = LayerFixture::start();
    let app = || {
        let body = || {
            Body::from_stream(futures_util::stream::iter([0, 1, 2]).map(|i| {
                if i == 1 {
                    blocks();
                }
                Ok::<_, Infallible>("chunk")
            }))
        };
        Router::new()
            .route("/handler/{id}", get(async || blocks()))
            .route("/extractor/{id}", get(async |_: Extracted| {}))
            .route("/body/{id}", get(async move || body()))
            .route("/upload/{id}", post(async |_: Bytes| blocks()))
            .layer(fixture.watchdog.layer())
    };
    for (route, path) in
        [("/handler/{id}", "/handler/1"), ("/extractor/{id}", "/extractor/1"), ("/body/{id}", "/body/1")]
    {
        stall_of(&fixture, app, || client::get(path), of_route(route));
    }
    stall_of(&fixture, app, || client::request("POST", "/upload/1"), of_route("/upload/{id}"));
}

#[test]
fn middleware_is_attributed_below_the_layer_and_not_above_it() {
    let fixture = LayerFixture::start();
    let blocking = ServiceBuilder::new().map_request(|request: axum::extract::Request| {
        blocks();
        request
    });
    let app =
        || Router::new().route("/below/{id}", get(async || {})).layer(blocking.clone()).layer(fixture.watchdog.layer());
    stall_of(&fixture, app, || client::get("/below/1"), of_route("/below/{id}"));
    let app =
        || Router::new().route("/above/{id}", get(async || {})).layer(fixture.watchdog.layer()).layer(blocking.clone());
    if HOOKS {
        stall_of(&fixture, app, || client::get("/above/1"), |stall| stall.route.is_none());
    }
    assert!(!fixture.stalls().iter().any(of_route("/above/{id}")), "{:#?}", fixture.stalls());
}

#[test]
fn a_task_spawned_by_a_handler_is_attributed() {
    let fixture = LayerFixture::start();
    let watchdog = fixture.watchdog.clone();
    let spawns = async move || watchdog.spawn(async { blocks() }).await.unwrap();
    let app = || Router::new().route("/spawns/{id}", get(spawns.clone())).layer(fixture.watchdog.layer());
    stall_of(
        &fixture,
        app,
        || client::get("/spawns/1"),
        |stall| {
            assert!(
                stall.parent_route.is_none() || stall.to_string().contains(" spawned under route /spawns/{id} · "),
                "{stall}"
            );
            stall.parent_route.as_deref() == Some("/spawns/{id}") && stall.route.is_none()
        },
    );
    assert_eq!(fixture.route("/spawns/{id}").unwrap().stalls.count, 0, "the request itself did not block");
}

/// Two requests in one poll, each too short to be a stall alone.
#[test]
fn several_short_requests_in_one_poll_have_no_route() {
    use tower::ServiceExt;
    let threshold = THRESHOLD * 5;
    undisturbed(|| {
        let fixture = LayerFixture::start_with(pollwatch::Watchdog::builder().threshold(threshold));
        let half = ServiceBuilder::new().layer(fixture.watchdog.layer()).service_fn(async |_: http::Request<()>| {
            block(THRESHOLD * 4);
            Ok::<_, Infallible>(http::Response::new(String::new()))
        });
        let both = async move {
            for _ in 0..2 {
                half.clone().oneshot(http::Request::new(())).await.unwrap();
            }
        };
        let (task, _) = spawn_measured(&fixture.watchdog, fixture.runtime.handle(), both);
        fixture.runtime.block_on(task).unwrap();
        let stalls = fixture.stalls();
        match &stalls[..] {
            [stall] if stall.route.is_none() => {
                let ongoing = fixture.collected.of("main").into_iter().find(|s| s.phase == Phase::Ongoing);
                let Some(ongoing) = ongoing else {
                    return Err(format!("the stall ended before a scan found it: {stall}"));
                };
                assert!(ongoing.to_string().contains("several requests or other work, no route alone"), "{ongoing}");
                assert_eq!(fixture.route("unmatched").unwrap().stalls.count, 0);
                Ok(())
            }
            other => Err(format!("{other:#?}")),
        }
    });
}

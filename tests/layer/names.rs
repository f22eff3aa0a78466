//! Tests of the names of routes and the counts of requests.

use std::convert::Infallible;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, get};
use http::Request;
use tower::{Layer, ServiceBuilder, ServiceExt};

use crate::client;
use crate::fixture::serve;
use test_support::*;

/// The number of requests by route, method and status.
fn counted(fixture: &LayerFixture) -> Vec<(String, &'static str, &'static str, u64)> {
    let routes = fixture.watchdog.snapshot().routes;
    let requests = |route: &pollwatch::snapshot::RouteSnapshot| route.requests.clone();
    let mut all: Vec<_> = routes
        .iter()
        .flat_map(|r| requests(r).into_iter().map(|q| (r.route.to_string(), q.method, q.status.as_str(), q.count)))
        .collect();
    all.sort_unstable();
    all
}

#[track_caller]
fn assert_counted(fixture: &LayerFixture, wanted: &[(&str, &'static str, &'static str, u64)]) {
    let mut wanted: Vec<_> = wanted.iter().map(|(route, m, s, n)| (route.to_string(), *m, *s, *n)).collect();
    wanted.sort_unstable();
    wait_equal("requests by route, method and status", &wanted, || counted(fixture));
}

/// Requests each path of the application over a socket.
#[track_caller]
fn request_all(fixture: &LayerFixture, app: Router, paths: &[&str]) {
    let addr = serve(fixture, app);
    for path in paths {
        client::ask_once(addr, client::get(path)).expect("an answer");
    }
}

#[test]
fn nested_routers_and_fallbacks_are_named() {
    let fixture = LayerFixture::start();
    let inner = Router::new().route("/item/{id}", get(async || {})).fallback(async || StatusCode::NOT_FOUND);
    let app = Router::new()
        .nest("/shop/{city}", inner)
        .merge(Router::new().route("/merged", get(async || {})))
        .route("/files/{*path}", get(async || {}))
        .layer(fixture.watchdog.layer());
    request_all(
        &fixture,
        app,
        &["/shop/rome/item/1", "/shop/oslo/item/2", "/merged", "/files/a/b", "/nowhere/at/all", "/else"],
    );
    assert_counted(
        &fixture,
        &[
            ("/shop/{city}/item/{id}", "GET", "2xx", 2),
            ("/merged", "GET", "2xx", 1),
            ("/files/{*path}", "GET", "2xx", 1),
            ("unmatched", "GET", "4xx", 2),
        ],
    );
}

#[test]
fn a_route_layer_does_not_count_the_fallback() {
    let fixture = LayerFixture::start();
    let app = Router::new().route("/a/{id}", get(async || {})).route_layer(fixture.watchdog.layer());
    request_all(&fixture, app, &["/a/1", "/b"]);
    assert_counted(&fixture, &[("/a/{id}", "GET", "2xx", 1)]);
}

/// Outside of the router the matched path is unknown; a layer within another one counts nothing
/// twice.
#[test]
fn a_layer_outside_of_the_router_counts_nothing_twice() {
    let fixture = LayerFixture::start();
    let outside = fixture.watchdog.layer().layer(Router::new().route("/a/{id}", get(async || {})));
    within_timeout("a request", move || {
        current_thread().build().unwrap().block_on(async {
            outside.oneshot(Request::get("/a/1").body(axum::body::Body::empty()).unwrap()).await.unwrap();
        });
    });
    assert_counted(&fixture, &[("unmatched", "GET", "2xx", 1)]);

    let fixture = LayerFixture::start();
    let twice = Router::new().route("/a/{id}", get(async || {})).layer(fixture.watchdog.layer());
    request_all(&fixture, twice.layer(fixture.watchdog.layer()), &["/a/1", "/a/2"]);
    assert_counted(&fixture, &[("/a/{id}", "GET", "2xx", 2)]);
}

#[test]
fn requests_are_counted_by_method_and_status() {
    let fixture = LayerFixture::start();
    let app = Router::new()
        .route(
            "/{status}",
            any(async |axum::extract::Path(status): axum::extract::Path<u16>| StatusCode::from_u16(status).unwrap()),
        )
        .route("/only/get", get(async || {}))
        .layer(fixture.watchdog.layer());
    let addr = serve(&fixture, app);
    let asked =
        [("GET", "/200"), ("HEAD", "/204"), ("POST", "/302"), ("PUT", "/404"), ("DELETE", "/500"), ("PATCH", "/599")];
    let rare = [("OPTIONS", "/200"), ("TRACE", "/200"), ("BREW", "/418"), ("get", "/200"), ("POST", "/only/get")];
    for (method, path) in asked.into_iter().chain(rare) {
        client::ask_once(addr, client::request(method, path)).expect("an answer");
    }
    assert_counted(
        &fixture,
        &[
            ("/{status}", "GET", "2xx", 1),
            ("/{status}", "HEAD", "2xx", 1),
            ("/{status}", "POST", "3xx", 1),
            ("/{status}", "PUT", "4xx", 1),
            ("/{status}", "DELETE", "5xx", 1),
            ("/{status}", "PATCH", "5xx", 1),
            ("/{status}", "OPTIONS", "2xx", 1),
            ("/{status}", "TRACE", "2xx", 1),
            ("/{status}", "other", "2xx", 1),
            ("/{status}", "other", "4xx", 1),
            ("/only/get", "POST", "4xx", 1),
        ],
    );
}

#[test]
fn a_function_may_name_routes_and_may_panic() {
    let fixture = LayerFixture::start();
    let layer = fixture.watchdog.layer().route_by(|request| match request.uri.path() {
        "/panic" => std::panic::resume_unwind(Box::new("on purpose")),
        "/mine/1" => Some("mine".into()),
        "/empty" => Some("".into()),
        path if path.starts_with("/tenant/") => Some(format!("tenant {}", request.headers["host"].len()).into()),
        _ => None,
    });
    let app = Router::new().route("/{name}", get(async || {})).route("/mine/{id}", get(async || {})).layer(layer);
    request_all(
        &fixture,
        app.route("/tenant/{id}", get(async || {})),
        &["/panic", "/mine/1", "/mine/2", "/empty", "/tenant/1"],
    );
    assert_counted(
        &fixture,
        &[
            // The function has then returned no name.
            ("/{name}", "GET", "2xx", 1),
            ("mine", "GET", "2xx", 1),
            ("/mine/{id}", "GET", "2xx", 1),
            ("unmatched", "GET", "2xx", 1),
        ],
    );
    assert_eq!(fixture.watchdog.snapshot().watchdog.callback_panics, 1);
}

/// Names that clients choose: unknown ones take half of the routes, and no request is lost.
#[test]
fn a_flood_of_names_does_not_displace_real_ones() {
    const MAX_ROUTES: usize = 6;
    const FLOOD: usize = 1_000;
    let fixture = LayerFixture::start_with(pollwatch::Watchdog::builder().threshold(THRESHOLD).max_routes(MAX_ROUTES));
    let layer = fixture.watchdog.layer().route_by(|request| Some(request.uri.path().to_owned().into()));
    let service = ServiceBuilder::new().layer(layer).service_fn(async |request: Request<()>| {
        let is_real = request.uri().path().starts_with("/real/");
        let status = if is_real { StatusCode::OK } else { StatusCode::NOT_FOUND };
        Ok::<_, Infallible>(http::Response::builder().status(status).body(String::new()).unwrap())
    });
    within_timeout("the requests", move || {
        current_thread().build().unwrap().block_on(async {
            let ask = async |path: String| {
                service.clone().oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
            };
            for i in 0..FLOOD {
                ask(format!("/made/up/{i}")).await;
                // A name longer than the limit.
                ask(format!("/{}/{i}", "long".repeat(100))).await;
            }
            for _ in 0..10 {
                for real in 0..MAX_ROUTES / 2 {
                    ask(format!("/real/{real}")).await;
                }
            }
        });
    });
    let counted = counted(&fixture);
    for real in 0..MAX_ROUTES / 2 {
        assert!(counted.contains(&(format!("/real/{real}"), "GET", "2xx", 10)), "{counted:#?}");
    }
    assert!(counted.contains(&("other".into(), "GET", "4xx", (2 * FLOOD - MAX_ROUTES / 2) as u64)), "{counted:#?}");
    assert_eq!(counted.len(), MAX_ROUTES + 1, "{counted:#?}");
    let series = fixture.metrics().series.into_keys().filter(|series| series.contains("_route_requests_total"));
    assert_eq!(series.count(), MAX_ROUTES + 1);
}

/// A service that does not speak gRPC gets requests with gRPC's content type. Their paths name no
/// route, whatever the response.
#[test]
fn a_service_without_grpc_has_no_method_routes() {
    const MAX_ROUTES: usize = 4;
    let fixture = LayerFixture::start_with(pollwatch::Watchdog::builder().threshold(THRESHOLD).max_routes(MAX_ROUTES));
    let service = ServiceBuilder::new()
        .layer(fixture.watchdog.layer())
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(http::Response::new(String::new())));
    within_timeout("the requests", move || {
        current_thread().build().unwrap().block_on(async {
            let grpc = (0..100).map(|i| format!("/made.up/{i}"));
            for path in grpc.chain(["/one".into(), "/a/b/c".into(), "//".into(), "/".into()]) {
                let request = Request::post(path).header("content-type", "application/grpc+proto").body(()).unwrap();
                service.clone().oneshot(request).await.unwrap();
            }
        });
    });
    let counted = counted(&fixture);
    assert!(counted.contains(&("unmatched".into(), "POST", "2xx", 4)), "not of the form of a method: {counted:#?}");
    assert!(counted.contains(&("other".into(), "POST", "2xx", 100 - MAX_ROUTES as u64 / 2)), "{counted:#?}");
}

/// Only axum 0.8 has the matched path where the layer reads it.
#[test]
fn coverage_says_that_no_request_had_a_route() {
    let fixture = LayerFixture::start();
    let ask = |layer: pollwatch::WatchLayer| {
        let hello = tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(http::Response::new(String::new())));
        fixture.runtime.block_on(layer.layer(hello).oneshot(Request::new(()))).unwrap();
    };
    assert!(!fixture.watchdog.coverage().to_string().contains("routes: "), "there were no requests");
    // What is not found has no route, and what no layer serves is not the layer's.
    let none = tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(http::Response::builder().status(404).body(String::new()).unwrap())
    });
    fixture.runtime.block_on(fixture.watchdog.layer().layer(none).oneshot(Request::new(()))).unwrap();
    fixture.watchdog.request_watcher().start("GET", None).respond(200);
    let coverage = fixture.watchdog.coverage();
    assert!(coverage.unnamed_requests == 0 && !coverage.to_string().contains("routes: "), "{coverage}");

    (0..3).for_each(|_| ask(fixture.watchdog.layer()));
    let coverage = fixture.watchdog.coverage();
    assert_eq!(coverage.unnamed_requests, 3);
    assert!(coverage.to_string().contains("\nroutes: none of 3 requests had one so far; "), "{coverage}");

    ask(fixture.watchdog.layer().route_by(|_| Some("/named".into())));
    let coverage = fixture.watchdog.coverage();
    assert_eq!(coverage.unnamed_requests, 0);
    assert!(!coverage.to_string().contains("routes: "), "{coverage}");
}

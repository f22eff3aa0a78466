//! Tests of `Watchdog::router`: the pages within the user's own service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get as on_get;

use serde_json::Value;
use tower::ServiceExt;

use crate::fixture::serve;
use test_support::schema::assert_matches_schema;
use test_support::*;

const PATHS: [&str; 11] = [
    "/live",
    "/live.html",
    "/live/profile",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/debug/pprof/stalls",
    "/healthz",
    "/incidents",
];

#[test]
fn an_admin_router_has_the_same_pages_as_the_server() {
    let fixture = LayerFixture::start();
    let (task, _) = spawn_measured(&fixture.watchdog, fixture.runtime.handle(), async { block(THRESHOLD * 2) });
    fixture.runtime.block_on(task).unwrap();
    fixture.stalls();
    let own = fixture.watchdog.local_addr().unwrap();
    let merged = Router::new().route("/version", on_get(async || "7")).merge(fixture.watchdog.router());
    let nested = Router::new().nest("/admin", fixture.watchdog.router());
    let with_state = Router::new()
        .route("/", on_get(async |_: axum::extract::State<u8>| {}))
        .with_state(7)
        .merge(fixture.watchdog.router());
    for (app, prefix) in [(merged, ""), (nested, "/admin"), (with_state, "")] {
        let in_app = serve(&fixture, app);
        for path in PATHS {
            let (own, nested) = (get_bytes(own, path), get_bytes(in_app, &format!("{prefix}{path}")));
            assert_eq!(own.0, nested.0, "{path}");
            let is_alike = |name: &&(String, String)| !["date", "content-length"].contains(&name.0.as_str());
            let [own_headers, nested_headers] =
                [&own, &nested].map(|(_, headers, _)| headers.iter().filter(is_alike).collect::<Vec<_>>());
            assert_eq!(own_headers, nested_headers, "{path}");
            if ["/stalls", "/healthz", "/stalls/folded", "/live.html", "/live/profile"].contains(&path) {
                assert_eq!(own.2, nested.2, "{path}");
            }
        }
        let series = |addr, path: &str| {
            let series = Metrics::parse(&get(addr, path).body).series.into_keys();
            series.filter(|series| !series.starts_with("pollwatch_runtime_")).collect::<Vec<_>>()
        };
        // Series appear when something is counted for the first time; the watchdog's own are all
        // there.
        let (own, nested) = (series(own, "/metrics"), series(in_app, &format!("{prefix}/metrics")));
        for wanted in own.iter().filter(|series| !series.contains('{')) {
            assert!(nested.contains(wanted), "{wanted}");
        }
        let post = request(in_app, "POST", &format!("{prefix}/metrics"));
        assert_eq!((post.status, post.headers["allow"].as_str()), (405, "GET, HEAD"));
        assert_eq!(request(in_app, "HEAD", &format!("{prefix}/metrics")).body, "");
        assert_eq!(get(in_app, "/nowhere").status, 404);
    }
}

/// A response thread may not be idle yet when the next one is needed, which then starts. So there
/// are some, but by far not one for each request.
#[test]
fn a_flood_of_requests_for_thread_dumps_leaves_the_blocking_pool_to_the_application() {
    const REQUESTS: u64 = 200;
    let fixture = LayerFixture::start();
    let started = Arc::<AtomicU64>::default();
    let mut builder = multi_thread(1);
    let runtime = builder.on_thread_start(increment(&started)).build().unwrap();
    let router = fixture.watchdog.router();
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let request = Request::get("/threads").body(Body::empty()).unwrap();
            runtime.spawn(router.clone().oneshot(request))
        })
        .collect();
    runtime.block_on(async {
        for request in requests {
            assert_eq!(request.await.unwrap().unwrap().status(), 200);
        }
    });
    let started = started.load(Ordering::Relaxed);
    assert!(started < REQUESTS / 8, "{started} threads");
}

/// A blocking route, one whose handler spawns a blocking task, and the sums of both in the page's
/// data.
#[test]
fn the_live_data_has_each_route() {
    let fixture = LayerFixture::start();
    let addr = fixture.watchdog.local_addr().unwrap();
    let watchdog = fixture.watchdog.clone();
    let app = Router::new()
        .route("/blocks", on_get(async || _ = block(THRESHOLD * 3)))
        .route("/spawns", on_get(async move || watchdog.spawn(async { _ = block(THRESHOLD * 3) }).await.unwrap()))
        .layer(fixture.watchdog.layer());
    let app = serve(&fixture, app);
    for path in ["/blocks", "/spawns"] {
        assert_eq!(get(app, path).status, 200);
    }
    let read = |path: &str, schema: &str| {
        let data: Value = serde_json::from_str(&get(addr, path).body).unwrap();
        assert_matches_schema(&data, &serde_json::from_str(schema).unwrap());
        data
    };
    // A busy machine may have starved them: then nothing is attributed, and both are requested
    // again.
    let times = |live: &Value, route: &str| {
        let routes = live["routes"].as_array().unwrap();
        let route = routes.iter().find(|r| r["route"] == route).cloned().unwrap_or_default();
        let of = |field: &str| route[field].as_f64().unwrap_or(0.0);
        (of("stalled_seconds"), of("spawned_stalled_seconds"), of("stalls"), of("spawned_stalls"))
    };
    let least = (THRESHOLD * 3).as_secs_f64() * 0.99;
    wait_until("both are reported", || {
        let live = read("/live", include_str!("../../docs/live.schema.json"));
        let (blocks, spawns) = (times(&live, "/blocks"), times(&live, "/spawns"));
        let collected = blocks.0 >= least && blocks.2 >= 1.0 && spawns.1 >= least && spawns.3 >= 1.0;
        if !collected {
            ["/blocks", "/spawns"].into_iter().for_each(|path| drop(get(app, path)));
        }
        collected
    });
    let profile = read("/live/profile", include_str!("../../docs/live-profile.schema.json"));
    let seconds = |field: &str, route: &str| -> f64 {
        let entries = profile["entries"].as_array().unwrap().iter().filter(|entry| entry[field] == route);
        entries.map(|entry| entry["stalled_seconds"].as_f64().unwrap()).sum()
    };
    assert!(seconds("route", "/blocks") >= least && seconds("parent_route", "/spawns") >= least, "{profile:#}");
    let frames = profile["frames"].as_array().unwrap().len() as u64;
    let indexes = profile["entries"].as_array().unwrap().iter().flat_map(|entry| entry["stack"].as_array().unwrap());
    assert!(indexes.into_iter().all(|index| index.as_u64().unwrap() < frames));
}

/// The data lists the worst routes, and counts the others.
#[test]
fn the_live_data_of_routes_is_bounded() {
    let fixture = LayerFixture::start();
    let names: Vec<String> = (0..120).map(|i| format!("/route/{i}")).collect();
    let router = names.iter().fold(Router::new(), |router, name| {
        let blocks = name == "/route/77";
        router.route(
            name,
            on_get(async move || {
                if blocks {
                    _ = block(THRESHOLD * 3)
                }
            }),
        )
    });
    let addr = serve(&fixture, router.layer(fixture.watchdog.layer()));
    names.iter().for_each(|name| assert_eq!(get(addr, name).status, 200));
    let live = || serde_json::from_str::<Value>(&get(fixture.watchdog.local_addr().unwrap(), "/live").body).unwrap();
    wait_until("the one that blocks is the first", || {
        let live = live();
        let routes = live["routes"].as_array().unwrap();
        assert_eq!((routes.len(), live["routes_left_out"].as_u64()), (100, Some(20)));
        if routes[0]["route"] != "/route/77" {
            get(addr, "/route/77");
        }
        routes[0]["route"] == "/route/77"
    });
}

/// The router also answers after the last handle is dropped, and holds none.
#[test]
fn the_router_keeps_no_thread_alive() {
    let fixture = LayerFixture::start();
    let addr = serve(&fixture, Router::new().merge(fixture.watchdog.router()));
    let server = fixture.watchdog.local_addr().unwrap();
    let LayerFixture { watchdog, runtime, .. } = fixture;
    drop(watchdog);
    wait_until("the watchdog's own server is gone", || std::net::TcpStream::connect(server).is_err());
    let health = get(addr, "/healthz");
    assert_eq!(health.body, "the watchdog was shut down: it is not known whether anything blocks\n");
    drop(runtime);
}

type Page = (u16, Vec<(String, String)>, Vec<u8>);

/// Requests a page that need not be text.
fn get_bytes(addr: std::net::SocketAddr, path: &str) -> Page {
    let answer = crate::client::ask_once(addr, crate::client::get(path)).expect("an answer");
    let (head, body) = answer.into_parts();
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut headers: Vec<_> = head.headers.iter().map(header).collect();
    headers.sort_unstable();
    (head.status.as_u16(), headers, body.to_vec())
}

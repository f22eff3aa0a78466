//! `Watchdog::router`: the pages within the user's own service.

use axum::Router;
use axum::routing::get as on_get;

use crate::scene::Scene;
use crate::support::*;

const PATHS: [&str; 8] = [
    "/live",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/debug/pprof/stalls",
    "/healthz",
];

#[test]
fn an_admin_router_has_the_same_pages_as_the_server() {
    let scene = Scene::new();
    let (task, _) = spawn_seen(&scene.watchdog, scene.runtime.handle(), async { block(THRESHOLD * 2) });
    scene.runtime.block_on(task).unwrap();
    scene.stalls();
    let own = scene.watchdog.local_addr().unwrap();
    let merged = Router::new().route("/version", on_get(async || "7")).merge(scene.watchdog.router());
    let nested = Router::new().nest("/admin", scene.watchdog.router());
    let with_state = Router::new()
        .route("/", on_get(async |_: axum::extract::State<u8>| {}))
        .with_state(7)
        .merge(scene.watchdog.router());
    for (app, prefix) in [(merged, ""), (nested, "/admin"), (with_state, "")] {
        let theirs = scene.serve(app);
        for path in PATHS {
            let (own, their) = (get_bytes(own, path), get_bytes(theirs, &format!("{prefix}{path}")));
            assert_eq!(own.0, their.0, "{path}");
            let is_alike = |name: &&(String, String)| !["date", "content-length"].contains(&name.0.as_str());
            let [own_headers, their_headers] =
                [&own, &their].map(|(_, headers, _)| headers.iter().filter(is_alike).collect::<Vec<_>>());
            assert_eq!(own_headers, their_headers, "{path}");
            if ["/stalls", "/healthz", "/stalls/folded"].contains(&path) {
                assert_eq!(own.2, their.2, "{path}");
            }
        }
        let series = |addr, path: &str| {
            let series = Metrics::parse(&get(addr, path).body).series.into_keys();
            series.filter(|series| !series.starts_with("pollwatch_runtime_")).collect::<Vec<_>>()
        };
        // Series come when something is counted for the first time; the watchdog's own are all there.
        let (own, their) = (series(own, "/metrics"), series(theirs, &format!("{prefix}/metrics")));
        for wanted in own.iter().filter(|series| !series.contains('{')) {
            assert!(their.contains(wanted), "{wanted}");
        }
        let post = request(theirs, "POST", &format!("{prefix}/metrics"));
        assert_eq!((post.status, post.headers["allow"].as_str()), (405, "GET, HEAD"));
        assert_eq!(request(theirs, "HEAD", &format!("{prefix}/metrics")).body, "");
        assert_eq!(get(theirs, "/nowhere").status, 404);
    }
}

/// After the last handle is gone, too: it holds none.
#[test]
fn it_keeps_no_thread_alive() {
    let scene = Scene::new();
    let addr = scene.serve(Router::new().merge(scene.watchdog.router()));
    let server = scene.watchdog.local_addr().unwrap();
    let Scene { watchdog, runtime, .. } = scene;
    drop(watchdog);
    wait_until("the watchdog's own server is gone", || std::net::TcpStream::connect(server).is_err());
    assert_eq!(get(addr, "/healthz").body, "ok\n");
    drop(runtime);
}

type Page = (u16, Vec<(String, String)>, Vec<u8>);

/// One page, which may be no text.
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

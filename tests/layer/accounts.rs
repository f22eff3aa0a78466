//! Tests that the counts of routes are a part of the counts of their runtime.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt};

use crate::client;
use crate::fixture::serve;
use test_support::*;

/// Within a measured task the layer's futures and bodies are no polls of their own. Elsewhere each
/// of them is one poll. The service's call is never one.
#[test]
fn no_poll_of_a_request_is_counted_twice() {
    let fixture = LayerFixture::start();
    let parts = Arc::new(AtomicU64::new(0));
    let of_handler = parts.clone();
    let service = ServiceBuilder::new().layer(fixture.watchdog.layer()).service_fn(move |_: Request<()>| {
        counted(of_handler.clone(), async {
            yields(3).await;
            Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("whole"))))
        })
    });
    let ask = || {
        let service = service.clone();
        async move {
            for _ in 0..5 {
                let mut body = service.clone().oneshot(Request::new(())).await.unwrap().into_body();
                assert!(body.frame().await.is_some() && body.frame().await.is_none());
            }
        }
    };
    // The two polls of the bodies.
    let of_layer = |parts: &AtomicU64| parts.load(Ordering::Relaxed) + 5 * 2;

    let polls_of_task = Arc::new(AtomicU64::new(0));
    let (task, _) = spawn_measured(&fixture.watchdog, fixture.runtime.handle(), counted(polls_of_task.clone(), ask()));
    fixture.runtime.block_on(task).unwrap();
    let wanted = polls_of_task.load(Ordering::Relaxed);
    wait_until("each poll is counted", || polls(&fixture.watchdog, "main") >= wanted);
    assert_eq!(polls(&fixture.watchdog, "main"), wanted);
    assert_eq!(fixture.route("unmatched").unwrap().polls, of_layer(&parts));

    // Where nothing else measures a poll, the parts are measured.
    parts.store(0, Ordering::Relaxed);
    let bare = current_thread().build().unwrap();
    fixture.watchdog.attach("bare", bare.handle()).unwrap();
    bare.block_on(ask());
    assert_eq!(polls(&fixture.watchdog, "bare"), of_layer(&parts));
}

/// This also holds where a request calls another service, and where two layers see one request.
#[test]
fn routes_are_never_busier_than_their_runtime() {
    let fixture = LayerFixture::start();
    let slow = async || {
        block(Duration::from_millis(3));
        "slow"
    };
    let inner = Router::new().route("/inner", get(slow)).layer(fixture.watchdog.layer());
    let asks = async move || {
        block(Duration::from_millis(2));
        let request = Request::get("/inner").body(axum::body::Body::empty()).unwrap();
        inner.oneshot(request).await.unwrap().into_body()
    };
    let app = Router::new()
        .route("/outer", get(asks))
        .route("/plain/{id}", get(slow))
        .layer(fixture.watchdog.layer())
        .layer(fixture.watchdog.layer());
    let addr = serve(&fixture, app);
    let path = |connection: usize, i: usize| ["/outer", "/plain/1"][(connection + i) % 2];
    client::drive(
        addr,
        (8, 20),
        move |c, i| client::get(path(c, i)),
        |_, _, answer| {
            assert_eq!(answer.unwrap().body(), "slow");
        },
    );
    for (route, requests) in [("/outer", 80), ("/inner", 80), ("/plain/{id}", 80)] {
        fixture.wait_requests(route, &[("GET", "2xx", requests)]);
    }
    // The routes are read first: the runtime's time can only grow in the meantime.
    let routes = fixture.watchdog.snapshot().routes;
    wait_until("the last polls have ended", || runtime_of(&fixture.watchdog.snapshot(), "main").polls.count > 0);
    fixture.assert_slots_are_empty();
    let runtime = runtime_of(&fixture.watchdog.snapshot(), "main").polls.sum;
    let busy: Duration = routes.iter().map(|route| route.busy).sum();
    assert!(busy <= runtime, "{busy:?} of {runtime:?}: {routes:#?}");
    let of = |name: &str| routes.iter().find(|r| &*r.route == name).unwrap();
    assert!(of("/inner").busy >= Duration::from_millis(3) * 80);
    assert!(of("/outer").busy >= Duration::from_millis(2) * 80);
    assert!(of("/plain/{id}").poll_max >= Duration::from_millis(3));
    // Each request has its own time: the outer one slept 2 ms, while the inner one slept 3.
    let own = of("/outer").busy.as_secs_f64() / of("/outer").polls as f64;
    let max = of("/outer").poll_max.as_secs_f64();
    assert!(own <= max, "{own} {max}");
}

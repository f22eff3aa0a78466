//! What is counted of routes is a part of what is counted of their runtime.

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
use crate::fixture::Scene;
use test_support::*;

/// Within a task that is seen, the layer's parts are no polls of their own; elsewhere each is one, once. The service's call never is.
#[test]
fn no_poll_is_counted_twice() {
    let scene = Scene::new();
    let parts = Arc::new(AtomicU64::new(0));
    let of_handler = parts.clone();
    let service = ServiceBuilder::new().layer(scene.watchdog.layer()).service_fn(move |_: Request<()>| {
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
    // The bodies' two.
    let of_layer = |parts: &AtomicU64| parts.load(Ordering::Relaxed) + 5 * 2;

    let polls_of_task = Arc::new(AtomicU64::new(0));
    let (task, _) = spawn_measured(&scene.watchdog, scene.runtime.handle(), counted(polls_of_task.clone(), ask()));
    scene.runtime.block_on(task).unwrap();
    let wanted = polls_of_task.load(Ordering::Relaxed);
    wait_until("each poll is counted", || polls(&scene.watchdog, "main") >= wanted);
    assert_eq!(polls(&scene.watchdog, "main"), wanted);
    assert_eq!(scene.route("unmatched").unwrap().polls, of_layer(&parts));

    // Where nobody else sees a poll, the parts are what is seen.
    parts.store(0, Ordering::Relaxed);
    let bare = current_thread().build().unwrap();
    scene.watchdog.attach("bare", bare.handle()).unwrap();
    bare.block_on(ask());
    assert_eq!(polls(&scene.watchdog, "bare"), of_layer(&parts));
}

/// Also where a request asks another service, and where two layers see one request.
#[test]
fn routes_are_never_busier_than_their_runtime() {
    let scene = Scene::new();
    let slow = async || {
        block(Duration::from_millis(3));
        "slow"
    };
    let inner = Router::new().route("/inner", get(slow)).layer(scene.watchdog.layer());
    let asks = async move || {
        block(Duration::from_millis(2));
        let request = Request::get("/inner").body(axum::body::Body::empty()).unwrap();
        inner.oneshot(request).await.unwrap().into_body()
    };
    let app = Router::new()
        .route("/outer", get(asks))
        .route("/plain/{id}", get(slow))
        .layer(scene.watchdog.layer())
        .layer(scene.watchdog.layer());
    let addr = scene.serve(app);
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
        scene.wait_requests(route, &[("GET", "2xx", requests)]);
    }
    // Routes first: the runtime's time only grows meanwhile.
    let routes = scene.watchdog.snapshot().routes;
    wait_until("the last polls have ended", || runtime_of(&scene.watchdog.snapshot(), "main").polls.count > 0);
    scene.assert_slots_are_empty();
    let runtime = runtime_of(&scene.watchdog.snapshot(), "main").polls.sum;
    let busy: Duration = routes.iter().map(|route| route.busy).sum();
    assert!(busy <= runtime, "{busy:?} of {runtime:?}: {routes:#?}");
    let of = |name: &str| routes.iter().find(|r| &*r.route == name).unwrap();
    assert!(of("/inner").busy >= Duration::from_millis(3) * 80);
    assert!(of("/outer").busy >= Duration::from_millis(2) * 80);
    assert!(of("/plain/{id}").poll_max >= Duration::from_millis(3));
    // Each request's time is its own: the outer one has slept for 2 ms, while the inner one slept for 3.
    let own = of("/outer").busy.as_secs_f64() / of("/outer").polls as f64;
    let max = of("/outer").poll_max.as_secs_f64();
    assert!(own <= max, "{own} {max}");
}

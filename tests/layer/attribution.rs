//! Whatever blocks in a request, it is told under the request's route.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use pollwatch::{Cause, Phase};

use crate::client;
use crate::scene::Scene;
use crate::support::*;

/// As a new user would: the layer on an axum app, its slow route requested.
#[test]
fn the_first_report_names_the_route_while_it_still_blocks() {
    undisturbed(|| {
        let scene = Scene::new();
        let gate = Gate::new();
        let key = gate.key();
        let slow = move |Path(id): Path<u32>| async move { format!("{id} {}", key.pass()) };
        let app =
            Router::new().route("/slow/{id}", get(slow)).route("/", get(|| async {})).layer(scene.watchdog.layer());
        let addr = scene.serve(app);
        let client = std::thread::spawn(move || client::ask_once(addr, client::get("/slow/7")).unwrap());

        let first = scene.told.wait_ongoing("main").expect("it is told while it blocks");
        if first.route.is_none() || matches!(first.cause, Cause::Starved | Cause::Paused) {
            return Err(format!("it was given no CPU, or not until long after its poll began: {first}"));
        }
        assert_eq!(first.route.as_deref(), Some("/slow/{id}"), "{first}");
        assert!(first.to_string().contains("\n  route /slow/{id} · task "), "{first}");
        let count = || scene.metrics().get("pollwatch_route_stalls_total", &[("route", "/slow/{id}")]);
        wait_until("it is counted while it blocks", || count() == 1.0);
        let metrics = scene.metrics();
        let so_far = metrics.get("pollwatch_route_stall_seconds_total", &[("route", "/slow/{id}")]);
        assert!(so_far >= THRESHOLD.as_secs_f64(), "{so_far}");
        let later = scene.metrics().get("pollwatch_route_stall_seconds_total", &[("route", "/slow/{id}")]);
        assert!(later > so_far, "it grows while it lasts");

        gate.open();
        assert_eq!(client.join().unwrap().body(), "7 true");
        let end = scene.told.wait(|s| s.id == first.id && s.phase == Phase::Resolved).expect("it is resolved");
        assert_eq!(end.route.as_deref(), Some("/slow/{id}"), "{end}");
        scene.wait_requests("/slow/{id}", &[("GET", "2xx", 1)]);
        let metrics = scene.metrics();
        let requests = [("route", "/slow/{id}"), ("method", "GET"), ("status", "2xx")];
        assert_eq!(metrics.get("pollwatch_route_requests_total", &requests), 1.0);
        for name in ["pollwatch_route_busy_seconds_total", "pollwatch_route_poll_max_seconds"] {
            assert!(metrics.get(name, &[("route", "/slow/{id}")]) >= end.elapsed.as_secs_f64() * 0.9, "{name}");
        }
        Ok(())
    });
}

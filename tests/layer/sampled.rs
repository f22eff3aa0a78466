//! Sampled timing: stalls are told under their routes, and what is counted of routes adds up.

use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use pollwatch::{Phase, Watchdog};

use crate::client;
use crate::fixture::Fixture;
use test_support::*;

const REQUESTS: usize = 12;

#[test]
fn a_stall_is_told_under_its_route_and_weighs_what_it_took() {
    undisturbed(|| {
        let fixture = Fixture::with(Watchdog::builder().threshold(THRESHOLD).sampled_timing(true));
        let app = Router::new().route(
            "/block",
            get(|| async {
                block(THRESHOLD * 3);
            }),
        );
        let addr = fixture.serve(app.layer(fixture.watchdog.layer()));
        let outer = Instant::now();
        for _ in 0..REQUESTS {
            assert_eq!(client::ask_once(addr, client::get("/block")).unwrap().status(), 200);
        }
        let outer = outer.elapsed();
        fixture.wait_requests("/block", &[("GET", "2xx", REQUESTS as u64)]);
        reported_so_far(&fixture.watchdog, &fixture.collected);
        let of_route = |s: &pollwatch::Stall| s.phase == Phase::Resolved && s.route.as_deref() == Some("/block");
        let stalls: Vec<_> = fixture.collected.of("main").into_iter().filter(of_route).collect();
        stalls.iter().try_for_each(is_undisturbed)?;
        holds_unless_overslept(&fixture.watchdog, stalls.len() == REQUESTS, &stalls)?;
        assert!(stalls.iter().all(|s| s.elapsed_is_lower_bound && s.elapsed >= THRESHOLD * 2), "{stalls:#?}");
        let route = fixture.route("/block").expect("it was met");
        assert_eq!(route.stalls.count, REQUESTS as u64);
        // The last poll may not have ended.
        let collected: Duration = stalls.iter().map(|s| s.elapsed).sum();
        assert!(
            route.busy >= collected.mul_f64(0.8) && route.busy <= outer.mul_f64(1.01),
            "{collected:?} {outer:?} {route:#?}"
        );
        Ok(())
    });
}

//! Tests of the names under which requests are counted and their stalls are reported.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{Error, error, guard};
use pollwatch::{Cause, Certainty, Phase};
use pollwatch_actix::Watch;
use test_support::*;

use crate::fixture::Fixture;

/// A new user's first steps: the middleware on an app, and a request to its slow route.
#[test]
fn the_first_report_names_the_route_while_it_blocks() {
    undisturbed(|| {
        let (fixture, gate) = (Fixture::start(), Gate::new());
        let key = gate.key();
        let server = fixture.serve(1, move |config| {
            let key = key.clone();
            let report = move |id: web::Path<(String, u32)>| {
                let key = key.clone();
                async move { format!("{} {}", id.1, key.pass()) }
            };
            config.service(web::scope("/shop/{shop}").route("/report/{id}", web::get().to(report)));
        });
        let addr = server.addr;
        let client = std::thread::spawn(move || get(addr, "/shop/main/report/9?all=1"));

        let first = fixture.collected.wait_ongoing("actix-1").expect("the stall is reported while it blocks");
        if first.route.is_none() || matches!(first.cause, Cause::Starved | Cause::Paused) {
            return Err(format!("the thread got no CPU until long after its poll started: {first}"));
        }
        let route = "/shop/{shop}/report/{id}";
        assert_eq!(first.route.as_deref(), Some(route), "{first}");
        assert_eq!(
            (first.cause, first.certainty, first.worker),
            (Cause::Lock, Certainty::Measured, Some(0)),
            "{first}"
        );
        assert!(first.thread.starts_with("actix-rt|system:"), "{first}");
        let count = || fixture.metrics().find("pollwatch_route_stalls_total", &[("route", route)]);
        wait_until("a count while the request blocks", || count() == Some(1.0));
        assert_eq!(fixture.metrics().get("pollwatch_blocked_workers", &[("runtime", "actix-1")]), 1.0);

        gate.open();
        assert_eq!(client.join().unwrap().body, "9 true");
        let end = fixture.collected.wait(|s| s.id == first.id && s.phase == Phase::Resolved).expect("it is resolved");
        let text = end.to_string();
        assert!(text.contains("test_support::blocking::Key::pass"), "{text}");
        assert!(!text.contains("pollwatch") && !text.contains("actix_http"), "it ends at the middleware: {text}");
        fixture.wait_requests(route, &[("GET", "2xx", 1)]);
        Ok(())
    });
}

#[test]
fn clients_cannot_make_up_names() {
    let fixture = Fixture::start();
    let server = fixture.serve(2, |config| {
        config.route("/item/{id}", web::get().to(async || "an item"));
        config.service(web::scope("/shop").route("/cart", web::post().to(async || "a cart")));
    });
    for n in 0..200 {
        assert_eq!(get(server.addr, &format!("/made-up/{n}?n={n}")).status, 404);
        assert_eq!(get(server.addr, &format!("/item/{n}?n={n}")).status, 200);
    }
    // A path that is known with another method is the resource's.
    assert_eq!(get(server.addr, "/shop/cart").status, 404);
    assert_eq!(request(server.addr, "PROPFIND", "/shop/cart").status, 404);
    fixture.wait_requests("unmatched", &[("GET", "4xx", 200)]);
    fixture.wait_requests("/item/{id}", &[("GET", "2xx", 200)]);
    fixture.wait_requests("/shop/cart", &[("GET", "4xx", 1), ("other", "4xx", 1)]);
    let mut routes = fixture.routes();
    routes.sort();
    assert_eq!(routes, ["/item/{id}", "/shop/cart", "unmatched"]);
}

/// The path alone leads to the first scope, which the guard excludes.
#[test]
fn guards_may_choose_another_scope_than_the_path() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, |config| {
        let never = guard::fn_guard(|_| false);
        config.service(web::scope("/api").guard(never).route("/old", web::get().to(async || "old")));
        config.service(web::scope("/api").route("/new", web::get().to(async || "new")));
    });
    assert_eq!(get(server.addr, "/api/new").body, "new");
    fixture.wait_requests("/api/new", &[("GET", "2xx", 1)]);
}

#[test]
fn a_request_that_passes_two_of_them_is_counted_once() {
    let fixture = Fixture::start();
    let watch = Watch::new(&fixture.watchdog);
    let server = fixture.serve(1, move |config| {
        let inner = web::scope("/a").route("/b", web::get().to(async || block(THRESHOLD * 2).as_millis().to_string()));
        config.service(inner.wrap(watch.clone()));
    });
    assert_eq!(get(server.addr, "/a/b").status, 200);
    fixture.wait_requests("/a/b", &[("GET", "2xx", 1)]);
    let stall = fixture.wait_stall("/a/b");
    assert!(fixture.stalls().iter().all(|other| other.id == stall.id));
    assert_eq!(fixture.metrics().get("pollwatch_route_stalls_total", &[("route", "/a/b")]), 1.0);
}

/// The outer one knows no resource before the request is routed, and the inner one does.
#[test]
fn a_request_is_counted_once_where_guards_choose_its_scope() {
    let fixture = Fixture::start();
    let other = Fixture::start();
    let watches = [&fixture, &fixture, &other].map(|fixture| Watch::new(&fixture.watchdog));
    let server = fixture.serve(1, move |config| {
        let [first, second, other] = watches.clone();
        let never = guard::fn_guard(|_| false);
        config.service(web::scope("/api").guard(never).route("/old", web::get().to(async || "old")));
        let new = web::resource("/new").route(web::get().to(async || "new"));
        config.service(web::scope("/api").service(new.wrap(first).wrap(other).wrap(second)));
    });
    for count in 1..=3 {
        assert_eq!(get(server.addr, "/api/new").body, "new");
        fixture.wait_requests("/api/new", &[("GET", "2xx", count)]);
        // Another watchdog counts it as well.
        other.wait_requests("/api/new", &[("GET", "2xx", count)]);
    }
    let unmatched = fixture.watchdog.snapshot().routes.into_iter().find(|route| &*route.route == "unmatched");
    assert!(unmatched.is_none_or(|route| route.requests.is_empty()));
}

/// A middleware that blocks for the query `inside`, and refuses the query `refused`.
async fn inside(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match request.query_string() {
        "inside" => drop(block(THRESHOLD * 3)),
        "refused" => return Err(error::ErrorUnauthorized("not for you")),
        _ => {}
    }
    next.call(request).await
}

fn within_middleware(config: &mut ServiceConfig) {
    config.service(web::scope("").route("/ping", web::get().to(async || "pong")).wrap(from_fn(inside)));
}

/// What is outside is only observed, while it waits in a system call.
#[test]
fn a_middleware_is_measured_if_it_is_within() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, within_middleware);
    assert_eq!(get(server.addr, "/ping?inside").body, "pong");
    let stall = fixture.wait_stall("/ping");
    assert!(stall.elapsed >= THRESHOLD, "{stall}");
    assert_eq!(stall.certainty, Certainty::Measured, "{stall}");
    assert_eq!(get(server.addr, "/ping?refused").status, 401);
    fixture.wait_requests("/ping", &[("GET", "2xx", 1), ("GET", "4xx", 1)]);

    let stall = fixture.observed(|| assert_eq!(get(server.addr, "/ping?outside").body, "pong"));
    assert!(stall.route.is_none() && stall.to_string().contains("http::fixture::outside"), "{stall}");
    fixture.wait_requests("/ping", &[("GET", "2xx", 2), ("GET", "4xx", 1)]);
}

//! The cost of the middleware for one request: the same app with and without it, in turns.
//!
//! ```sh
//! cargo bench -p pollwatch-actix --bench cost
//! ```
//!
//! The requests are given to the app's service without a socket, which is the least that actix
//! does for a request. Over TCP the ratio is smaller.

use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::{App, Error, rt, test, web};
use pollwatch::Watchdog;
use pollwatch_actix::Watch;

/// Apps are measured in turns, so that a change of the machine's speed meets all of them.
const ROUNDS: usize = 15;

fn main() {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let requests = if is_quick { 500 } else { 20_000 };
    let watchdog = Watchdog::builder().log(false).start().expect("a watchdog starts");
    println!("{:<28}{:>12}{:>12}{:>10}{:>8}", "routes of the app", "without", "with", "more", "ratio");
    for routes in [1, 10, 100] {
        let [without, with] = rt::System::new().block_on(measure(&watchdog, routes, requests));
        let more = with.saturating_sub(without);
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!("{routes:<28}{without:>12.1?}{with:>12.1?}{more:>10.1?}{ratio:>8.2}");
    }
}

/// Returns the times of one request without and with the middleware: the medians of all rounds.
async fn measure(watchdog: &Watchdog, routes: usize, requests: u32) -> [Duration; 2] {
    let app = || App::new().configure(move |config| configure(config, routes));
    let without = test::init_service(app()).await;
    let with = test::init_service(app().wrap(Watch::new(watchdog))).await;
    let path = format!("/group/item{}/7", routes - 1);
    let (mut times, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        baseline.push(time(&without, &path, requests).await);
        times.push(time(&with, &path, requests).await);
    }
    [baseline, times].map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    })
}

fn configure(config: &mut web::ServiceConfig, routes: usize) {
    let scope = (0..routes).fold(web::scope("/group"), |scope, n| {
        scope.route(&format!("/item{n}/{{id}}"), web::get().to(async |_: web::Path<u32>| "an item"))
    });
    config.service(scope);
}

/// Returns the time of one request, its response and its body.
async fn time<S, B>(app: &S, path: &str, requests: u32) -> Duration
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let start = Instant::now();
    for _ in 0..requests {
        let response = app.call(test::TestRequest::with_uri(path).to_request()).await.expect("a response");
        assert!(response.into_body().try_into_bytes().is_ok());
    }
    start.elapsed() / requests
}

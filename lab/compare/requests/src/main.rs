//! Measures the cost of the layer for an axum service that does nothing else: the requests per
//! second of a hello world on a runtime with one worker. Each variant is compared with a bare
//! service in the same round.
//!
//! `cargo run --release --manifest-path lab/compare/Cargo.toml -p compare-requests -- [seconds a
//! run] [rounds]`, with `wrk` on the path.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::Response;
use axum::{Router, routing::get};
use axum_prometheus::PrometheusMetricLayer;
use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};
use tower_http::trace::TraceLayer;
use tower_layer::layer_fn;
use tower_service::Service;

/// One service. It runs all the time, and is put under load once in each round.
struct Variant {
    name: &'static str,
    addr: SocketAddr,
    _runtime: Runtime,
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (seconds, rounds) = (args.next().unwrap_or(3), args.next().unwrap_or(9));
    // TraceLayer creates spans at DEBUG. They are filtered out, as in production.
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let watchdog = Watchdog::builder().listen((Ipv4Addr::LOCALHOST, 0)).start().expect("a watchdog");
    scrape_each_second(watchdog.clone());
    let watched = |name| watchdog.build_runtime(name, one_worker()).expect("a runtime");
    let bare = || one_worker().build().expect("a runtime");
    let hello = || Router::new().route("/hello/{name}", get(|| async { "Hello, World!" }));
    let variants = [
        serve("bare", bare(), hello()),
        serve("pollwatch, hooks", watched("hooks"), hello()),
        serve("pollwatch, hooks and layer", watched("layer"), hello().layer(watchdog.layer())),
        serve("a layer that only reads the clock", bare(), hello().layer(layer_fn(Timed))),
        serve("tower-http's TraceLayer, filtered out", bare(), hello().layer(TraceLayer::new_for_http())),
        serve("axum-prometheus' layer", bare(), hello().layer(PrometheusMetricLayer::new())),
    ];
    let mut rates = vec![Vec::new(); variants.len()];
    for variant in &variants {
        load(variant, 1);
    }
    for round in 0..rounds as usize {
        eprintln!("round {} of {rounds}", round + 1);
        // Each round starts with another variant.
        for i in 0..variants.len() {
            let at = (i + round) % variants.len();
            rates[at].push(load(&variants[at], seconds));
        }
    }
    println!("{:<40} {:>12} {:>8}", "", "requests/s", "of bare");
    for (variant, of_variant) in variants.iter().zip(&rates) {
        let ratios = of_variant.iter().zip(&rates[0]).map(|(rate, bare)| rate / bare).collect();
        println!("{:<40} {:>12.0} {:>8.3}", variant.name, median(of_variant.clone()), median(ratios));
    }
}

fn one_worker() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    builder
}

fn serve(name: &'static str, runtime: Runtime, app: Router) -> Variant {
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let addr = listener.local_addr().expect("its address");
    runtime.spawn(async { axum::serve(listener, app).await });
    Variant { name, addr, _runtime: runtime }
}

/// Scrapes like Prometheus, but more often.
fn scrape_each_second(watchdog: Watchdog) {
    std::thread::spawn(move || {
        loop {
            std::hint::black_box(watchdog.metrics_text());
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

fn load(variant: &Variant, seconds: u64) -> f64 {
    let url = format!("http://{}/hello/world", variant.addr);
    let output = Command::new("wrk").args(["-t1", "-c64", &format!("-d{seconds}s"), &url]).output();
    let output = output.expect("wrk is needed (Debian's package of that name)");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.unwrap_or_else(|| panic!("{text}")).trim().parse().expect("a rate")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The minimal layer that measures: two clock readings per request.
#[derive(Clone)]
struct Timed<S>(S);

impl<S: Service<Request, Response = Response>> Service<Request> for Timed<S>
where
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (begin, response) = (Instant::now(), self.0.call(request));
        Box::pin(async move {
            let response = response.await;
            std::hint::black_box(begin.elapsed());
            response
        })
    }
}

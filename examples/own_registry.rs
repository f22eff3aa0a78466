//! The symptom: the service has a registry and an admin port already, and must not open another
//! port.
//!
//! `Watchdog::collector` is registered in the registry, and `Watchdog::router` is nested in the
//! admin router. Both answer on the watched runtime, so not while all its workers are blocked. Only
//! the server of `listen` has a separate thread.
//!
//! ```sh
//! cargo run --example own_registry            # serves until Ctrl-C
//! cargo run --example own_registry -- --once  # sends requests itself, and exits
//! ```
//!
//! Then: `curl localhost:8081/metrics`, `/watch/stalls` or `/watch/healthz`.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use pollwatch::Watchdog;
use prometheus::{IntCounter, Registry, TextEncoder};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Admin {
    registry: Registry,
    orders: IntCounter,
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let once = std::env::args().any(|arg| arg == "--once");
    let watchdog = Watchdog::builder().start()?;
    let runtime = watchdog.runtime("main").enable_all().build()?;

    let registry = Registry::new();
    let orders = IntCounter::new("orders_total", "Orders taken.")?;
    registry.register(Box::new(orders.clone()))?;
    registry.register(Box::new(watchdog.collector()))?;

    let app = Router::new()
        .route("/order", get(order))
        .layer(watchdog.layer())
        // Added after the layer, so that the admin pages are not in the metrics of routes.
        .route("/metrics", get(metrics))
        .with_state(Admin { registry, orders })
        .nest("/watch", watchdog.router());
    let listener = runtime.block_on(TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:8081" }))?;
    let addr = listener.local_addr()?;
    let server = runtime.spawn(watchdog.watch(async move { axum::serve(listener, app).await }));
    println!("http://{addr}/order, http://{addr}/metrics, http://{addr}/watch/stalls");
    if !once {
        return Ok(runtime.block_on(server)??);
    }

    let fetch = |path: &str| ureq::get(format!("http://{addr}{path}")).call()?.body_mut().read_to_string();
    fetch("/order")?;
    let metrics = fetch("/metrics")?;
    let names = ["orders_total", "pollwatch_route_requests_total", "pollwatch_route_stalls_total"];
    for line in metrics.lines().filter(|line| names.iter().any(|name| line.starts_with(name))) {
        println!("{line}");
    }
    println!("/watch/healthz: {}", fetch("/watch/healthz")?.trim());
    Ok(())
}

async fn order(State(admin): State<Admin>) -> &'static str {
    admin.orders.inc();
    std::thread::sleep(Duration::from_millis(100));
    "taken\n"
}

async fn metrics(State(admin): State<Admin>) -> Result<String, String> {
    TextEncoder::new().encode_to_string(&admin.registry.gather()).map_err(|error| error.to_string())
}

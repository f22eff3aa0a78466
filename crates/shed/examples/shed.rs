//! The symptom: one route gets more requests than it can serve, and every route takes a second, the
//! health check as well.
//!
//! An axum service has two workers. `/report` blocks its worker for 20 ms, `/price` waits for 10 ms
//! without blocking. Clients request prices alone, and then 64 more clients request reports,
//! without load shedding and with it.
//!
//! `cargo run --release -p pollwatch-shed --features prometheus --example shed` prints the
//! latencies of the three cases, and exits.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use pollwatch::Watchdog;
use pollwatch_shed::Shed;
use reqwest::{Client, StatusCode};
use tokio::task::JoinSet;

const BLOCKING_CLIENTS: usize = 64;
/// The pause of a client before it repeats a request that was rejected.
const BACK_OFF: Duration = Duration::from_millis(50);
/// The time before the measurement. Load is shed only when the overload has lasted for a while.
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("pollwatch::shed=info").with_writer(std::io::stderr).init();
    println!("{:<34}{:>10}{:>10}{:>12}{:>12}", "", "price p50", "p99", "reports/s", "shed/s");
    row("prices alone", false, 0)?;
    row("overloaded, without shedding", false, BLOCKING_CLIENTS)?;
    row("overloaded, with shedding", true, BLOCKING_CLIENTS)
}

/// Starts a service, puts it under load, and prints one line of the table.
fn row(title: &str, shed: bool, clients: usize) -> Result<(), Box<dyn Error>> {
    let watchdog = Watchdog::builder().start()?;
    let app = Router::new().route("/report", get(report)).route("/price", get(price));
    // Prices are always admitted: they do not block, and must be available.
    let app = if shed { app.layer(Shed::new().allow("/price").layer(&watchdog)) } else { app };
    // The watchdog's layer is outside, where it counts rejected requests with their status.
    let app = app.layer(watchdog.layer());
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let addr = listener.local_addr()?;
    runtime.spawn(async move { axum::serve(listener, app).await });

    let load = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (prices, reports) =
        load.block_on(async { tokio::join!(request(addr, "/price", 4), request(addr, "/report", clients)) });
    let mut times: Vec<f64> = prices.iter().map(|(_, time)| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times.get((q * times.len() as f64) as usize).copied().unwrap_or_default();
    let rate = |status| reports.iter().filter(|r| r.0 == status).count() as f64 / MEASURE.as_secs_f64();
    let (served, rejected) = (rate(StatusCode::OK), rate(StatusCode::SERVICE_UNAVAILABLE));
    println!("{title:<34}{:>7.1} ms{:>7.1} ms{served:>12.0}{rejected:>12.0}", quantile(0.5), quantile(0.99));
    runtime.shutdown_background();
    Ok(())
}

/// Blocks its worker. Such code belongs in `spawn_blocking`.
async fn report() -> &'static str {
    std::thread::sleep(Duration::from_millis(20));
    "a report"
}

async fn price() -> &'static str {
    tokio::time::sleep(Duration::from_millis(10)).await;
    "a price"
}

/// Requests a route repeatedly on several connections, and returns the status and the time of each
/// answer.
async fn request(addr: SocketAddr, route: &str, connections: usize) -> Vec<(StatusCode, Duration)> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (client, url) = (Client::builder().no_proxy().build().expect("a client"), format!("http://{addr}{route}"));
        tasks.spawn(async move {
            let mut answers = Vec::new();
            while start.elapsed() < SETTLE + MEASURE {
                let sent = Instant::now();
                let Ok(response) = client.get(&url).send().await else { continue };
                let status = response.status();
                let _ = response.bytes().await;
                if start.elapsed() > SETTLE {
                    answers.push((status, sent.elapsed()));
                }
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
            answers
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

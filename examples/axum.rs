//! The symptom: a trivial route sometimes takes 200 ms, the CPU is idle, and its trace shows no
//! wait.
//!
//! Another route blocks the event loop. With the layer on the router, pollwatch names that route
//! while it blocks:
//!
//! ```sh
//! cargo run --example axum             # serves until Ctrl-C
//! cargo run --example axum -- --once   # sends requests itself, and exits
//! ```
//!
//! Then: `curl localhost:8080/report/7` and `curl localhost:9464/metrics`.

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use pollwatch::Watchdog;
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let once = std::env::args().any(|arg| arg == "--once");
    let listen = if once { "127.0.0.1:0" } else { "127.0.0.1:9464" };
    let watchdog = Watchdog::builder().listen(listen).start()?;
    let runtime = watchdog.runtime("main").enable_all().build()?;

    let app =
        Router::new().route("/report/{id}", get(report)).route("/ping", get(async || "pong\n")).layer(watchdog.layer());
    let listener = runtime.block_on(TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:8080" }))?;
    let addr = listener.local_addr()?;
    let server = runtime.spawn(watchdog.watch(async move { axum::serve(listener, app).await }));
    println!("the service: http://{addr}/report/7   its metrics: http://{}/metrics", watchdog.local_addr().unwrap());
    if !once {
        return Ok(runtime.block_on(server)??);
    }

    for id in 1..=3 {
        ureq::get(format!("http://{addr}/report/{id}")).call()?;
    }
    println!("the routes that blocked:");
    // A stall is reported as resolved shortly after its end.
    while watchdog.stalls().iter().filter(|stall| stall.phase == pollwatch::Phase::Resolved).count() < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    for route in watchdog.snapshot().routes {
        println!("  {:<14}{} stalls, {:?} in all", route.route, route.stalls.count, route.stalls.time);
    }
    Ok(())
}

/// Reads rows with a driver that is not async.
async fn report(Path(id): Path<u32>) -> String {
    std::thread::sleep(Duration::from_millis(200));
    format!("report {id}\n")
}

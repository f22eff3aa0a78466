//! The symptom: a trivial route of an actix-web service sometimes takes 200 ms, and the CPU is
//! idle.
//!
//! Another route blocks the worker that serves both. With the middleware on the app, pollwatch
//! names that route while it blocks:
//!
//! ```sh
//! cargo run -p pollwatch-actix --example actix             # serves until Ctrl-C
//! cargo run -p pollwatch-actix --example actix -- --once   # sends requests itself, and exits
//! ```
//!
//! Then: `curl localhost:8080/report/7` and `curl localhost:9464/metrics`.

use std::error::Error;
use std::time::Duration;

use actix_web::{App, HttpServer, rt, web};
use pollwatch::Watchdog;
use pollwatch_actix::Watch;

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let once = std::env::args().any(|arg| arg == "--once");
    let [pages, service] = if once { ["127.0.0.1:0"; 2] } else { ["127.0.0.1:9464", "127.0.0.1:8080"] };
    let watchdog = Watchdog::builder().listen(pages).start()?;

    let watch = Watch::new(&watchdog);
    let app = move || {
        App::new()
            .route("/report/{id}", web::get().to(report))
            .route("/ping", web::get().to(async || "pong\n"))
            .wrap(watch.clone())
    };
    let server = HttpServer::new(app).workers(2).bind(service)?;
    let addr = server.addrs()[0];
    println!("the service: http://{addr}/report/7   its metrics: http://{}/metrics", watchdog.local_addr().unwrap());
    let server = server.run();
    if !once {
        return Ok(server.await?);
    }

    let handle = server.handle();
    let server = rt::spawn(server);
    let ask = move || (1..=3).try_for_each(|id| ureq::get(format!("http://{addr}/report/{id}")).call().map(drop));
    web::block(ask).await??;
    println!("the routes that blocked:");
    // A stall is reported as resolved shortly after its end.
    while watchdog.stalls().iter().filter(|stall| stall.phase == pollwatch::Phase::Resolved).count() < 3 {
        rt::time::sleep(Duration::from_millis(10)).await;
    }
    for route in watchdog.snapshot().routes {
        println!("  {:<14}{} stalls, {:?} in all", route.route, route.stalls.count, route.stalls.time);
    }
    handle.stop(true).await;
    Ok(server.await??)
}

/// Reads rows with a driver that is not async.
async fn report(id: web::Path<u32>) -> String {
    std::thread::sleep(Duration::from_millis(200));
    format!("report {id}\n")
}

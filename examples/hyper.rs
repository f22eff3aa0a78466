//! The symptom: throughput stays at a few requests per second with any number of connections, and
//! no CPU is busy.
//!
//! A service on plain hyper has no router that names the routes. A function names them from a fixed
//! list.
//!
//! ```sh
//! cargo run --example hyper            # serves until Ctrl-C
//! cargo run --example hyper -- --once  # sends requests itself, and exits
//! ```
//!
//! Then: `curl localhost:8080/thumbnail/7` and `curl localhost:9464/metrics`.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use pollwatch::Watchdog;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let once = std::env::args().any(|arg| arg == "--once");
    let listen = if once { "127.0.0.1:0" } else { "127.0.0.1:9464" };
    let watchdog = Watchdog::builder().listen(listen).start()?;
    let runtime = watchdog.runtime("main").enable_all().build()?;

    // Never return the path itself: clients choose it, and each would become a route.
    let layer = watchdog.layer().route_by(|request| match request.uri.path().split('/').nth(1)? {
        "thumbnail" => Some("/thumbnail/{id}".into()),
        "ping" => Some("/ping".into()),
        _ => None,
    });
    let service = ServiceBuilder::new().layer(layer).service_fn(answer);
    let listener = runtime.block_on(TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:8080" }))?;
    let addr = listener.local_addr()?;
    let server = runtime.spawn(watchdog.watch(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }));
    println!("the service: http://{addr}/thumbnail/7   its metrics: http://{}/metrics", watchdog.local_addr().unwrap());
    if !once {
        return Ok(runtime.block_on(server)?);
    }

    ureq::get(format!("http://{addr}/thumbnail/7")).call()?;
    // A stall is reported as resolved shortly after its end.
    while watchdog.stalls().iter().all(|stall| stall.phase != pollwatch::Phase::Resolved) {
        std::thread::sleep(Duration::from_millis(10));
    }
    for stall in watchdog.stalls() {
        println!("it blocked in {} for {:?}", stall.route.as_deref().unwrap_or("no route"), stall.elapsed);
    }
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path().starts_with("/thumbnail/") {
        // Reads and scales a picture, which belongs in `spawn_blocking`.
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(Response::new(Full::from("here you are\n")))
}

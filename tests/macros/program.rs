//! A program with `#[pollwatch::main]`, which the tests in `process.rs` run. It prints what it
//! finds of its watchdog.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use tower::{Layer, ServiceExt};

#[pollwatch::main(listen = "127.0.0.1:0", threshold = "20ms", name = "program", worker_threads = 2)]
async fn main() -> ExitCode {
    match pollwatch::current() {
        None => println!("no watchdog"),
        Some(watchdog) => {
            let snapshot = watchdog.snapshot();
            println!("threshold {:?}", snapshot.watchdog.threshold);
            for runtime in &snapshot.runtimes {
                println!("runtime {}", runtime.name);
            }
            match watchdog.local_addr() {
                Some(address) => println!("listens at {address}"),
                None => println!("no server"),
            }
        }
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    println!("workers {}", metrics.num_workers());
    match std::env::args().nth(1).as_deref() {
        Some("fails") => return ExitCode::from(7),
        Some("serves") => serve().await,
        Some("panics") => panic!("on purpose"),
        Some("blocks") => pollwatch::spawn(async { std::thread::sleep(Duration::from_millis(200)) }).await.unwrap(),
        _ => {}
    }
    println!("done");
    ExitCode::SUCCESS
}

/// Has a request pass a layer, in a program whose log is on the standard error.
async fn serve() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let handler = tower::service_fn(async |_: http::Request<()>| Ok::<_, Infallible>(http::Response::new(())));
    pollwatch::layer().layer(handler).oneshot(http::Request::new(())).await.unwrap();
}

//! A slow service that the routes call, on a separate runtime that pollwatch does not watch.

use std::net::SocketAddr;
use std::time::Duration;
use std::{io, thread};

use axum::Router;
use axum::routing::get;

const DELAY: Duration = Duration::from_millis(100);

/// Starts the service and returns its address.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("upstream".into()).spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, Router::new().route("/", get(answer))).await
        })
    })?;
    Ok(addr)
}

async fn answer() -> &'static str {
    tokio::time::sleep(DELAY).await;
    "here you are\n"
}

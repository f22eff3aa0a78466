//! An HTTP server that does next to nothing, whose throughput is measured with and without an
//! observer.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Options, ready, runtime};

/// Serves for some time. `ready` is followed by its address.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let runtime = runtime(options);
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        ready(listener.local_addr()?);
        let router = Router::new().route("/", get(|| async { "Hello, World!" }));
        let served = axum::serve(listener, router);
        let _ = tokio::time::timeout(options.time, async { served.await }).await;
        Ok::<_, io::Error>(())
    })?;
    runtime.shutdown_timeout(Duration::ZERO);
    Ok(())
}

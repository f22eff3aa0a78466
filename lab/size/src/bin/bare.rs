//! A minimal axum service.

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = Router::new().route("/", get(|| async { "Hello, World!" }));
        axum::serve(TcpListener::bind("127.0.0.1:8080").await?, app).await?;
        Ok(())
    })
}

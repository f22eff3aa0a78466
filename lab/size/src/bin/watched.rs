//! The program `bare` with pollwatch: its server, its layer, and stacks.

use axum::{Router, routing::get};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let watchdog = pollwatch::Watchdog::builder().listen("127.0.0.1:9464".parse()?).start()?;
    let runtime = watchdog.build_runtime("main", tokio::runtime::Builder::new_multi_thread().enable_all())?;
    let layer = watchdog.layer();
    runtime.block_on(watchdog.watch(async {
        let app = Router::new().route("/", get(|| async { "Hello, World!" })).layer(layer);
        axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?;
        Ok(())
    }))
}

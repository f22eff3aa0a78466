//! The program `bare` with pollwatch. It uses what the features of this package turn on, so that
//! the linker keeps it.

use axum::Router;
use axum::routing::get;
use pollwatch::Watchdog;
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = Watchdog::builder();
    #[cfg(feature = "server")]
    let builder = builder.listen("127.0.0.1:9464");
    #[cfg(feature = "delays")]
    let builder = builder.track_delays(true);
    let watchdog = builder.start()?;
    init_log(&watchdog);
    let runtime = watchdog.runtime("main").enable_all().build()?;
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    #[cfg(any(feature = "route", feature = "tower"))]
    let app = app.layer(watchdog.layer());
    #[cfg(feature = "prometheus")]
    let app = app.route("/metrics", {
        let watchdog = watchdog.clone();
        get(move || async move { watchdog.metrics_text() })
    });
    #[cfg(feature = "serde")]
    let app = app.route("/stalls", {
        let watchdog = watchdog.clone();
        get(move || async move { axum::Json(watchdog.stalls()) })
    });
    #[cfg(feature = "attach")]
    if let Some(pid) = std::env::args().nth(1) {
        pollwatch::attach::Attach::new(pid.parse()?).start()?.wait(None);
    }
    runtime.block_on(watchdog.watch(async {
        axum::serve(TcpListener::bind("127.0.0.1:8080").await?, app).await?;
        Ok(())
    }))
}

#[cfg(feature = "spans")]
fn init_log(watchdog: &Watchdog) {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;

    let fmt = tracing_subscriber::fmt::layer();
    tracing_subscriber::registry().with(fmt).with(watchdog.span_layer()).init();
}

#[cfg(not(feature = "spans"))]
fn init_log(_: &Watchdog) {
    tracing_subscriber::fmt().init();
}

//! The symptom: a timer of 10 ms fires after 200 ms, and `main` uses `#[tokio::main]`.
//!
//! The macro builds the runtime before pollwatch can set tokio's hooks, so `attach` measures less:
//! the futures given to `watch` and `spawn`, requests below a layer, and the metrics of the
//! runtime. A blocking task that a library spawned is not measured. `build_runtime` in place of the
//! macro (see the example `axum`), with `--cfg tokio_unstable`, measures every task.
//!
//! ```sh
//! cargo run --example tokio_main
//! ```

use std::time::Duration;

use pollwatch::{Phase, Watchdog};
use tokio::runtime::Handle;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let watchdog = Watchdog::builder().start()?;
    watchdog.attach("main", &Handle::current())?;
    println!("{}\n", watchdog.coverage());

    // Measured: this is reported while it blocks.
    watchdog.spawn(async { blocks() }).await?;
    // Not measured: pollwatch does not know of this task.
    tokio::spawn(async { blocks() }).await?;
    // The root future is polled on the main thread, which is no worker of the runtime. It is
    // measured, and blocks no worker.
    watchdog.watch(async { blocks() }).await;

    while watchdog.stalls().iter().all(|stall| stall.phase != Phase::Resolved) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("of two tasks that blocked a worker, the watched one was reported:");
    for stall in watchdog.stalls() {
        println!("{stall}");
    }
    Ok(())
}

/// Waits for an answer, as a blocking driver does.
fn blocks() {
    std::thread::sleep(Duration::from_millis(100));
}

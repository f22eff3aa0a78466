//! The symptom: a timer of 10 ms fires after 200, and `main` is under `#[tokio::main]`.
//!
//! That macro builds the runtime before anything of pollwatch could be set on it: `attach` watches what is there. tokio's hooks
//! cannot be set any more, so these are seen and nothing else: what `watch` and `spawn` wrap, requests below a layer, and
//! the runtime's own metrics. A blocking task that a library spawned delays others unseen. The two lines of `build_runtime` in place of
//! the macro (see the example `axum`), with `--cfg tokio_unstable`, show every task.
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

    // Seen: it is told while it blocks.
    watchdog.spawn(async { blocks() }).await?;
    // Not seen: nobody asked pollwatch to watch it.
    tokio::spawn(async { blocks() }).await?;
    // The root is polled on a thread of its own, which is none of the runtime's workers: it is measured, and blocks none.
    watchdog.watch(async { blocks() }).await;

    while watchdog.stalls().iter().all(|stall| stall.phase != Phase::Resolved) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("of two tasks that blocked a worker, the one that was watched was seen:");
    for stall in watchdog.stalls() {
        println!("{stall}");
    }
    Ok(())
}

/// Waits for an answer, as a driver does that is not async.
fn blocks() {
    std::thread::sleep(Duration::from_millis(100));
}

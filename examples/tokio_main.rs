//! The symptom: a timer of 10 ms fires after 200 ms, and `main` uses `#[tokio::main]`.
//!
//! `#[pollwatch::main]` takes its place. It builds the runtime with tokio's hooks, so that with
//! `--cfg tokio_unstable` every task is measured, also those that libraries spawn. Inside it,
//! `pollwatch::current()` is the watchdog, which `spawn`, `layer()` and `watched()` use.
//!
//! ```sh
//! cargo run --example tokio_main
//! POLLWATCH_LISTEN=127.0.0.1:9464 cargo run --example tokio_main   # with a live page
//! POLLWATCH=off cargo run --example tokio_main                     # without pollwatch
//! ```

use std::time::Duration;

use pollwatch::Phase;

#[pollwatch::main(threshold = "20ms")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();

    // Each is reported while it blocks. Without `tokio_unstable`, what `tokio::spawn` spawns is
    // observed from outside, and reported without its site.
    tokio::spawn(async { blocks() }).await?;
    pollwatch::spawn(async { blocks() }).await?;
    // The root future is polled on the main thread, which is no worker of the runtime. It blocks no
    // worker, and is reported as a root stall.
    blocks();
    tokio::task::yield_now().await;

    let Some(watchdog) = pollwatch::current() else {
        println!("POLLWATCH=off: nothing was measured");
        return Ok(());
    };
    while watchdog.stalls().iter().filter(|stall| stall.phase == Phase::Resolved).count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("what blocked for 20 ms or longer:");
    for stall in watchdog.stalls() {
        println!("{stall}");
    }
    Ok(())
}

/// Waits for an answer, as a blocking driver does.
fn blocks() {
    std::thread::sleep(Duration::from_millis(100));
}

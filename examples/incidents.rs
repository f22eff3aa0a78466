//! The symptom: an order is half written, a job has not run since Tuesday, or memory grows until
//! the process is killed. No request failed, and no log says why. A task ended early, or never.
//!
//! `cargo run --example incidents` causes the three classic incidents of async services one after
//! the other, and shows the log line and the metrics of each:
//!
//! 1. a future that is dropped while it is pending: here a timeout cancels a write halfway;
//! 2. a panic that is never noticed: the task's `JoinHandle` had been dropped;
//! 3. unbounded spawning: one task for each message, and all of them wait for the same thing.

use std::future::pending;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::time::{sleep, timeout};

/// The default is 10,000. A good limit is a few times the number of tasks that you expect of one
/// site.
const LIMIT: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter("pollwatch::tasks").without_time().with_ansi(false).init();
    let watchdog = Watchdog::builder().warn_above_alive_tasks(LIMIT).start()?;
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("1. A write that a timeout cancels halfway.\n");
        let write = watchdog.watch(write_order("the order", "its items"));
        if timeout(Duration::from_millis(20), write).await.is_err() {
            println!("(too late: answered 504. The order was written without its items.)");
        }
        show(&watchdog, &["tasks_cancelled_total"]);

        println!("\n2. A job that panics, and whose handle was dropped.\n");
        drop(watchdog.spawn(nightly_job(vec![])));
        while watchdog.snapshot().sites.iter().all(|site| site.panicked == 0) {
            sleep(Duration::from_millis(50)).await;
        }
        show(&watchdog, &["tasks_panicked_total"]);

        println!("\n3. A task for each message, all waiting for a partner that does not answer.\n");
        for _ in 0..3 * LIMIT {
            drop(watchdog.spawn(pending::<()>()));
        }
        // Tasks are counted about once a second.
        sleep(Duration::from_millis(2_200)).await;
        show(&watchdog, &["tasks_alive"]);
    });
    // The shutdown reports everything that has not been reported yet.
    watchdog.shutdown();
    runtime.shutdown_background();
    Ok(())
}

/// The caller may drop this future between its two steps. Spawn work that must be completed, and
/// await the handle.
async fn write_order(order: &str, items: &str) {
    write(order).await;
    sleep(Duration::from_secs(5)).await;
    write(items).await;
}

async fn write(what: &str) {
    println!("(writes {what})");
}

/// Panics without rates, which only standard error shows. Keep the handle, and check its result.
async fn nightly_job(rates: Vec<f64>) -> f64 {
    rates[0]
}

/// Prints the lines of `/metrics` that show the incident.
fn show(watchdog: &Watchdog, families: &[&str]) {
    let text = watchdog.metrics_text();
    for family in families {
        let of_family = format!("pollwatch_{family}{{");
        text.lines().filter(|line| line.starts_with(&of_family) && !line.ends_with(" 0")).for_each(|l| println!("{l}"));
    }
}

//! Symptom: an order stays half written, a job has not run since Tuesday, memory grows until the process is killed. No request
//! failed, and no log says why. Something became of a task, and nobody was there to see it.
//!
//! `cargo run --example incidents` has the three classic incidents of async services happen, one after the other, and shows for
//! each the log line and the metrics that tell of it:
//!
//! 1. a future that is dropped while it is still pending: here a timeout gives up a write half-way;
//! 2. a panic that nobody looked at: the task's `JoinHandle` had been dropped;
//! 3. spawning without bound: a task for each message, and all of them wait for the same thing.

use std::future::pending;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

/// The default is 10,000. One that suits your service is some times what you expect at a place.
const LIMIT: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter("pollwatch::tasks").without_time().with_ansi(false).init();
    let watchdog = Watchdog::builder().warn_above_alive_tasks(LIMIT).start()?;
    let runtime = watchdog.build_runtime("main", Builder::new_multi_thread().worker_threads(2).enable_all())?;
    runtime.block_on(async {
        println!("1. A write that a timeout gives up half-way.\n");
        let write = watchdog.watch(write_order("the order", "its items"));
        if timeout(Duration::from_millis(20), write).await.is_err() {
            println!("(too late: answered 504. The order stands without its items.)");
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
    // What has not been told yet is told now.
    watchdog.shutdown();
    runtime.shutdown_background();
    Ok(())
}

/// Between its two steps it can be dropped: whoever awaits it decides that, not the code here. Spawn what must not be left
/// half done, and await the handle.
async fn write_order(order: &str, items: &str) {
    write(order).await;
    sleep(Duration::from_secs(5)).await;
    write(items).await;
}

async fn write(what: &str) {
    println!("(writes {what})");
}

/// Nobody hears of this but the standard error output. Keep the handle, and look at what it returns.
async fn nightly_job(rates: Vec<f64>) -> f64 {
    rates[0]
}

/// The lines of `/metrics` that one would look at.
fn show(watchdog: &Watchdog, families: &[&str]) {
    let text = watchdog.metrics_text();
    for family in families {
        let of_family = format!("pollwatch_{family}{{");
        text.lines().filter(|line| line.starts_with(&of_family) && !line.ends_with(" 0")).for_each(|l| println!("{l}"));
    }
}

//! The symptom: the process runs, uses no CPU, logs nothing and answers nothing. All workers wait
//! for something that will not come, and the health check of the platform finds a living process.
//!
//! `cargo run --example dead_runtime` starts a service, blocks both of its workers for good after 3
//! seconds, and shows what health checks and supervisors get to see: `/healthz` answers 503, the
//! threads are written to a file, and the process exits with code 70 after 20 seconds of it.
//! `docs/health.md` explains each setting.

use std::time::Duration;

use pollwatch::{Action, Watchdog};

/// A runtime that serves nobody for this long is unhealthy.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(5);
/// The time after which the process ends: a supervisor starts a new one.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter("pollwatch=warn").without_time().with_ansi(false).init();
    let folder = std::env::temp_dir();
    let watchdog = Watchdog::builder()
        .listen("127.0.0.1:9465")
        .unhealthy_after(UNHEALTHY_AFTER)
        .on_incident(UNHEALTHY_AFTER, Action::write_threads(folder.join("dead_runtime.txt")))
        .on_incident(UNHEALTHY_AFTER, Action::call(|incident| eprintln!("on call: {}", incident.summary())))
        .on_incident(GIVE_UP_AFTER, Action::exit(70))
        .systemd_watchdog()
        .start()?;
    println!("In 10 seconds: curl -i http://127.0.0.1:9465/healthz");
    println!("The threads go to the first free file of dead_runtime-1.txt, -2.txt .. in {}", folder.display());
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().build()?;
    runtime.block_on(watchdog.watch(async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..2 {
            watchdog.spawn(async { wait_for_a_reply() });
        }
        // The timers of a dead runtime do not run: this never ends.
        std::future::pending::<()>().await;
    }));
    Ok(())
}

/// A blocking client of a server that is gone, without a time limit.
fn wait_for_a_reply() {
    let (_server, reply) = std::sync::mpsc::channel::<()>();
    let _ = reply.recv();
}

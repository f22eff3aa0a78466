//! Measures what the watchdog costs while a worker is blocked, by the number of threads of the
//! process and by whether somebody attends the driver.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::{ConditionKind, Watchdog};
use tokio::runtime::Builder;

use crate::Size;
use crate::threads::{Waiting, count as count_threads};
use crate::watchdog::cpu_seconds;

/// The rounds of which the one with the most use of the CPU counts.
const ROUNDS: usize = 3;
/// The attempts to let a block start in the worker that has left the driver.
const ATTEMPTS: usize = 50;

pub(crate) fn run(size: Size) {
    println!("\n| a worker is blocked: the driver | threads | wake-ups per second | of a CPU (bar 5 %) |");
    println!("|---|---|---|---|");
    for threads in size.of(vec![1, 20], vec![1, 101, 1_000]) {
        row("attended", false, threads, size);
        row("unattended", true, threads, size);
    }
}

fn row(name: &str, unattended: bool, threads: usize, size: Size) {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    let watchdog = Watchdog::builder().log(false).rescue_driver(false).start().expect("a watchdog");
    let runtime = watchdog.build_runtime("main", builder).expect("a runtime");
    let _waiting = Waiting::up_to(threads);
    for _ in 0..ATTEMPTS {
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        let task = runtime.spawn(watchdog.watch(async move {
            if unattended {
                // The worker that attends the driver continues this task, and leaves the driver.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = released.lock().expect("nobody panics").recv();
        }));
        std::thread::sleep(Duration::from_millis(500));
        let is_unattended =
            || watchdog.conditions().iter().any(|condition| condition.kind == ConditionKind::DriverUnattended);
        if is_unattended() == unattended {
            let (wakeups, share) = worst(&watchdog, size);
            let still = is_unattended();
            drop(release);
            assert_eq!(still, unattended, "the state lasts");
            println!("| {name} | {} | {wakeups:.0} | {:.2} % |", count_threads(), share * 100.0);
            return runtime.shutdown_background();
        }
        drop(release);
        runtime.block_on(task).expect("it ends");
    }
    panic!("{ATTEMPTS} blocks have not left the driver {name}");
}

/// Returns the wake-ups per second and the share of a CPU of the round with the greatest share.
fn worst(watchdog: &Watchdog, size: Size) -> (f64, f64) {
    let time = size.of(Duration::from_millis(200), Duration::from_secs(3));
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    let round = |_| {
        let (start, before, cpu) = (Instant::now(), wakeups(), cpu_seconds("pollwatch"));
        std::thread::sleep(time);
        let took = start.elapsed().as_secs_f64();
        ((wakeups() - before) as f64 / took, (cpu_seconds("pollwatch") - cpu).max(0.0) / took)
    };
    (0..ROUNDS).map(round).max_by(|a, b| a.1.total_cmp(&b.1)).expect("a round")
}

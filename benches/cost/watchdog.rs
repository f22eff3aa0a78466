//! Measures the cost of pollwatch's own threads, idle and busy, and the start of a watchdog.

use std::time::{Duration, Instant};

use pollwatch::{Watchdog, WatchdogBuilder};
use tokio::runtime::Builder;

use crate::{Size, median};

/// Measures the start of a watchdog. The first start in a process calibrates the clock.
pub(crate) fn start_up(size: Size) {
    let start = || {
        let start = Instant::now();
        let watchdog = Watchdog::builder().log(false).start().expect("a watchdog");
        (start.elapsed().as_secs_f64() * 1e3, watchdog)
    };
    let (first, watchdog) = start();
    drop(watchdog);
    let later = (0..size.of(3, 101)).map(|_| start().0).collect();
    println!("\n| start-up | ms |\n|---|---|");
    println!("| the first in a process | {first:.1} |");
    println!("| a further one | {:.2} |", median(later));
}

pub(crate) fn run(size: Size) {
    let time = size.of(Duration::from_millis(200), Duration::from_secs(5));
    println!("\n| the watchdog | wake-ups per second | per threshold | of a CPU |\n|---|---|---|---|");
    row("idle (bar 0)", false, time);
    row("a busy worker (bar 4 per threshold)", true, time);
}

fn row(name: &str, busy: bool, time: Duration) {
    let threshold = WatchdogBuilder::DEFAULT_THRESHOLD;
    let watchdog = Watchdog::builder().log(false).start().expect("a watchdog");
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    let runtime = watchdog.build_runtime("main", builder).expect("a runtime");
    if busy {
        runtime.spawn(watchdog.watch(async {
            loop {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(50) {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    // The watchdog sleeps after a second without a poll.
    std::thread::sleep(if busy { Duration::from_millis(100) } else { Duration::from_millis(2_500) });
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    let (start, before, cpu) = (Instant::now(), wakeups(), cpu_seconds("pollwatch"));
    std::thread::sleep(time);
    let (took, woken) = (start.elapsed().as_secs_f64(), (wakeups() - before) as f64);
    let share = (cpu_seconds("pollwatch") - cpu).max(0.0) / took;
    let per_threshold = woken / took * threshold.as_secs_f64();
    println!("| {name} | {:.1} | {per_threshold:.2} | {:.2} % |", woken / took, share * 100.0);
    runtime.shutdown_background();
}

/// Returns the CPU seconds of the threads whose names start with `name`, or 0 where the system does
/// not report them.
pub(crate) fn cpu_seconds(name: &str) -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let nanos = threads.flatten().filter_map(|thread| {
        let of = |file: &str| std::fs::read_to_string(thread.path().join(file)).ok();
        of("comm").filter(|comm| comm.starts_with(name))?;
        of("schedstat")?.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}

//! How often pollwatch is right about tasks that nobody wrapped, without `tokio_unstable`: blocks of known kind and length in tasks of
//! plain `tokio::spawn`, among others that block nobody, and what was told of them.
//!
//! `RUSTFLAGS="" cargo run --release --example unwatched -- [SECONDS]` prints the table of `docs/stable.md`, in a minute or so. It
//! fails when anything was called certain that was not so.

mod judge;
mod load;
mod truth;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use judge::Tally;
use load::Load;
use pollwatch::{Stall, Watchdog};
use truth::{Journal, lock};

const THRESHOLD: Duration = Duration::from_millis(10);

/// What is run.
#[derive(Clone, Copy)]
struct Mode {
    workers: usize,
    /// With `spawn_blocking` and `block_in_place` beside it.
    pool: bool,
}

fn main() -> ExitCode {
    let seconds = match std::env::args().nth(1).map_or(Ok(10), |word| word.parse()) {
        Ok(seconds @ 1..=3600) => Duration::from_secs(seconds),
        _ => {
            eprintln!("usage: unwatched [SECONDS], 10 unless told");
            return ExitCode::from(2);
        }
    };
    if cfg!(tokio_unstable) || !cfg!(target_os = "linux") {
        println!(
            "with tokio_unstable every task is measured, and elsewhere than on Linux none of these is: nothing to show"
        );
        return ExitCode::SUCCESS;
    }
    println!("threshold {THRESHOLD:?}, {seconds:?} a row\n");
    println!("{}", judge::HEAD);
    let mut wrong = 0;
    for pool in [false, true] {
        for workers in [1, 2, 4] {
            let tally = run(Mode { workers, pool }, seconds);
            println!("{}", tally.row(workers, pool));
            tally.faults.iter().for_each(|fault| eprintln!("{fault}"));
            wrong += tally.certain_wrong;
        }
    }
    if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(mode: Mode, time: Duration) -> Tally {
    // The zero of all moments.
    truth::now();
    let told: Arc<Mutex<Vec<Stall>>> = Arc::default();
    let keep = told.clone();
    let on_stall = move |stall: &Stall| lock(&keep).push(stall.clone());
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).on_stall(on_stall).start().expect("it starts");
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // A name for each: a report tells which it was.
    let next = AtomicU64::new(0);
    builder.thread_name_fn(move || format!("pool-{}", next.fetch_add(1, Ordering::Relaxed)));
    builder.worker_threads(mode.workers).enable_all();
    let runtime = watchdog.build_runtime("main", &mut builder).expect("it is built");
    let journal = Arc::new(Journal::default());
    let load = Load { journal: journal.clone(), threshold: THRESHOLD, time, workers: mode.workers, pool: mode.pool };
    runtime.block_on(load.run());
    drop(runtime);
    // What was seen to its end is told to its end.
    std::thread::sleep(THRESHOLD * 20);
    watchdog.shutdown();
    let stalls = std::mem::take(&mut *lock(&told));
    judge::judge(THRESHOLD, &journal.polls(), &stalls)
}

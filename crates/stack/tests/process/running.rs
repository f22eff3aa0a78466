//! Threads that run, and are stopped for a moment.

use std::process::Command;
use std::time::{Duration, Instant};

use pollwatch_stack::procfs::RunState;
use pollwatch_stack::{Process, Stack, StopBudget, StopError, Stopper, Symbolizer, Tid};

use super::support::{Folder, PATIENCE, Target, build, has, named};

/// Captures a running thread, as often as it takes on a busy machine.
fn capture_running(stopper: &mut Stopper, process: &mut Process, tid: Tid) -> Stack {
    let start = Instant::now();
    loop {
        match stopper.capture(process, tid, None) {
            Ok(captured) if captured.stack.is_complete() => {
                return Symbolizer::shared().symbolize(&captured.stack);
            }
            other => assert!(start.elapsed() < PATIENCE, "{other:?} {:?}", stopper.stats()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_computing_thread_is_captured_and_continues() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let target = Target::run(Command::new(&program).args(["1", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let computer = named(&process, "computer")[0];
    let mut stopper = Stopper::new();
    let stack = capture_running(&mut stopper, &mut process, computer);
    assert!(has(&stack, "computes_for_long"), "{stack:#}");
    let stats = stopper.stats();
    println!("{stats:?}");
    assert!(stats.stops > 0 && stats.longest >= stats.stopped / stats.stops as u32, "{stats:?}");
    let before = process.folder().ran(computer).unwrap().on_cpu;
    let start = Instant::now();
    while process.folder().ran(computer).unwrap().on_cpu == before {
        assert!(start.elapsed() < PATIENCE, "the thread runs again");
        std::thread::yield_now();
    }
    assert_ne!(process.folder().stat(computer).unwrap().state, RunState::Traced);

    let sleeper = named(&process, "sleeper")[0];
    let stops = stopper.stats().stops;
    assert_eq!(stopper.capture(&mut process, sleeper, None).unwrap_err(), StopError::NotRunning);
    assert_eq!(stopper.stats().stops, stops, "what waits is never stopped");
}

#[test]
fn a_spent_budget_stops_nothing() {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let target = Target::run(Command::new(&program).args(["1", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let computer = named(&process, "computer")[0];
    let mut stopper = Stopper::with_budget(StopBudget::percent(0));
    assert_eq!(stopper.capture(&mut process, computer, None).unwrap_err(), StopError::OverBudget);
    assert_eq!((stopper.stats().stops, stopper.stats().over_budget), (0, 1));
}

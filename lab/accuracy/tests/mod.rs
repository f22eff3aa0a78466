//! A short form of `cargo run --release -p pollwatch-lab --bin accuracy`, with the same bars. The
//! ground truth includes preemption and pauses of the machine, so no bar has to be lower here.

mod false_alarms;

use std::sync::{Mutex, MutexGuard, Once};
use std::time::Duration;

use crate::suite::modes::{self, Flavour, Mode};
use crate::suite::unwatched::Unwatched;
use crate::suite::{overload, poll_recorder};

const THRESHOLD: Duration = Duration::from_millis(10);
const TIME: Duration = Duration::from_millis(2_500);

/// Locks out the other tests, since each needs all CPUs.
fn exclusive() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    poll_recorder::lock(&ONE)
}

/// Resolves the symbols of all kinds of blocks once. In a debug build the first resolution takes a
/// tenth of a second or more on the reporting thread, and reports are late meanwhile.
fn preload_symbols() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mode = Mode::measured().next().expect("a mode that measures tasks");
        drop(modes::run(mode, THRESHOLD, TIME, 2));
    });
}

/// Asserts that every mode of a flavour meets its bars.
fn assert_bars_are_met(flavour: Flavour) {
    let _exclusive = exclusive();
    preload_symbols();
    for mode in Mode::measured().filter(|mode| mode.flavour == flavour) {
        let evaluation = modes::run(mode, THRESHOLD, TIME, 1);
        let missed = evaluation.missed_bars();
        assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), evaluation.faults.join("\n"));
        // The load has produced stalls of every kind.
        assert!(
            evaluation.long > 0 && evaluation.reports > 0 && evaluation.site.of > 0 && evaluation.route.of > 0,
            "{evaluation:?}"
        );
    }
}

#[test]
fn a_current_thread_runtime() {
    assert_bars_are_met(Flavour::CurrentThread);
}

#[test]
fn one_worker() {
    assert_bars_are_met(Flavour::MultiThread(1));
}

#[test]
fn two_workers() {
    assert_bars_are_met(Flavour::MultiThread(2));
}

#[test]
fn four_workers() {
    assert_bars_are_met(Flavour::MultiThread(4));
}

/// Checks that observed stalls of unmeasured tasks are right, on an idle machine and a busy one.
#[test]
fn observed_stalls_are_right() {
    let _exclusive = exclusive();
    for mode in Mode::unwatched() {
        let assert_bars_are_met = |unwatched: &Unwatched| {
            let missed = unwatched.missed_bars();
            assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), unwatched.faults.join("\n"));
        };
        let unwatched = modes::run_unwatched(mode, THRESHOLD, TIME, 1);
        assert_bars_are_met(&unwatched);
        assert!(unwatched.waiting.of > 0 && unwatched.observed.reported > 0, "{}: {unwatched:?}", mode.name());
        if mode.flavour == Flavour::MultiThread(2) {
            assert_bars_are_met(&overload::run_unwatched(mode, THRESHOLD, TIME, 1));
        }
    }
}

/// The number of attempts of a test for blame. An overloaded machine seldom causes blame, since the
/// kernel counts a run delay only when the thread runs again. One attempt must be right. A broken
/// exoneration is wrong in each.
const ATTEMPTS: usize = 3;

/// Runs with four busy threads per CPU.
#[test]
fn no_task_is_blamed_for_an_overloaded_machine() {
    let _exclusive = exclusive();
    for mode in Mode::measured().filter(|mode| mode.flavour == Flavour::MultiThread(2)) {
        let is_right = |_: usize| {
            let overload = overload::run(mode, THRESHOLD, TIME, 1);
            let context = || format!("{}: {:#?}\n{}", mode.name(), overload.missed_bars(), overload.faults.join("\n"));
            assert_eq!((overload.wrong, overload.missed), (0, 0), "{}", context());
            assert!(overload.innocent > 0, "{overload:?}");
            overload.blamed == 0 || {
                eprintln!("{}", context());
                false
            }
        };
        assert!((0..ATTEMPTS).any(is_right), "{}: a task is blamed in every attempt", mode.name());
    }
}

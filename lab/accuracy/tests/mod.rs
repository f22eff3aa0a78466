//! A short form of `cargo run --release -p pollwatch-lab --bin accuracy`, with the same bars. The
//! ground truth includes preemption and pauses of the machine, so no bar has to be lower here.

mod false_alarms;

use std::sync::{Mutex, MutexGuard, Once};
use std::time::Duration;

use crate::suite::modes::{self, Flavour, Mode};
use crate::suite::overload::Shortage;
use crate::suite::unwatched::Unwatched;
#[cfg(all(tokio_unstable, feature = "delays"))]
use crate::suite::victims;
use crate::suite::{incidents, kernel_time, late, locks, overload, poll_recorder};

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

/// Checks that stalls in the kernel are captured there, and say so.
#[test]
fn stalls_in_the_kernel_are_right() {
    let _exclusive = exclusive();
    preload_symbols();
    let result = kernel_time::run(THRESHOLD, TIME, 1);
    let missed = result.missed_bars();
    assert!(missed.is_empty(), "{missed:#?}\n{}", result.faults.join("\n"));
    let all_are_made = [result.mode, result.leaf, result.page_faults].iter().all(|statements| statements.made.of > 0);
    assert!(all_are_made, "{result:?}");
}

/// Checks that the holders of locks are never wrong, and that most are found.
#[test]
fn holders_of_locks_are_right() {
    let _exclusive = exclusive();
    preload_symbols();
    for row in locks::run(THRESHOLD, TIME) {
        let missed = row.missed_bars();
        assert!(missed.is_empty(), "{missed:#?}\n{}", row.faults.join("\n"));
        assert!(row.blocks > 0, "{row:?}");
    }
}

/// Checks that incidents are reported, and nothing that resembles one.
#[test]
fn incidents_are_right() {
    let _exclusive = exclusive();
    let figures = incidents::run(THRESHOLD, TIME, 1);
    let missed = figures.missed_bars();
    assert!(missed.is_empty(), "{missed:#?}\n{}", figures.faults.join("\n"));
    let is_injected = |row: &incidents::ConditionRow| row.long.of > 0 && row.durations.of > 0 && row.short > 0;
    let has_all = figures.rows.iter().filter(|row| incidents::can_occur(row.kind)).all(is_injected);
    assert!(has_all, "{figures:?}");
}

/// Checks that 600 polls of 6 ms are reported, each of which is shorter than the threshold.
#[test]
fn a_late_runtime_is_reported() {
    let _exclusive = exclusive();
    let figures = late::run(2, THRESHOLD, TIME);
    let missed = figures.missed_bars();
    assert!(missed.is_empty(), "{missed:#?}\n{}", figures.faults.join("\n"));
    // A machine without a free CPU disturbs every flood, and most are reported even so.
    assert!(figures.users.of > 0, "nothing is reported: {figures:?}");
}

/// Checks that the tasks that waited behind stalls are right.
#[test]
#[cfg(all(tokio_unstable, feature = "delays"))]
fn victims_are_right() {
    let _exclusive = exclusive();
    for mode in Mode::measured().filter(|mode| mode.has_hooks()) {
        let figures = victims::run(mode, THRESHOLD, TIME / 3, 1);
        let missed = figures.missed_bars();
        assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), figures.faults.join("\n"));
        assert!(figures.with_victims.of > 0 && figures.sites > 4 && !figures.errors.is_empty(), "{figures:?}");
    }
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

/// Returns true if one attempt in a shortage of CPUs is right: no task is blamed for being given no
/// CPU, and one that computes for the threshold is.
fn blames_the_right_tasks(mode: Mode, shortage: Shortage) -> bool {
    (0..ATTEMPTS).any(|_| {
        let overload = match overload::run(mode, shortage, THRESHOLD, TIME, 1) {
            Ok(overload) => overload,
            Err(why) => {
                eprintln!("{}, {shortage:?}: skipped: {why}", mode.name());
                return true;
            }
        };
        let context = || format!("{}: {:#?}\n{}", mode.name(), overload.missed_bars(), overload.faults.join("\n"));
        assert_eq!((overload.wrong, overload.missed), (0, 0), "{}", context());
        assert!(overload.innocent > 0 && overload.computed > 0, "{overload:?}");
        overload.blamed == 0 && overload.computed_found == overload.computed || {
            eprintln!("{}", context());
            false
        }
    })
}

#[test]
fn a_shortage_of_cpus_is_no_excuse_and_no_blame() {
    let _exclusive = exclusive();
    for mode in Mode::measured().filter(|mode| mode.flavour == Flavour::MultiThread(2)) {
        for shortage in [Shortage::BusyThreads, Shortage::CpuLimit] {
            assert!(blames_the_right_tasks(mode, shortage), "{}, {shortage:?}: wrong in every attempt", mode.name());
        }
    }
}

//! How often pollwatch is wrong: a short form of `cargo run --release -p pollwatch-lab --bin
//! accuracy`, with the same bars. The ground truth contains what the machine does to a thread, so
//! no bar has to be lower here.

mod false_alarms;

use std::sync::{Mutex, MutexGuard, Once};
use std::time::Duration;

use crate::suite::modes::{self, Flavour, Mode};
use crate::suite::unwatched::Unwatched;
use crate::suite::{overload, poll_recorder};

const THRESHOLD: Duration = Duration::from_millis(10);
const TIME: Duration = Duration::from_millis(2_500);

/// Lets tests run one at a time: each needs all CPUs.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    poll_recorder::lock(&ONE)
}

/// Resolves the symbols of all kinds of blocks once. In a debug build the first resolution takes a
/// tenth of a second or more on the reporting thread, and reports are late meanwhile.
fn preload_symbols() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mode = Mode::exact().next().expect("there is one");
        drop(modes::run(mode, THRESHOLD, TIME, 2));
    });
}

/// Returns the modes that measure every task.
fn measured() -> impl Iterator<Item = Mode> {
    Mode::exact()
}

fn holds(flavour: Flavour) {
    let _alone = alone();
    preload_symbols();
    for mode in measured().filter(|mode| mode.flavour == flavour) {
        let evaluation = modes::run(mode, THRESHOLD, TIME, 1);
        let missed = evaluation.missed_bars();
        assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), evaluation.faults.join("\n"));
        // The load did produce stalls of every kind.
        assert!(
            evaluation.long > 0 && evaluation.reports > 0 && evaluation.site.of > 0 && evaluation.route.of > 0,
            "{evaluation:?}"
        );
    }
}

#[test]
fn a_current_thread_runtime() {
    holds(Flavour::CurrentThread);
}

#[test]
fn one_worker() {
    holds(Flavour::MultiThread(1));
}

#[test]
fn two_workers() {
    holds(Flavour::MultiThread(2));
}

#[test]
fn four_workers() {
    holds(Flavour::MultiThread(4));
}

/// Checks that observed stalls of unmeasured tasks are right, on an idle machine and a busy one.
#[test]
fn certain_is_certain() {
    let _alone = alone();
    for mode in Mode::unwatched() {
        let holds = |unwatched: &Unwatched| {
            let missed = unwatched.missed_bars();
            assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), unwatched.faults.join("\n"));
        };
        let unwatched = modes::run_unwatched(mode, THRESHOLD, TIME, 1);
        holds(&unwatched);
        assert!(unwatched.waiting.of > 0 && unwatched.certain.reported > 0, "{}: {unwatched:?}", mode.name());
        if mode.flavour == Flavour::MultiThread(2) {
            holds(&overload::run_unwatched(mode, THRESHOLD, TIME, 1));
        }
    }
}

/// The number of attempts of a test for blame. An overloaded machine seldom causes blame, since the
/// kernel counts a run delay only when the thread runs again. One attempt must be right. A broken
/// exoneration is wrong in each.
const ATTEMPTS: usize = 3;

/// Runs beside four busy threads for each CPU.
#[test]
fn nobody_is_blamed_for_a_machine_with_too_much_to_do() {
    let _alone = alone();
    for mode in Mode::exact().filter(|mode| mode.flavour == Flavour::MultiThread(2)) {
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
        assert!((0..ATTEMPTS).any(is_right), "{}: somebody is blamed each time", mode.name());
    }
}

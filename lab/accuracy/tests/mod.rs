//! How often pollwatch is wrong: a short form of `cargo run --release -p pollwatch-lab --bin accuracy`, with the same
//! bars. The ground ground_truth contains what the machine does to a thread, so no bar has to be lower here.

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

/// Has the symbols of all kinds of blocks looked up once: in a debug build that takes a tenth of a second and more for the first of
/// each, on the thread that tells, and what is told then comes late.
fn look_symbols_up() {
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
    look_symbols_up();
    for mode in measured().filter(|mode| mode.flavour == flavour) {
        let tally = modes::run(mode, THRESHOLD, TIME, 1);
        let missed = tally.missed_bars();
        assert!(missed.is_empty(), "{}: {missed:#?}\n{}", mode.name(), tally.faults.join("\n"));
        // The load did produce stalls of every kind.
        assert!(tally.long > 0 && tally.reports > 0 && tally.site.of > 0 && tally.route.of > 0, "{tally:?}");
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

/// Tasks that nobody measures: what is certain is so, beside whatever else the machine has to do.
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
        assert!(unwatched.stood.of > 0 && unwatched.certain.told > 0, "{}: {unwatched:?}", mode.name());
        if mode.flavour == Flavour::MultiThread(2) {
            holds(&overload::run_unwatched(mode, THRESHOLD, TIME, 1));
        }
    }
}

/// For blame, which a machine with far too much to do can still bring about, if seldom: what the kernel counts of a thread's waiting is
/// there only once that thread runs again. It has to be right in one of these attempts; a broken excuse is wrong in each.
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

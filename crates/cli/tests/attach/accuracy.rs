//! A short form of `lab/attach/run accuracy`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use attach_lab::accuracy::Run;
use attach_lab::matching::Outcome;

use crate::support::{POLLWATCH, scratch, target_program};

/// The threshold is longer than the default, since other tests run beside this one.
const THRESHOLD: Duration = Duration::from_millis(40);

fn outcome(name: &str, is_pool_busy: bool) -> Outcome {
    // Two targets at a time would leave no CPU to either observer.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch(name);
    let run = Run {
        target: target_program(),
        pollwatch: Path::new(POLLWATCH),
        truth: &folder.join("truth"),
        workers: 2,
        is_pool_busy,
        time: Duration::from_secs(8),
        threshold: THRESHOLD,
        seed: 1,
        arguments: &[],
    };
    let outcome = run.compare().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    outcome
}

/// The bars: each long wait is observed, and nothing else. Not counted are waits during which the
/// observer itself had no CPU, by the kernel's count, and those on threads that were too new.
#[track_caller]
fn assert_bars(outcome: &Outcome) {
    assert!(outcome.observed > 0, "{outcome:#?}");
    assert_eq!(outcome.false_observed, 0, "{outcome:#?}");
    let (mut long, mut observed) = (0, 0);
    for (kind, found) in outcome.kinds.iter().filter(|(kind, _)| kind.waits()) {
        assert_eq!((found.wrong_function, found.wrong_time), (0, 0), "{kind:?} {outcome:#?}");
        long += found.long;
        observed += found.observed;
    }
    assert!(long > 0 && observed == long, "{observed} of {long} {outcome:#?}");
}

#[test]
fn each_long_wait_is_observed_and_nothing_else_with_an_idle_pool() {
    assert_bars(&outcome("idle-pool", false));
}

#[test]
fn each_long_wait_is_observed_and_nothing_else_with_a_busy_pool() {
    assert_bars(&outcome("busy-pool", true));
}

use super::*;
use crate::testing::LateRuntime;
use crate::watermarks::ALL;

const HOUR: Duration = Duration::from_secs(3_600);

/// Watermarks by which requests are rejected at random from twice `high` on.
fn control_of(high: Duration, late: &LateRuntime) -> AdmissionControl {
    let watermarks = Watermarks { high, low: high, sustain: Duration::ZERO };
    AdmissionControl::new(watermarks, late.watchdog.lag_source(), false)
}

/// Decides at a level about a request of a route that blocks for an hour.
fn admit(control: &AdmissionControl, late: &LateRuntime, level: Duration) -> Admission {
    late.set_level(level);
    control.admit(&late.runtime, HOUR)
}

#[test]
fn a_share_of_the_random_numbers_is_within_it() {
    assert!((0..1_000).all(|_| !is_within(0, random()) && is_within(ALL, random())));
    assert!(is_within(ALL, u32::MAX) && !is_within(0, 0));
    for tenths in 1..10u32 {
        let within = (0..100_000).filter(|_| is_within(ALL / 10 * tenths, random())).count();
        // Ten standard deviations.
        assert!(within.abs_diff(tenths as usize * 10_000) < 1_600, "{within} of 100,000 at {tenths}/10");
    }
}

#[test]
fn a_level_and_a_limit_belong_to_one_runtime() {
    let one = LateRuntime::new(2);
    let other = LateRuntime::with_watchdog(one.watchdog.clone(), "second", 2);
    let control = control_of(HOUR, &one);
    control.set_runtimes(vec![one.runtime.clone(), other.runtime.clone()]);
    let current = || control.current_runtime().map(|runtime| runtime.id);
    assert_eq!(current(), None, "this thread is on no runtime");
    for late in [&one, &other] {
        let _entered = late.tokio.enter();
        assert_eq!(current(), Some(late.runtime.id));
    }
    assert!(matches!(admit(&control, &one, HOUR * 2), Admission::Rejected));
    other.wait_reading();
    assert!(matches!(control.admit(&other.runtime, HOUR), Admission::NotOverloaded));
    let [Admission::Admitted(Some(_first)), Admission::Admitted(Some(_second))] =
        [&one, &other].map(|late| admit(&control, late, LateRuntime::LOWEST))
    else {
        panic!("each runtime has a permit")
    };
    assert!(matches!(admit(&control, &one, LateRuntime::LOWEST), Admission::Rejected));
    assert!(matches!(admit(&control, &one, Duration::ZERO), Admission::NotOverloaded));
    assert!(matches!(admit(&control, &other, LateRuntime::LOWEST), Admission::Rejected));
}

#[test]
fn a_level_expires() {
    let late = LateRuntime::new(2);
    let control = control_of(Duration::from_nanos(1), &late);
    assert!(matches!(admit(&control, &late, HOUR), Admission::Rejected));
    // The monitor thread has been blocked for a second.
    let aged = RuntimeLag::new(late.runtime.id, late.runtime.lag.clone(), 2);
    let mut aged = Arc::into_inner(aged).unwrap();
    aged.set_level(HOUR);
    aged.level.start -= MAX_LEVEL_AGE;
    late.wait_reading();
    assert!(matches!(control.admit(&aged, HOUR), Admission::NotOverloaded));
    late.watchdog.shutdown();
    late.runtime.set_level(HOUR);
    assert!(matches!(control.admit(&late.runtime, HOUR), Admission::NotOverloaded), "the watchdog has stopped");
}

/// The probe of a blocked runtime is not answered. Its age rejects requests, which the level alone
/// would not.
#[test]
fn the_age_of_an_unanswered_probe_raises_the_share() {
    let late = LateRuntime::new(1);
    let [lazy, strict] = [HOUR, Duration::from_millis(1)].map(|high| control_of(high, &late));
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    late.tokio.spawn(late.watchdog.watch(async move { blocked.recv().unwrap_err() }));
    test_support::wait_until("the probe is not answered", || {
        late.runtime.lag.read().is_some_and(|reading| reading.unanswered >= Duration::from_millis(2))
    });
    for _ in 0..100 {
        late.set_level(LateRuntime::LOWEST);
        let mean_first_poll = Duration::ZERO;
        assert!(matches!(lazy.admit(&late.runtime, mean_first_poll), Admission::Admitted(None)));
        assert!(matches!(strict.admit(&late.runtime, mean_first_poll), Admission::Rejected));
        late.set_level(Duration::ZERO);
        let admission = strict.admit(&late.runtime, mean_first_poll);
        assert!(matches!(admission, Admission::NotOverloaded), "one long poll does not start it");
    }
    drop(unblock);
}

use std::time::Duration;

use super::*;

/// Returns the clocks of both sources.
fn clocks() -> [Clock; 2] {
    let clocks = [true, false].map(|is_counter| Clock::of(Counter::new().0, is_counter));
    assert_eq!(clocks.each_ref().map(Clock::name), ["cpu counter", "monotonic"]);
    clocks
}

#[test]
fn agrees_with_the_monotonic_clock() {
    for clock in clocks() {
        let thread = ThreadClock::new(&clock);
        let (outer, start) = (Instant::now(), clock.now());
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let inner = inner.elapsed().as_nanos() as f64;
        let times = [
            clock.elapsed_since(start),
            thread.since(start, Nanos::from_millis(1)),
            thread.since(start, Nanos::MAX),
            clock.nanos(clock.now()).saturating_sub(clock.nanos(start)),
        ];
        let outer = outer.elapsed().as_nanos() as f64;
        for (i, nanos) in times.into_iter().enumerate() {
            let nanos = nanos.0 as f64;
            let name = clock.name();
            assert!(nanos >= inner * 0.99 && nanos <= outer * 1.01, "{name} {i}: {inner} <= {nanos} <= {outer}");
        }
        assert_eq!(thread.since(Ticks::MAX, Nanos::MAX), Nanos::ZERO);
        assert_eq!(clock.check(), None);
        assert!(clock.is_consistent());
    }
}

#[test]
fn any_counter_is_scaled_to_within_a_billionth() {
    for hertz in [1_000_000, 24_000_000, 999_999_999, 1_000_000_000, 1_000_000_001, 2_596_000_000, 5_700_000_000_u64] {
        let scale = Scale::of(((1_000_000_000 << 32) / u128::from(hertz)) as u64);
        for seconds in [0, 1, 60, 86_400, 3_000 * 86_400] {
            let ticks = seconds * hertz;
            let exact = seconds * 1_000_000_000;
            assert!(
                scale.nanos(Ticks(ticks), Ticks(0)).0.abs_diff(exact) <= 1 + exact / 500_000_000,
                "{seconds} s at {hertz} Hz"
            );
        }
    }
}

#[cfg(tokio_unstable)]
#[test]
fn a_time_takes_the_ticks_of_the_source() {
    for hertz in [25_000_000, 1_000_000_000, 3_000_000_000_u64] {
        let (mut counter, _) = Counter::new();
        counter.scale = Scale::of(((1_000_000_000 << 32) / u128::from(hertz)) as u64);
        let ticks = Clock::of(counter.clone(), true).ticks(Nanos::from_millis(1)).0;
        assert!(ticks.abs_diff(hertz / 1_000) <= 1, "{ticks} at {hertz} Hz");
        assert_eq!(Clock::of(counter, false).ticks(Nanos::from_millis(1)), Ticks(1_000_000));
    }
}

/// A poll that spans a jump lasts as long as the monotonic clock says, whether it ends before the
/// jump is noticed or after.
#[test]
fn a_time_that_spans_a_jump_is_that_of_the_monotonic_clock() {
    const YEARS: i64 = 1 << 60;
    for (jump, is_noticed) in [(YEARS, false), (YEARS, true), (-YEARS, true)] {
        let [clock, _] = clocks();
        // Far from zero, so that it can jump back.
        clock.fault().jump(YEARS);
        assert!(matches!(clock.check(), Some(ClockChange::Stepped(ClockStep::Forward(_)))));
        let thread = ThreadClock::new(&clock);
        let (outer, start) = (Instant::now(), thread.now());
        std::thread::sleep(Duration::from_millis(5));
        clock.fault().jump(jump);
        assert!(!clock.is_consistent());
        if is_noticed {
            assert!(matches!(clock.check(), Some(ClockChange::Stepped(_))));
            assert!(clock.is_consistent());
        }
        let times = [clock.elapsed_since(start), thread.since(start, Nanos::from_millis(1))];
        let outer = outer.elapsed();
        for nanos in times {
            assert!(nanos.to_duration() <= outer + Duration::from_millis(1), "{jump}: {nanos:?} of {outer:?}");
        }
        assert!(jump < 0 || times.iter().all(|time| *time >= Nanos::from_millis(4)), "{times:?}");
        assert_eq!((clock.steps(), clock.replaced()), (1 + u64::from(is_noticed), None));
    }
}

#[test]
fn a_counter_that_jumps_again_and_again_is_replaced() {
    let [clock, _] = clocks();
    let thread = ThreadClock::new(&clock);
    let (before, start) = (Instant::now(), thread.now());
    let reason = (0..10).find_map(|_| {
        clock.fault().jump(1 << 40);
        match clock.check() {
            Some(ClockChange::Replaced(reason)) => Some(reason),
            _ => None,
        }
    });
    thread.stop_counter();
    assert_eq!(reason, Some("it jumps again and again"));
    assert_eq!((clock.replaced(), clock.name(), clock.check()), (reason, "monotonic", None));
    // A poll that was running has both a reading of the counter and one of the monotonic clock.
    for nanos in [clock.elapsed_since(start), thread.since(start, Nanos::ZERO)] {
        assert!(nanos.to_duration() <= before.elapsed(), "{nanos:?}");
    }
    let start = thread.now();
    std::thread::sleep(Duration::from_millis(2));
    assert!(thread.since(start, Nanos::MAX) >= Nanos::from_millis(2));
    assert!(clock.nanos(start) <= clock.moment());
}

#[test]
fn a_counter_that_starts_anew_out_of_range_is_replaced() {
    let [clock, _] = clocks();
    clock.fault().jump(i64::MIN);
    assert_eq!(clock.check(), Some(ClockChange::Replaced("its readings are out of range")));
}

#[cfg(target_os = "linux")]
#[test]
fn counters_that_differ_between_cpus_are_found() {
    let [clock, _] = clocks();
    clock.suspect();
    assert_eq!(clock.check(), Some(ClockChange::CpusAgree));
    let mut cpus = std::collections::HashSet::new();
    crate::sys::on_each_cpu(|| {
        cpus.extend(crate::sys::current_cpu());
        true
    });
    let has_both = [0, 1].iter().all(|odd| cpus.iter().any(|cpu| cpu % 2 == *odd));
    if !has_both {
        return;
    }
    let [clock, _] = clocks();
    clock.fault().offset_odd_cpus(1 << 30);
    let changes: Vec<_> = std::iter::repeat_with(|| {
        clock.suspect();
        clock.check()
    })
    .take(20)
    .collect();
    assert!(clock.replaced().is_some(), "{changes:?}");
}

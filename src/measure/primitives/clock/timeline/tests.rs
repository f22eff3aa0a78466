use super::*;

/// A counter of 4 ticks a nanosecond.
fn scale() -> Scale {
    Scale::of(1 << 30)
}

const MS: Nanos = Nanos::from_millis(1);

/// Returns the ticks of a time.
fn ticks(time: Nanos) -> u64 {
    4 * time.0
}

fn pair(ticks: u64, at: Nanos) -> ClockPair {
    ClockPair { ticks: Ticks(ticks), at, width: Nanos::ZERO }
}

/// The counter's reading at the moment zero.
const ZERO: u64 = 1 << 50;

/// Returns a timeline that was compared last 100 ms after its start.
fn compared() -> Timeline {
    let mut timeline = Timeline::new(pair(ZERO, Nanos::ZERO));
    assert_eq!(timeline.update(pair(ZERO + ticks(100 * MS), 100 * MS), scale()), None);
    timeline
}

#[test]
fn a_scale_converts_both_ways() {
    for nanos in [1u64, 1_000, 1 << 40] {
        assert_eq!(scale().nanos(Ticks(4 * nanos), Ticks(0)), Nanos(nanos));
        assert_eq!(scale().ticks(Nanos(nanos)), Ticks(4 * nanos));
        assert_eq!(Scale::NANOS.nanos(Ticks(nanos), Ticks(0)), Nanos(nanos));
        assert_eq!(Scale::NANOS.ticks(Nanos(nanos)), Ticks(nanos));
    }
}

#[test]
fn drift_is_corrected_and_is_no_step() {
    let mut timeline = compared();
    // A tenth fast, as beside a monotonic clock that is slewed.
    let fast = ZERO + ticks(100 * MS) + ticks(110 * MS);
    assert_eq!(timeline.update(pair(fast, 200 * MS), scale()), None);
    assert_eq!(timeline.moment_of(Ticks(fast), Ticks(fast), scale()), 200 * MS);
    assert!(timeline.is_current(Ticks(fast)));
    // A comparison that was interrupted corrects nothing.
    let interrupted = ClockPair { width: 5 * MS, ..pair(fast, 203 * MS) };
    assert_eq!(timeline.update(interrupted, scale()), None);
    assert_eq!(timeline.moment_of(Ticks(fast), Ticks(fast), scale()), 200 * MS);
}

#[test]
fn a_jump_forward_is_a_step() {
    let mut timeline = compared();
    let jump = Nanos::from_secs(50 * 365 * 86_400);
    let now = ZERO + ticks(110 * MS) + ticks(jump);
    assert_eq!(timeline.update(pair(now, 110 * MS), scale()), Some(ClockStep::Forward(jump)));
    let moment = |reading| timeline.moment_of(Ticks(reading), Ticks(now), scale());
    assert_eq!(moment(now), 110 * MS);
    assert_eq!(moment(ZERO + ticks(95 * MS)), 95 * MS, "a poll that was running");
    assert_eq!(moment(ZERO + ticks(109 * MS)), 109 * MS, "after the latest comparison, before the jump");
    assert_eq!(moment(now - ticks(5 * MS)), 105 * MS, "after the jump, before it was noticed");
    assert_eq!(moment(now - ticks(jump) / 2), 100 * MS, "never read");
}

#[test]
fn a_jump_back_below_the_start_is_a_step() {
    let mut timeline = compared();
    let now = 1_000_000;
    let Some(ClockStep::Back(_)) = timeline.update(pair(now, 110 * MS), scale()) else { panic!("no step") };
    let later = now + ticks(50 * MS);
    let moment = |reading| timeline.moment_of(Ticks(reading), Ticks(later), scale());
    assert_eq!(moment(later), 160 * MS, "time goes on");
    assert_eq!(moment(ZERO + ticks(95 * MS)), 95 * MS, "a poll that was running");
    assert!(!timeline.is_current(Ticks(ZERO + ticks(95 * MS))));
}

/// A reading that may be of two periods gets the later moment: no poll is taken as longer than it
/// is.
#[test]
fn an_ambiguous_reading_gets_the_later_moment() {
    let mut timeline = compared();
    let now = ZERO + ticks(60 * MS);
    assert_eq!(timeline.update(pair(now, 110 * MS), scale()), Some(ClockStep::Back(50 * MS)));
    let moment = |reading| timeline.moment_of(Ticks(reading), Ticks(now), scale());
    assert_eq!(moment(ZERO + ticks(55 * MS)), 105 * MS);
    assert_eq!(moment(ZERO + ticks(95 * MS)), 95 * MS, "the new period is not there yet");
    assert_eq!(moment(ZERO + ticks(40 * MS)), 40 * MS, "the step was at most 10 ms ago");

    let mut timeline = compared();
    // The step is smaller than the time since the latest comparison.
    let now = ZERO + ticks(200 * MS) + ticks(50 * MS);
    assert_eq!(timeline.update(pair(now, 200 * MS), scale()), Some(ClockStep::Forward(50 * MS)));
    let moment = timeline.moment_of(Ticks(ZERO + ticks(190 * MS)), Ticks(now), scale());
    assert_eq!(moment, 190 * MS, "before the jump; after it, this reading would be of 140 ms");
}

#[test]
fn many_steps_keep_the_latest_periods() {
    let mut timeline = compared();
    for n in 1..=10u64 {
        let at = (100 + 10 * n) * MS;
        let step = timeline.update(pair(ZERO + ticks(at) + n * ticks(1_000 * MS), at), scale());
        assert_eq!(step, Some(ClockStep::Forward(1_000 * MS)));
    }
    let now = ZERO + ticks(200 * MS) + 10 * ticks(1_000 * MS);
    let moment = |reading| timeline.moment_of(Ticks(reading), Ticks(now), scale());
    assert_eq!(moment(now), 200 * MS);
    assert_eq!(moment(now - ticks(1_010 * MS)), 190 * MS);
    assert_eq!(moment(ZERO), 190 * MS, "forgotten: the start of the current period");
}

#[test]
fn a_published_timeline_is_read_unchanged() {
    let mut timeline = compared();
    let shared = SharedTimeline::new(&timeline);
    for n in 1..=5u64 {
        timeline.update(pair(n, (100 + n) * MS), scale());
        shared.publish(&timeline);
        assert_eq!(shared.read(), Some(timeline));
    }
}

/// A thread that was preempted for 50 ms between its two readings knows the moment of the counter's
/// reading only to within that time. Neither the first pair nor that of a step is taken as exact.
#[test]
fn a_preempted_reader_is_no_step() {
    // The counter was read at the start of that time, or at its end.
    for error in [0, 25 * MS.0, 50 * MS.0].map(Nanos) {
        let preempted = |offset: u64, start: Nanos| ClockPair {
            width: 50 * MS,
            ..pair(offset + ticks(start + error), start + 25 * MS)
        };
        let mut timeline = Timeline::new(preempted(ZERO, Nanos::ZERO));
        assert_eq!(timeline.update(pair(ZERO + ticks(52 * MS), 52 * MS), scale()), None, "{error:?}");
        assert_eq!(timeline.moment_of(Ticks(ZERO), Ticks(ZERO), scale()), Nanos::ZERO, "known exactly by now");
        // A real jump that is noticed by a preempted reader is one step only.
        let jump = ticks(Nanos::from_secs(60));
        let step = timeline.update(preempted(ZERO + jump, 60 * MS), scale());
        assert!(matches!(step, Some(ClockStep::Forward(_))), "{step:?}");
        let next = timeline.update(preempted(ZERO + jump, 111 * MS), scale());
        assert_eq!(next, None, "{error:?}");
        assert_eq!(timeline.update(pair(ZERO + jump + ticks(162 * MS), 162 * MS), scale()), None, "{error:?}");
    }
}

use super::*;
use crate::watermarks::ALL;

const WATERMARKS: Watermarks = Watermarks { high: ms(20), low: ms(10), sustain: ms(100) };

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn detector() -> OverloadDetector {
    OverloadDetector::new(WATERMARKS)
}

/// Observes one sample each 20 ms from `at` on, and returns the transitions with their times in ms.
fn observe(
    detector: &mut OverloadDetector,
    at: u64,
    samples: impl IntoIterator<Item = DelaySample>,
) -> Vec<(u64, Transition)> {
    let times = (0..).map(|i| at + i * 20);
    times
        .zip(samples)
        .filter_map(|(at, sample)| Some((at, detector.observe(ms(at), Some(sample), false, false)?)))
        .collect()
}

fn share(detector: &OverloadDetector) -> u32 {
    WATERMARKS.rejection_share(detector.level())
}

fn measured(delay: u64) -> DelaySample {
    DelaySample::Measured(ms(delay))
}

#[test]
fn starts_when_the_delay_stays_above_the_high_watermark() {
    let mut steady = detector();
    assert_eq!(observe(&mut steady, 1_000, [measured(20); 50]), [], "at the watermark is not above it");
    assert_eq!(observe(&mut steady, 2_000, [measured(21); 6]), [(2_100, Transition::Started)]);
    assert!(steady.is_shedding());
    let mut immediate = OverloadDetector::new(Watermarks { sustain: Duration::ZERO, ..WATERMARKS });
    assert_eq!(observe(&mut immediate, 1_000, [measured(21)]), [(1_000, Transition::Started)]);
}

#[test]
fn one_long_poll_is_one_long_delay() {
    let mut detector = detector();
    let delays = [0, 5_000, 1, 3_000, 19, 400, 400, 400, 2].map(measured);
    assert_eq!(observe(&mut detector, 1_000, delays), []);
    assert_eq!(share(&detector), 0);
}

#[test]
fn a_probe_that_still_waits_starts_shedding_as_well() {
    let mut detector = detector();
    let waits = (0..10).map(|i| DelaySample::AtLeast(ms(i * 20)));
    let transitions = observe(&mut detector, 1_000, waits);
    assert_eq!(transitions, [(1_140, Transition::Started)], "above the watermark since 1,040");
    let unchanged = observe(&mut detector, 1_200, [DelaySample::AtLeast(Duration::ZERO); 200]);
    assert_eq!(unchanged, [], "nothing new is no improvement");
    assert_eq!(share(&detector), ALL);
}

#[test]
fn continues_between_the_watermarks_and_stops_below_the_low_one() {
    let mut detector = detector();
    observe(&mut detector, 1_000, [measured(21); 10]);
    assert_eq!(observe(&mut detector, 1_200, [measured(15); 500]), [], "it continues between the watermarks");
    assert_eq!((detector.is_shedding(), share(&detector)), (true, 0), "and rejects nobody");
    let [(_, Transition::Started)] = observe(&mut OverloadDetector::new(WATERMARKS), 1_000, [measured(30); 10])[..]
    else {
        panic!("it starts")
    };
    let stops = observe(&mut detector, 20_000, [measured(9); 500]);
    assert!(matches!(stops[..], [(_, Transition::Stopped)]), "{stops:?}");
    assert!(detector.is_calm());
}

#[test]
fn a_level_decays_gradually() {
    let mut detector = detector();
    observe(&mut detector, 1_000, [measured(60_000); 10]);
    // Two half-lives from twice the high watermark to the low one, however long the delays were.
    let stops = observe(&mut detector, 1_200, [measured(0); 500]);
    let [(at, Transition::Stopped)] = stops[..] else { panic!("{stops:?}") };
    assert!((2_180..=2_240).contains(&at), "{at}");
    observe(&mut detector, 20_000, [measured(60_000); 10]);
    let mut shares = Vec::new();
    for i in 0..50 {
        observe(&mut detector, 20_200 + i * 20, [measured(0)]);
        shares.push(share(&detector));
    }
    assert!(shares.is_sorted_by(|a, b| a >= b) && shares[0] > 0 && shares[49] == 0, "{shares:?}");
    assert!(shares.iter().any(|share| *share > ALL / 3 && *share < ALL / 3 * 2), "gradually: {shares:?}");
}

/// Observes short delays each 20 ms while permits are refused, until shedding stops. Returns the
/// time in ms that this took.
fn stops_although_refused(detector: &mut OverloadDetector, at: u64, sample: impl Fn(u64) -> DelaySample) -> u64 {
    let stops = (0..).map(|i| i * 20).find(|time| {
        let before = detector.level();
        let transition = detector.observe(ms(at + time), Some(sample(*time)), false, true);
        assert!(detector.level() <= before, "refusals raise nothing");
        assert!(*time < 60_000, "it never stops");
        transition == Some(Transition::Stopped)
    });
    stops.unwrap()
}

#[test]
fn refusals_do_not_keep_the_level_for_ever() {
    for delay in [21, 30, 60_000] {
        let mut detector = detector();
        observe(&mut detector, 1_000, [measured(delay); 10]);
        assert!(detector.is_shedding());
        let time = stops_although_refused(&mut detector, 1_200, |_| measured(0));
        // The rest of the two seconds, and two half-lives at most.
        assert!((1_900..=3_000).contains(&time), "{time} ms after {delay} ms");
        // They do not start it either.
        for at in 0..1_000 {
            assert_eq!(detector.observe(ms(10_000 + at * 20), Some(measured(1)), false, true), None);
        }
        assert!(detector.is_calm());
    }
    // Overloaded for a minute: the two seconds have passed.
    let mut detector = detector();
    observe(&mut detector, 1_000, [measured(100); 3_000]);
    let time = stops_although_refused(&mut detector, 61_000, |_| measured(0));
    assert!((980..=1_040).contains(&time), "{time}");
}

#[test]
fn delays_below_the_low_watermark_stop_it_despite_refusals() {
    let mut detector = detector();
    observe(&mut detector, 1_000, [measured(100); 10]);
    let time = stops_although_refused(&mut detector, 1_200, |time| measured(time / 20 % 10));
    assert!(time <= 3_000, "{time}");
}

/// A delay that is never above the high watermark rejects nobody, whatever the other settings are.
#[test]
fn without_delay_it_never_starts() {
    for sustain in [Duration::ZERO, Duration::from_nanos(1), ms(100)] {
        let mut detector = OverloadDetector::new(Watermarks { sustain, ..WATERMARKS });
        let at_least = |delay| DelaySample::AtLeast(ms(delay));
        let samples = [measured(0), measured(1), measured(20), at_least(0), at_least(20), measured(0)];
        for (i, sample) in samples.into_iter().cycle().take(10_000).enumerate() {
            assert_eq!(detector.observe(ms(i as u64 * 20), Some(sample), false, i % 3 == 0), None);
            assert!(detector.is_calm() && share(&detector) == 0);
        }
    }
}

#[test]
fn a_stale_delay_is_no_delay() {
    let mut detector = detector();
    observe(&mut detector, 1_000, [measured(100); 10]);
    assert_eq!(detector.observe(ms(1_900), None, false, false), None);
    assert_eq!(detector.observe(ms(2_200), None, false, false), Some(Transition::Stopped));
    assert_eq!(share(&detector), 0);
    // One long delay a minute does not last for `sustain`.
    for minute in 1..10 {
        assert_eq!(observe(&mut detector, minute * 60_000, [measured(100)]), []);
    }
}

/// In deep overload the probe is answered more seldom than samples expire, and other tasks' polls
/// are not measured, so that there are no lower bounds.
#[test]
fn delays_longer_than_the_expiry_start_shedding_and_keep_it_going() {
    let mut detector = detector();
    let mut transitions = Vec::new();
    for at in (10_000..100_000).step_by(10) {
        let sample = (at % 1_500 == 0).then_some(measured(1_500));
        transitions.extend(detector.observe(ms(at), sample, true, false).map(|transition| (at, transition)));
    }
    assert_eq!(transitions, [(12_000, Transition::Started)], "at the second answer");
    assert_eq!(share(&detector), ALL);
    // The probe was withdrawn.
    assert_eq!(detector.observe(ms(100_000), None, false, false), Some(Transition::Stopped));
}

#[test]
fn survives_odd_watermarks() {
    let (zero, one, max) = (Duration::ZERO, Duration::from_nanos(1), Duration::MAX);
    for (high, low, sustain) in [(zero, zero, zero), (max, max, max), (one, max, zero), (zero, one, one)] {
        let watermarks = Watermarks { high, low, sustain };
        let mut detector = OverloadDetector::new(watermarks);
        for delay in [zero, one, max] {
            observe(&mut detector, 1_000, [DelaySample::Measured(delay), DelaySample::AtLeast(delay)]);
            assert!(watermarks.rejection_share(detector.level()) <= ALL);
        }
    }
}

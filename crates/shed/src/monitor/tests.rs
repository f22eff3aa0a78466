use super::runtime::RuntimeMonitor;
use super::*;
use crate::admission::{Admission, RuntimeLag};
use crate::overload::{DelaySample, Transition};
use pollwatch::Watchdog;

const WATERMARKS: Watermarks =
    Watermarks { high: Duration::from_millis(20), low: Duration::from_millis(10), sustain: Duration::from_millis(100) };

/// The monitor of a runtime, with simulated delays and a simulated clock of 20 ms a step.
struct Fixture {
    watchdog: Watchdog,
    _tokio: tokio::runtime::Runtime,
    monitor: RuntimeMonitor,
    now: Duration,
}

impl Fixture {
    fn new(watermarks: Watermarks) -> Fixture {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let tokio = watchdog.build_runtime("main", builder.enable_all()).unwrap();
        let control = AdmissionControl::new(watermarks, watchdog.lag_source(), false);
        let lag = watchdog.lag("main").unwrap();
        let runtime = RuntimeLag::new(tokio.handle().id(), lag, 2);
        let monitor = RuntimeMonitor::new(&control, runtime);
        Fixture { watchdog, _tokio: tokio, monitor, now: Duration::from_secs(10) }
    }

    fn step(&mut self, sample: Option<DelaySample>) -> Option<Transition> {
        self.now += Duration::from_millis(20);
        self.monitor.observe(self.now, sample, false)
    }

    /// Makes equal steps, and returns the transitions with the numbers of their steps.
    fn steps(&mut self, n: usize, sample: Option<DelaySample>) -> Vec<(usize, Transition)> {
        (0..n).filter_map(|i| Some((i, self.step(sample)?))).collect()
    }

    /// Refuses one of two requests of a blocking route that come at once.
    fn refuse(&self) {
        let permit = self.monitor.runtime.limit.try_acquire();
        assert!(permit.is_some() && self.monitor.runtime.limit.try_acquire().is_none());
    }
}

fn measured(ms: u64) -> Option<DelaySample> {
    Some(DelaySample::Measured(Duration::from_millis(ms)))
}

#[test]
fn refusals_do_not_keep_shedding_going() {
    let mut fixture = Fixture::new(WATERMARKS);
    assert_eq!(fixture.steps(50, measured(60)), [(5, Transition::Started)]);
    let stops = (0..).find(|i| {
        fixture.refuse();
        assert!(*i < 200, "shedding after {i} steps");
        fixture.step(measured(1)) == Some(Transition::Stopped)
    });
    assert!(stops.unwrap() <= 150, "two seconds and two half-lives: {stops:?}");
    for _ in 0..1_000 {
        fixture.refuse();
        assert_eq!(fixture.step(measured(1)), None);
    }
}

#[test]
fn a_service_without_delay_is_never_shed() {
    let mut fixture = Fixture::new(WATERMARKS);
    let samples = [0, 1, 19, 20].map(measured);
    // Single long delays are those of long polls.
    let late = [measured(5_000), measured(0), None];
    for sample in samples.into_iter().chain(late).cycle().take(10_000) {
        assert_eq!(fixture.step(sample), None);
        let control = AdmissionControl::new(WATERMARKS, fixture.watchdog.lag_source(), false);
        let admission = control.admit(&fixture.monitor.runtime, Duration::from_secs(1));
        assert!(matches!(admission, Admission::NotOverloaded));
    }
}

#[test]
fn silence_stops_shedding_after_a_second() {
    let mut fixture = Fixture::new(WATERMARKS);
    // Before, it neither starts nor ends the time above the watermark.
    assert_eq!(fixture.steps(3, measured(60)), []);
    assert_eq!(fixture.steps(3, None), []);
    assert_eq!(fixture.steps(1, measured(60)), [(0, Transition::Started)]);
    assert_eq!(fixture.steps(100, None), [(49, Transition::Stopped)]);
    assert_eq!(fixture.steps(100, None), []);
}

#[test]
fn two_settings_are_independent() {
    let lazy = Watermarks { sustain: Duration::from_millis(500), ..WATERMARKS };
    let starts = [WATERMARKS, lazy].map(|watermarks| Fixture::new(watermarks).steps(50, measured(60)));
    assert_eq!(starts, [vec![(5, Transition::Started)], vec![(25, Transition::Started)]]);
}

#[test]
fn layers_with_the_same_settings_share_a_control() {
    let watchdogs = [(); 2].map(|()| Watchdog::builder().log(false).start().unwrap());
    let [source, other_source] = watchdogs.each_ref().map(Watchdog::lag_source);
    let other_watermarks = Watermarks { high: Duration::from_millis(30), ..WATERMARKS };
    let first = acquire_control(WATERMARKS, source.clone(), false);
    let others = [
        acquire_control(WATERMARKS, other_source, false),
        acquire_control(other_watermarks, source.clone(), false),
        acquire_control(WATERMARKS, source.clone(), true),
    ];
    assert!(others.iter().all(|other| !Arc::ptr_eq(&first, other)));
    let second = acquire_control(WATERMARKS, source, false);
    assert!(Arc::ptr_eq(&first, &second));
    second.remove_layer();
    assert!(first.has_layers());
    [&first].into_iter().chain(&others).for_each(|control| control.remove_layer());
    assert!(!first.has_layers());
}

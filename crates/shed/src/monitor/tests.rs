use super::runtime::RuntimeMonitor;
use super::*;
use crate::admission::{Admission, Mode, RuntimeLag};
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
        let tokio = watchdog.runtime("main").current_thread().enable_all().build().unwrap();
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

#[test]
fn a_panic_of_the_monitor_thread_admits_all_requests() {
    let watchdog = Watchdog::builder().log(false).start().unwrap();
    let control = Arc::new(AdmissionControl::new(WATERMARKS, watchdog.lag_source(), false));
    control.set_mode(Mode::Engaged);
    let of_thread = |thread| MonitorThread { thread, process: process::id(), controls: vec![control.clone()] };
    let other = thread::spawn(|| {});
    let monitor = Mutex::new(Some(of_thread(other.thread().clone())));
    give_up(&monitor);
    assert!(monitor.lock().unwrap().is_some() && control.is_engaged(), "the thread of later layers");
    let monitor = Mutex::new(Some(of_thread(thread::current())));
    give_up(&monitor);
    assert!(monitor.lock().unwrap().is_none() && !control.is_engaged());
    other.join().unwrap();
}

#[test]
fn the_thread_parks_only_when_nothing_is_left_to_do() {
    let watchdog = Watchdog::builder().log(false).start().unwrap();
    let control = Arc::new(AdmissionControl::new(WATERMARKS, watchdog.lag_source(), false));
    let monitors = [ControlMonitor::new(control.clone())];
    let is_new_control = AtomicBool::new(false);
    assert!(may_park(&monitors, &is_new_control), "it sleeps until a request");
    is_new_control.store(true, Ordering::Relaxed);
    assert!(!may_park(&monitors, &is_new_control), "a control was added");
    is_new_control.store(false, Ordering::Relaxed);
    control.set_mode(Mode::Calm);
    assert!(!may_park(&monitors, &is_new_control), "a request has come");
    control.set_mode(Mode::Asleep);
    control.remove_layer();
    assert!(!may_park(&monitors, &is_new_control), "the last layer is gone");
}

/// A runtime that polls all the time, such as one with a timer, keeps nobody awake.
#[test]
fn a_control_sleeps_a_second_after_its_latest_request() {
    let late = crate::testing::LateRuntime::new(1);
    let hour = Duration::from_secs(3_600);
    let watermarks = Watermarks { high: hour, low: hour, sustain: hour };
    let control = Arc::new(AdmissionControl::new(watermarks, late.watchdog.lag_source(), false));
    let mut monitor = ControlMonitor::new(control.clone());
    let start = Instant::now();
    for second in [0, 10, 20] {
        let at = |ms| start + Duration::from_secs(second) + Duration::from_millis(ms);
        monitor.step(at(0));
        assert!(monitor.is_asleep(), "no request has come");
        assert!(!control.is_engaged());
        late.wait_reading();
        for ms in (0..1_000).step_by(10) {
            monitor.step(at(ms));
            assert!(!monitor.is_asleep(), "after {ms} ms");
        }
        monitor.step(at(1_000));
        assert!(monitor.is_asleep());
    }
    // The request that wakes the monitor attaches its runtime.
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(!other.block_on(async { control.is_engaged() }));
    monitor.step(start + Duration::from_secs(30));
    assert!(other.block_on(async { control.current_runtime() }).is_some());
}

/// In a forked child, a thread of the parent may have held the lock at the fork.
#[test]
fn a_lock_that_is_never_released_is_given_up() {
    let mutex = Mutex::new(7);
    assert_eq!(lock_within(&mutex, Duration::ZERO).map(|guard| *guard), Some(7));
    let _held = mutex.lock().unwrap();
    assert!(lock_within(&mutex, Duration::from_millis(20)).is_none());
}

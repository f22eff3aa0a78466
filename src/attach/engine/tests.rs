//! A panic of the engine while a process is blocked.

use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use pollwatch_stack::{CaptureError, ReadLosses, StopError};

use super::*;
use crate::attach::outcome::Stops;
use crate::attach::process;
use crate::attach::run_times::RunTimes;
use crate::attach::settings::AttachSettings;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::procfs::Descriptor;
use crate::report::incidents::source::IncidentSource;

/// A process that panics when its threads are read, once it is to.
struct PanickingTarget {
    inner: Box<dyn TargetProcess>,
    panics: Arc<AtomicBool>,
}

impl TargetProcess for PanickingTarget {
    fn functions(&mut self) -> TokioFunctions {
        self.inner.functions()
    }

    fn calls_block_in_place(&mut self) -> Option<bool> {
        self.inner.calls_block_in_place()
    }

    fn version(&self) -> u64 {
        self.inner.version()
    }

    fn threads(&mut self) -> Result<Vec<Tid>, Ended> {
        self.inner.threads()
    }

    fn name(&mut self, tid: Tid) -> Option<String> {
        self.inner.name(tid)
    }

    fn times(&mut self, tid: Tid) -> Option<RunTimes> {
        assert!(!self.panics.load(Ordering::Relaxed), "the engine panics in this test");
        self.inner.times(tid)
    }

    fn waits(&mut self, tid: Tid) -> Option<u64> {
        self.inner.waits(tid)
    }

    fn state(&mut self, tid: Tid) -> Option<SyscallState> {
        self.inner.state(tid)
    }

    fn is_paused(&mut self) -> bool {
        self.inner.is_paused()
    }

    fn is_held(&mut self, tid: Tid) -> bool {
        self.inner.is_held(tid)
    }

    fn descriptor(&mut self, fd: u64) -> Option<Descriptor> {
        self.inner.descriptor(fd)
    }

    fn losses(&self) -> ReadLosses {
        self.inner.losses()
    }

    fn capture_waiting(&mut self, tid: Tid, state: SyscallState) -> Result<RawStack, CaptureError> {
        self.inner.capture_waiting(tid, state)
    }

    fn capture_running(&mut self, tid: Tid, earlier: RunTimes) -> Option<Result<RawStack, CaptureError>> {
        self.inner.capture_running(tid, earlier)
    }

    fn stop_problem(&self) -> Option<StopError> {
        self.inner.stop_problem()
    }

    fn stops(&self) -> Stops {
        self.inner.stops()
    }
}

/// A process that sleeps, which ends when this is dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_panic_ends_the_stalls_and_the_watch_and_is_logged() {
    let sleeper = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
    let pid = sleeper.0.id();
    let settings =
        AttachSettings { pid, threshold: Duration::from_millis(10), stop: false, all_threads: true, log: None };
    let state = Arc::new(AttachState::new(settings));
    let (events, panics) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (watched, sunk, panicking) = (state.clone(), events.clone(), panics.clone());
    let engine = std::thread::spawn(move || {
        let target = PanickingTarget { inner: process::open(pid).unwrap(), panics: panicking };
        Engine::new(watched, Box::new(target), Box::new(move |event| lock(&sunk).push(event))).run();
    });
    let start = Instant::now();
    while !lock(&events).iter().any(|event| matches!(event, Event::StallStarted(_))) {
        assert!(start.elapsed() < Duration::from_secs(60), "{} events, no stall", lock(&events).len());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(IncidentSource::health(&*state).is_empty());
    panics.store(true, Ordering::Relaxed);
    assert!(engine.join().is_ok(), "the panic has left the thread");
    assert!(matches!(state.lifetime.ended(), Some(Ended::Lost(_))));
    assert_eq!(IncidentSource::health(&*state).first().map(|problem| problem.kind), Some("watchdog_stopped"));
    let events = lock(&events);
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    let starts = count(|event| matches!(event, Event::StallStarted(_)));
    assert_eq!(count(|event| matches!(event, Event::StallEnded { .. })), starts);
    let is_line = |event: &Event| matches!(event, Event::Notice(Notice::Degraded(text)) if text.contains(PANICKED));
    assert_eq!(count(is_line), 1);
}

//! The thread that reads the lag of all runtimes and decides which of them are overloaded. One such
//! thread serves all layers of the process.

mod control;
mod runtime;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{io, process};

use pollwatch::LagSource;

use crate::admission::AdmissionControl;
use crate::log::{self, call_user};
use crate::watermarks::Watermarks;
use control::ControlMonitor;

/// The interval at which the lags are read. The watchdog wakes its probe each 20 ms, so that as a
/// rule each answer is read. Where it publishes several values in an interval, the latest is read.
const INTERVAL: Duration = Duration::from_millis(10);

/// The time for which another thread may hold [`MONITOR`]. In a forked child, a thread of the
/// parent may hold it for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// The monitor thread of this process, while there is one.
static MONITOR: Mutex<Option<MonitorThread>> = Mutex::new(None);
/// The flag that a control was added which the monitor thread has not taken in. The thread locks
/// [`MONITOR`] only when its controls change. If the process forks while it does, the layers of the
/// child admit all requests.
static HAS_NEW_CONTROLS: AtomicBool = AtomicBool::new(false);

/// The monitor thread, and the controls that it serves.
struct MonitorThread {
    thread: Thread,
    /// The process that has the thread. A forked child has none of its parent's threads.
    process: u32,
    controls: Vec<Arc<AdmissionControl>>,
}

/// Returns the control of all layers with this watchdog and these settings, after it has counted
/// one more layer. The control is monitored until the last layer is removed.
pub(crate) fn acquire_control(watermarks: Watermarks, source: LagSource, log: bool) -> Arc<AdmissionControl> {
    let Some(mut monitor) = lock_within(&MONITOR, PATIENCE) else {
        let control = Arc::new(AdmissionControl::new(watermarks, source, log));
        disable(&control, &io::ErrorKind::TimedOut.into());
        return control;
    };
    if monitor.as_ref().is_some_and(|monitor| monitor.process != process::id()) {
        *monitor = None;
    }
    let mut controls = monitor.iter().flat_map(|monitor| &monitor.controls);
    if let Some(known) = controls.find(|known| known.is_of(watermarks, &source, log)) {
        known.add_layer();
        return known.clone();
    }
    let control = Arc::new(AdmissionControl::new(watermarks, source, log));
    let result = running(&mut monitor).map(|running| {
        control.set_monitor(running.thread.clone());
        running.controls.push(control.clone());
        HAS_NEW_CONTROLS.store(true, Ordering::Release);
    });
    // The application's log may make a layer, which locks `MONITOR`.
    drop(monitor);
    if let Err(error) = result {
        disable(&control, &error);
    }
    control
}

/// Admits all requests of a control, because there is no monitor thread for it.
fn disable(control: &AdmissionControl, error: &io::Error) {
    control.disable();
    if control.log {
        log::no_monitor(error);
    }
}

/// Locks a mutex. Returns `None` if it is still locked after `limit`.
fn lock_within<T>(mutex: &Mutex<T>, limit: Duration) -> Option<MutexGuard<'_, T>> {
    let start = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() >= limit => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Returns the monitor thread. Starts it if there is none.
fn running(monitor: &mut Option<MonitorThread>) -> io::Result<&mut MonitorThread> {
    let running = match monitor.take() {
        Some(running) => running,
        None => {
            let thread = thread::Builder::new().name("pollwatch-shed".into()).spawn(run)?;
            MonitorThread { thread: thread.thread().clone(), process: process::id(), controls: Vec::new() }
        }
    };
    Ok(monitor.insert(running))
}

/// The main function of the monitor thread. It returns when no layer is left.
fn run() {
    if call_user(monitor_controls) {
        give_up(&MONITOR);
    }
}

fn monitor_controls() {
    let mut controls = Vec::new();
    while update(&mut controls) {
        let now = Instant::now();
        controls.iter_mut().for_each(|control| control.step(now));
        if may_park(&controls, &HAS_NEW_CONTROLS) {
            // A request of an idle layer wakes the thread, and so do a layer that is dropped and a
            // new control.
            thread::park();
        } else {
            thread::park_timeout(INTERVAL);
        }
    }
}

/// Returns whether there is nothing to do until the thread is unparked. The application's log may
/// park, and takes the token of an unpark then. So the conditions of all unparks are checked here.
fn may_park(controls: &[ControlMonitor], has_new: &AtomicBool) -> bool {
    controls.iter().all(|known| known.is_asleep() && known.control.has_layers()) && !has_new.load(Ordering::Acquire)
}

/// Admits all requests, because the monitor thread has panicked, which is a defect of this crate.
/// The next layer with other settings starts a new thread.
fn give_up(monitor: &Mutex<Option<MonitorThread>>) {
    let mut monitor = monitor.lock().unwrap_or_else(PoisonError::into_inner);
    let current = thread::current().id();
    let Some(dead) = monitor.take_if(|monitor| monitor.thread.id() == current) else { return };
    drop(monitor);
    dead.controls.iter().for_each(|control| control.disable());
    if dead.controls.iter().any(|control| control.log) {
        log::monitor_panicked();
    }
}

/// Takes in new controls, and stops those without layers. Returns `false` when no control is left,
/// so that the thread has to end.
fn update(controls: &mut Vec<ControlMonitor>) -> bool {
    let has_new = HAS_NEW_CONTROLS.swap(false, Ordering::Acquire);
    if !has_new && controls.iter().all(|known| known.control.has_layers()) && !controls.is_empty() {
        return true;
    }
    let mut monitor = lock_monitor();
    let Some(running) = monitor.as_mut() else { return false };
    running.controls.retain(|control| control.has_layers());
    let removed: Vec<_> = controls.extract_if(.., |known| !known.control.has_layers()).collect();
    for control in &running.controls {
        if !controls.iter().any(|known| known.is_of(control)) {
            controls.push(ControlMonitor::new(control.clone()));
        }
    }
    let is_needed = !controls.is_empty();
    if !is_needed {
        *monitor = None;
    }
    drop(monitor);
    // This logs, so it must not hold the lock either.
    removed.into_iter().for_each(ControlMonitor::stop);
    is_needed
}

fn lock_monitor() -> MutexGuard<'static, Option<MonitorThread>> {
    MONITOR.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

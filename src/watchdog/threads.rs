//! The threads of a watchdog, and how they stop.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::config::Config;
use super::state::WatchdogState;
use crate::detect::locks::LockFinder;
use crate::detect::watcher::{Watcher, WatcherSettings};
use crate::error::Error;
#[cfg(feature = "server")]
use crate::export::listen_address::ListenAddress;
#[cfg(feature = "server")]
use crate::export::server::{self, Server};
use crate::measure::runtime::current;
use crate::measure::runtime::meter::Meter;
use crate::report::dispatch::{Dispatcher, OnStall, ReportSettings};
use crate::report::incidents::WakeOnDrop;
use crate::report::stack_symbols::StackSymbols;
use crate::util::lock;
use crate::util::own_thread::OwnThread;

/// The time for which `stop` waits for the threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The threads of one watchdog. The handles share them, and the last handle stops them when it is
/// dropped.
pub(crate) struct Threads {
    state: Arc<WatchdogState>,
    running: Mutex<Vec<OwnThread>>,
    #[cfg(feature = "server")]
    server: Mutex<Option<Server>>,
    addr: Mutex<Option<SocketAddr>>,
}

/// The longest time for which the last report of a stall waits for its victims.
const MAX_VICTIMS_WAIT: Duration = Duration::from_secs(2);

/// Returns the time for which the last report of a stall waits for the tasks that waited behind it.
/// They are polled as soon as the stall is over. The watchdog finds those whose poll has ended by
/// its next scan, a threshold later at most.
fn victims_wait(meter: &Meter) -> Duration {
    match meter.min_delay {
        Some(_) => meter.threshold.to_duration().saturating_mul(2).min(MAX_VICTIMS_WAIT),
        None => Duration::ZERO,
    }
}

impl Threads {
    pub(crate) fn start(state: &Arc<WatchdogState>, on_stall: Option<OnStall>) -> Result<Threads, Error> {
        // Where a thread cannot be started, dropping this stops those that were.
        let started = Threads {
            state: state.clone(),
            running: Mutex::default(),
            #[cfg(feature = "server")]
            server: Mutex::default(),
            addr: Mutex::default(),
        };
        let Config { log, log_format, capture_stacks, symbols, warn_above_alive_tasks, systemd_watchdog, .. } =
            state.config;
        let symbols = if symbols { StackSymbols::OnDemand } else { StackSymbols::Off };
        let Dispatcher { mut recorder, threads } = Dispatcher::new(
            ReportSettings {
                log: log.then_some(log_format),
                capture_stacks,
                symbols,
                victims_wait: victims_wait(&state.meter),
                on_stall,
                incidents: state.incidents.clone(),
                incident_source: state.clone(),
                systemd: systemd_watchdog,
                locks: capture_stacks.then(|| Arc::new(LockFinder::new(state.meter.clone())) as _),
            },
            state.report_counters.clone(),
            state.stalls.clone(),
            state.conditions.clone(),
            #[cfg(feature = "server")]
            state.profile.clone(),
        );
        let settings = WatcherSettings {
            capture_stacks,
            stacks: state.stacks,
            // Growth is only logged.
            warn_above_alive_tasks: if log { warn_above_alive_tasks } else { u64::MAX },
            rescue_driver: state.config.rescue_driver,
            blocking_pool_full_after: state.config.blocking_pool_full_after.into(),
            thread_dumps: state.thread_dumps.clone(),
        };
        let incidents = WakeOnDrop(state.incidents.clone());
        let sink = Box::new(move |event| {
            recorder.record(event);
            // A stall may be the beginning of an incident.
            incidents.0.wake();
        });
        let (meter, status) = (state.meter.clone(), state.status.clone());
        // They end after the watcher, which has the recorder.
        for thread in threads {
            let thread = OwnThread::start(thread.name, thread.run).map_err(Error::thread)?;
            lock(&started.running).push(thread);
        }
        let watch = move || Watcher::new(meter, status, settings, sink).run();
        let watching = OwnThread::start("pollwatch", watch).map_err(Error::thread)?;
        // Set before any poll could wake the watcher.
        state.meter.wake.set_thread(watching.thread().clone());
        lock(&started.running).push(watching);
        Ok(started)
    }

    /// Binds the address on this thread, so that the caller gets the error, and serves it on a new
    /// thread.
    #[cfg(feature = "server")]
    pub(crate) fn serve(&self, address: &ListenAddress) -> Result<(), Error> {
        let (server, run) = Server::bind(address, self.state.clone())?;
        let thread = OwnThread::start(server::THREAD_NAME, run).map_err(Error::thread)?;
        *lock(&self.addr) = Some(server.local_addr());
        *lock(&self.server) = Some(server);
        lock(&self.running).push(thread);
        Ok(())
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        *lock(&self.addr)
    }

    /// Stops the threads, and waits until all is reported, without a time limit and wherever it is
    /// called. There must be no callback.
    #[cfg(feature = "testing")]
    pub(crate) fn stop_and_wait(&self) {
        self.signal_stop().into_iter().for_each(OwnThread::wait);
    }

    pub(crate) fn stop(&self) {
        // A forked child has none of the threads.
        if self.state.meter.is_forked() {
            return;
        }
        let running = self.signal_stop();
        let here = thread::current().id();
        if running.iter().any(|thread| thread.thread().id() == here) || tokio::runtime::Handle::try_current().is_ok() {
            return;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        running.into_iter().for_each(|thread| thread.join(deadline));
        self.state.thread_dumps.wait_until_idle(deadline);
        // The watchdog thread has done this, unless it was never started or hangs.
        self.stop_runtimes();
    }

    pub(super) fn state(&self) -> &Arc<WatchdogState> {
        &self.state
    }

    fn signal_stop(&self) -> Vec<OwnThread> {
        current::deregister(&self.state.meter);
        self.state.status.stop();
        self.state.incidents.stop();
        self.state.meter.runtimes.stop_attaching();
        self.state.meter.wake.kick();
        #[cfg(feature = "server")]
        drop(lock(&self.server).take());
        // Otherwise the watchdog thread does this after its last scan.
        if !self.state.status.is_running() {
            self.stop_runtimes();
        }
        std::mem::take(&mut *lock(&self.running))
    }

    /// Drops the handles of all runtimes, which no scan needs any more.
    fn stop_runtimes(&self) {
        self.state.meter.runtimes.stop_all(self.state.config.rescue_driver);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
        // In a forked child, `stop` has returned early, and the server is still here. To drop it
        // would wake its runtime, whose locks may have been held by threads that the child does not
        // have.
        #[cfg(feature = "server")]
        std::mem::forget(self.server.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::Watchdog;
    use crate::report::incidents::action::{Action, IncidentRule};
    use crate::util::own_thread::UNSTARTABLE;

    fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_of_the_watchdog_does_not_end_detection() {
        let watchdog = Watchdog::builder().start().unwrap();
        let panics = |turns| {
            watchdog.state.status.injected_panics.store(turns, Ordering::Relaxed);
            wait_until("it panics", || {
                watchdog.state.meter.wake.kick();
                watchdog.state.status.injected_panics.load(Ordering::Relaxed) == 0
            });
        };
        panics(3);
        let turns = watchdog.state.status.wakeups.load(Ordering::Relaxed);
        wait_until("it continues", || {
            watchdog.state.meter.wake.kick();
            watchdog.state.status.wakeups.load(Ordering::Relaxed) > turns
        });
        let coverage = watchdog.coverage();
        assert_eq!((coverage.watching, coverage.watchdog_panics), (true, 3), "{coverage}");
        // Shutdown also waits for a thread that panics in its last scan.
        watchdog.state.status.injected_panics.store(1, Ordering::Relaxed);
        watchdog.shutdown();
        assert!(!watchdog.coverage().watching);
    }

    #[test]
    fn a_thread_that_panics_always_stops_and_says_so() {
        let watchdog = Watchdog::builder().start().unwrap();
        watchdog.state.status.injected_panics.store(u64::MAX, Ordering::Relaxed);
        wait_until("it stops", || {
            watchdog.state.meter.wake.kick();
            !watchdog.coverage().watching
        });
        let coverage = watchdog.coverage();
        assert_eq!(coverage.watchdog_panics, 10);
        assert!(coverage.to_string().contains("no stall is found any more"), "{coverage}");
        #[cfg(feature = "server")]
        {
            let is_shown = |why| crate::export::live::json(&*watchdog.state).unwrap().contains(why);
            assert!(is_shown("\"watching\":false,\"stopped\":\"gave_up\""));
            watchdog.shutdown();
            assert!(is_shown("\"stopped\":\"shut_down\""));
        }
    }

    #[test]
    fn a_start_that_fails_leaves_no_thread() {
        for name in ["pollwatch-files", "pollwatch"] {
            let rules = vec![IncidentRule::new(Duration::from_secs(1), Action::print_threads())];
            let state = Arc::new(WatchdogState::new(
                Config::default(),
                rules,
                #[cfg(feature = "prometheus")]
                Default::default(),
            ));
            UNSTARTABLE.set(Some(name));
            let error = Threads::start(&state, None).err();
            UNSTARTABLE.set(None);
            assert!(error.is_some(), "{name}");
            wait_until("no thread has the state", || Arc::strong_count(&state) == 1);
        }
    }

    /// To read unwind tables may take long. Scans do not wait for it.
    #[test]
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    fn scans_while_the_tables_are_read() {
        let reading = pollwatch_stack::hold_unwind_tables();
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        // A worker that has parked: in stable mode its stack is captured.
        let runtime = watchdog.runtime("main").worker_threads(1).enable_all().build().unwrap();
        runtime
            .block_on(runtime.spawn(async { tokio::time::sleep(std::time::Duration::from_millis(5)).await }))
            .unwrap();
        let scans = || watchdog.state.status.wakeups.load(Ordering::Relaxed);
        let before = scans();
        wait_until("it scans", || {
            watchdog.state.meter.wake.kick();
            scans() > before + 3
        });
        drop(reading);
        watchdog.shutdown();
        assert!(!watchdog.coverage().watching);
    }

    #[test]
    #[cfg(unix)]
    fn a_forked_child_waits_for_no_thread() {
        let watchdog = Watchdog::builder().start().unwrap();
        let ended = crate::util::in_a_fork(|| {
            watchdog.shutdown();
            !watchdog.state.status.is_stopping()
        });
        assert_eq!(ended, Some(true));
        watchdog.shutdown();
        assert!(watchdog.state.status.is_stopping());
    }
}

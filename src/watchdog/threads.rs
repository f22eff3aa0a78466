//! The threads of a watchdog, and how they stop.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use super::config::Config;
use super::state::WatchdogState;
use crate::detect::watcher::{Watcher, WatcherSettings};
use crate::error::Error;
#[cfg(feature = "server")]
use crate::export::server::Server;
use crate::report::dispatch::{self, Dispatcher, OnStall, ReportSettings};
use crate::report::recorder::Recorder;
use crate::util::lock;

/// The time for which `stop` waits for the threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A thread of pollwatch, which signals its end.
pub(crate) struct OwnThread {
    handle: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl OwnThread {
    pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<OwnThread, Error> {
        let (done, ended) = mpsc::channel::<()>();
        let body = move || {
            // Dropped at the end of the thread, also if it panics.
            let _done = done;
            run();
        };
        let handle = thread::Builder::new().name(name.into()).spawn(body).map_err(Error::thread)?;
        Ok(OwnThread { handle, ended })
    }

    fn id(&self) -> ThreadId {
        self.handle.thread().id()
    }

    /// Waits for the end of the thread, without a time limit. The thread must not run user code.
    #[cfg(feature = "testing")]
    fn wait(self) {
        let _ = self.handle.join();
    }

    /// Waits for the end of the thread until the deadline: a user's callback or subscriber may
    /// hang.
    fn join(self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        if let Err(mpsc::RecvTimeoutError::Disconnected) = self.ended.recv_timeout(timeout) {
            let _ = self.handle.join();
        }
    }
}

/// The threads of one watchdog. The handles share them, and the last handle stops them when it is
/// dropped.
pub(crate) struct Threads {
    state: Arc<WatchdogState>,
    running: Mutex<Vec<OwnThread>>,
    #[cfg(feature = "server")]
    server: Mutex<Option<Server>>,
    addr: Mutex<Option<SocketAddr>>,
}

impl Threads {
    pub(crate) fn start(state: &Arc<WatchdogState>, on_stall: Option<OnStall>) -> Result<Threads, Error> {
        let Config { log, capture_stacks, warn_above_alive_tasks, .. } = state.config;
        let (send, queue) = mpsc::sync_channel(dispatch::QUEUE);
        let (stalls, counters) = (state.stalls.clone(), state.report_counters.clone());
        let dispatcher = Dispatcher::new(
            ReportSettings { log, capture_stacks, on_stall },
            counters.clone(),
            stalls.clone(),
            #[cfg(feature = "server")]
            state.profile.clone(),
        );
        let mut recorder = Recorder::new(stalls, send, counters);
        let settings = WatcherSettings {
            capture_stacks,
            stacks: state.stacks,
            // Growth is only logged.
            warn_above_alive_tasks: if log { warn_above_alive_tasks } else { u64::MAX },
        };
        let sink = Box::new(move |event| recorder.record(event));
        let (meter, status) = (state.meter.clone(), state.status.clone());
        // Ends with the watcher, which has the sending end of the queue.
        let reporting = OwnThread::start("pollwatch-report", move || dispatcher.run(queue))?;
        let watching = OwnThread::start("pollwatch", move || Watcher::new(meter, status, settings, sink).run())?;
        // Set before any poll could wake the watcher.
        state.meter.wake.set_thread(watching.handle.thread().clone());
        Ok(Threads {
            state: state.clone(),
            running: Mutex::new(vec![watching, reporting]),
            #[cfg(feature = "server")]
            server: Mutex::default(),
            addr: Mutex::default(),
        })
    }

    /// Binds the address on this thread, so that the caller gets the error, and serves it on a new
    /// thread.
    #[cfg(feature = "server")]
    pub(crate) fn serve(&self, addr: SocketAddr) -> Result<(), Error> {
        let (server, run) = Server::bind(addr, self.state.clone())?;
        let thread = OwnThread::start("pollwatch-http", run)?;
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
        if running.iter().any(|thread| thread.id() == here) || tokio::runtime::Handle::try_current().is_ok() {
            return;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        running.into_iter().for_each(|thread| thread.join(deadline));
    }

    fn signal_stop(&self) -> Vec<OwnThread> {
        self.state.status.stop();
        self.state.meter.wake.kick();
        #[cfg(feature = "server")]
        drop(lock(&self.server).take());
        self.state.meter.runtimes.stop_all();
        std::mem::take(&mut *lock(&self.running))
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
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = watchdog.build_runtime("main", builder.worker_threads(1).enable_all()).unwrap();
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

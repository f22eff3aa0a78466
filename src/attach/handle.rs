//! The handle of an attach.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use pollwatch_stack::Symbolizer;

use super::engine::Engine;
use super::outcome::{Ended, Stops};
use super::process;
use super::settings::AttachSettings;
use super::snapshot;
use super::state::{AttachState, EndOnPanic};
use crate::error::Error;
use crate::export::listen_address::ListenAddress;
use crate::export::page_source::PageSource;
use crate::export::server::{self, Server};
use crate::model::profile::Profile;
use crate::model::snapshot::Snapshot;
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadDump;
use crate::report::dispatch::{Dispatcher, OnStall, ReportSettings};
use crate::report::incidents::WakeOnDrop;
use crate::report::recent::MAX_RECENT;
use crate::report::stack_symbols::StackSymbols;
use crate::util::own_thread::OwnThread;
use crate::util::{call_user, lock};

/// The time for which `detach` waits for the threads.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// The name of the thread that watches the process.
const ENGINE_NAME: &str = "pollwatch-scan";

/// A process that is watched from outside, until [`detach`](Self::detach) or until this is dropped.
///
/// ```no_run
/// let attached = pollwatch::attach::Attach::new(4711).start()?;
/// std::thread::sleep(std::time::Duration::from_secs(10));
/// for stall in attached.stalls() {
///     println!("{stall}");
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[must_use = "the process is watched until this is dropped"]
pub struct Attached {
    state: Arc<AttachState>,
    threads: Mutex<Vec<OwnThread>>,
    server: Mutex<Option<Server>>,
    addr: Option<SocketAddr>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("settings", &self.state.settings).finish_non_exhaustive()
    }
}

impl Attached {
    pub(super) fn start(
        settings: AttachSettings,
        on_stall: Option<OnStall>,
        listen: Option<ListenAddress>,
    ) -> Result<Attached, Error> {
        let log = settings.log;
        let pid = settings.pid;
        let state = Arc::new(AttachState::new(settings));
        let Dispatcher { mut recorder, threads } = Dispatcher::new(
            ReportSettings {
                log,
                // The unwind tables of this process are not needed.
                capture_stacks: false,
                symbols: StackSymbols::Awaited,
                victims_wait: Duration::ZERO,
                on_stall,
                locks: None,
                incidents: state.incidents.clone(),
                incident_source: state.clone(),
                systemd: false,
            },
            state.report_counters.clone(),
            state.stalls.clone(),
            state.conditions.clone(),
            state.profile.clone(),
        );
        let incidents = WakeOnDrop(state.incidents.clone());
        let sink = Box::new(move |event| {
            recorder.record(event);
            incidents.0.wake();
        });
        // Dropping this stops the threads that were started, if something fails from here on.
        let mut attached =
            Attached { state: state.clone(), threads: Mutex::default(), server: Mutex::default(), addr: None };
        for thread in threads {
            attached.add(OwnThread::start(thread.name, thread.run).map_err(Error::thread)?);
        }
        // Only the thread that opens the process may stop its threads.
        let (opened, is_open) = mpsc::channel();
        let (loaded, are_loaded) = mpsc::channel::<()>();
        let engine = state.clone();
        let run = move || {
            let _end = EndOnPanic(engine.clone());
            match process::open(pid) {
                Ok(target) => {
                    let mut engine = Engine::new(engine, target, sink);
                    drop(opened.send(Ok(engine.first_stack())));
                    // Nothing is sent: the other end is dropped.
                    let _ = are_loaded.recv();
                    engine.run();
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        attached.add(OwnThread::start(ENGINE_NAME, run).map_err(Error::thread)?);
        let first = is_open.recv().unwrap_or_else(|_| Err(Error::thread(std::io::ErrorKind::Other.into())))?;
        if let Some(raw) = first {
            // To load the symbols takes up to seconds. Without them, a wait may not be certain.
            call_user(|| drop(Symbolizer::shared().symbolize(&raw)));
        }
        drop(loaded);
        if let Some(address) = &listen {
            let (server, run) = Server::bind(address, state)?;
            attached.add(OwnThread::start(server::THREAD_NAME, run).map_err(Error::thread)?);
            attached.addr = Some(server.local_addr());
            *lock(&attached.server) = Some(server);
        }
        Ok(attached)
    }

    fn add(&self, thread: OwnThread) {
        lock(&self.threads).push(thread);
    }

    /// Returns all figures at this moment. What cannot be known of another process is zero or
    /// absent: polls, sites, routes, and tokio's own metrics.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// for runtime in attached.snapshot().runtimes {
    ///     println!("{}: {} blocked workers", runtime.name, runtime.blocked_workers);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        snapshot::snapshot(&self.state)
    }

    /// Returns the recent stalls, at most 256, the most recent last.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// for stall in attached.stalls() {
    ///     println!("{stall}");
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn stalls(&self) -> Vec<Stall> {
        lock(&self.state.stalls).recent(MAX_RECENT)
    }

    /// Returns the blocked time by runtime, cause and stack.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// for entry in attached.profile().entries {
    ///     println!("{:?} {}", entry.stalls.time, entry.cause);
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn profile(&self) -> Profile {
        lock(&self.state.profile).snapshot()
    }

    /// Returns what all threads of the process do now, grouped by stack. Blocks for some 200 ms,
    /// and for seconds where symbols have to be loaded. A dump is returned again for a second, and
    /// for ten times the time that it took.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// println!("{}", attached.threads());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn threads(&self) -> ThreadDump {
        (*PageSource::threads(&*self.state)).clone()
    }

    /// Returns how often, and for how long, threads that ran were stopped.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// println!("{:?}", attached.stops());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn stops(&self) -> Stops {
        *lock(&self.state.counters.stops)
    }

    /// Returns the number of scans of the threads so far.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// println!("{} scans", attached.scans());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn scans(&self) -> u64 {
        self.state.counters.scans.load(Ordering::Relaxed)
    }

    /// Returns the number of threads of which no stack could be read so far, and of those beyond
    /// the limit of what is scanned. What they do is not known.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// println!("{} threads without a stack", attached.unread_threads());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn unread_threads(&self) -> u64 {
        self.state.counters.unread.load(Ordering::Relaxed)
    }

    /// Returns the address of the server; `None` without [`listen`](super::Attach::listen).
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// assert_eq!(attached.local_addr(), None); // `listen` was not called
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Waits until the process is no longer watched, and returns why. `None` if it still is after
    /// the time `limit`.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// use std::time::Duration;
    ///
    /// if let Some(ended) = attached.wait(Some(Duration::from_secs(60))) {
    ///     println!("{ended}");
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn wait(&self, limit: Option<Duration>) -> Option<Ended> {
        self.state.lifetime.wait(limit)
    }

    /// Stops watching the process, and waits until all is reported, at most 2 s. What was found
    /// stays readable.
    ///
    /// ```no_run
    /// # let attached = pollwatch::attach::Attach::new(4711).start()?;
    /// attached.detach();
    /// println!("{} stalls", attached.stalls().len());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn detach(&self) {
        self.state.lifetime.stop();
        self.state.incidents.stop();
        drop(lock(&self.server).take());
        let deadline = Instant::now() + DETACH_TIMEOUT;
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().for_each(|thread| thread.join(deadline));
        self.state.lifetime.end(Ended::Detached);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.detach();
    }
}

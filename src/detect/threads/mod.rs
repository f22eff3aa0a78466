//! Thread dumps: what all threads of the process do at one moment.
//!
//! A dump has its own thread, which lives no longer than the dump. So neither the scans nor the
//! reports wait for it. [`known`] collects what pollwatch knows of its measured threads anyway,
//! [`reading`] reads all threads, and [`grouping`] groups them by what they do.
//!
//! The cost is bounded in three ways. A dump has a time limit, after which the remaining threads
//! are only counted. There is at most one dump at a time. The latest dump is returned again until
//! ten times its duration has passed, so that a flood of requests takes a tenth of one CPU at most.

mod grouping;
mod known;
#[cfg(all(
    feature = "attach",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(pollwatch_loom)
))]
pub(crate) mod other_process;
mod reading;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::detect::outside::functions::TokioFunctions;
use crate::measure::runtime::meter::Meter;
use crate::model::cause::Syscall;
use crate::model::coverage::StackCoverage;
use crate::model::thread_dump::{ThreadActivity, ThreadDump};
use crate::util::{call_user, lock};
use grouping::Grouping;
use reading::{AllThreads, PreviousWaits};

/// The shortest time for which a dump is returned again.
const SHORTEST_REUSE: Duration = Duration::from_secs(1);
/// The longest time for which a dump is returned again. Only a dump that had to load symbols takes
/// more than a tenth of it.
const LONGEST_REUSE: Duration = Duration::from_secs(6);
/// The factor between the duration of a dump and the time for which it is returned again.
const REST: u32 = 10;
/// The time for which a caller waits for a dump. The symbols of a large program may take longer.
const MAX_WAIT: Duration = Duration::from_millis(2_500);

/// A function that returns what a thread waits for or does, in a few words.
pub(crate) type Explain = fn(&ThreadEvidence<'_>) -> &'static str;

/// What is known of the threads of a group.
pub(crate) struct ThreadEvidence<'a> {
    pub(crate) activity: ThreadActivity,
    pub(crate) syscall: Option<&'a Syscall>,
    pub(crate) stack: Option<&'a pollwatch_stack::Stack>,
    /// The threads are workers in the code of tasks.
    pub(crate) is_in_a_task: bool,
}

/// The settings of thread dumps.
#[derive(Clone, Copy)]
pub(crate) struct DumpSettings {
    /// True if stacks are captured.
    pub(crate) capture_stacks: bool,
    /// True if debug information is read.
    pub(crate) symbols: bool,
    pub(crate) explain: Explain,
    /// The stacks that could be captured at the start.
    pub(crate) stacks: StackCoverage,
}

/// Takes thread dumps, one at a time.
pub(crate) struct ThreadDumper {
    shared: Arc<SharedDumper>,
}

struct SharedDumper {
    meter: Arc<Meter>,
    settings: DumpSettings,
    state: Mutex<DumperState>,
    /// Signalled when a dump is published or has ended.
    changed: Condvar,
    /// Locked by the one dump that is running.
    waits: Mutex<PreviousWaits>,
}

#[derive(Default)]
struct DumperState {
    /// The number of dumps that were started, and of those that have ended.
    started: u64,
    ended: u64,
    latest: Option<LatestDump>,
}

struct LatestDump {
    dump: Arc<ThreadDump>,
    /// The number of the dump.
    number: u64,
    started: Instant,
    expires: Instant,
}

impl fmt::Debug for ThreadDumper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadDumper").finish_non_exhaustive()
    }
}

impl ThreadDumper {
    pub(crate) fn new(meter: Arc<Meter>, settings: DumpSettings) -> ThreadDumper {
        let shared =
            SharedDumper { meter, settings, state: Mutex::default(), changed: Condvar::new(), waits: Mutex::default() };
        ThreadDumper { shared: Arc::new(shared) }
    }

    /// Returns the latest dump, if it is recent, or takes one. Waits for at most 2.5 s.
    pub(crate) fn dump(&self) -> Arc<ThreadDump> {
        // In a forked child, a thread that does not exist there may hold the lock.
        if self.shared.meter.is_forked() {
            return Arc::new(ThreadDump::unavailable("this process is a fork that does not run the watchdog"));
        }
        let mut state = lock(&self.shared.state);
        if let Some(latest) = &state.latest
            && Instant::now() < latest.expires
        {
            return latest.dump.clone();
        }
        if state.started == state.ended {
            state.started += 1;
            drop(state);
            // Where no thread can be started, this one takes the dump, and is not part of it.
            if self.start().is_err() {
                self.shared.run();
            }
            state = lock(&self.shared.state);
        }
        let number = state.started;
        let state = self.wait(state, number, Instant::now() + MAX_WAIT);
        match &state.latest {
            Some(latest) if latest.number >= number => latest.dump.clone(),
            _ => Arc::new(ThreadDump::unavailable("the dump was not ready within 2.5 s")),
        }
    }

    /// Returns a dump with symbols that was started after this time, or starts one. Does not wait:
    /// the caller asks again later.
    pub(crate) fn poll(&self, not_before: Instant) -> Option<Arc<ThreadDump>> {
        if self.shared.meter.is_forked() {
            return None;
        }
        let mut state = lock(&self.shared.state);
        if let Some(latest) = &state.latest
            && latest.started >= not_before
            && !latest.dump.symbols_pending
        {
            return Some(latest.dump.clone());
        }
        if state.started == state.ended {
            state.started += 1;
            drop(state);
            if self.start().is_err() {
                self.shared.end();
            }
        }
        None
    }

    /// Waits until no dump is running, or until the deadline.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) {
        let state = lock(&self.shared.state);
        let number = state.started;
        drop(self.wait(state, number, deadline));
    }

    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, DumperState>,
        number: u64,
        deadline: Instant,
    ) -> MutexGuard<'a, DumperState> {
        while state.ended < number {
            let timeout = deadline.saturating_duration_since(Instant::now());
            if timeout.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, timeout);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Starts the thread of a dump.
    fn start(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        std::thread::Builder::new().name("pollwatch-dump".into()).spawn(move || shared.run()).map(drop)
    }
}

impl SharedDumper {
    /// Takes a dump and publishes it.
    fn run(&self) {
        let started = Instant::now();
        let has_panicked = call_user(|| {
            let readings = AllThreads::take(&self.meter, &self.settings, &mut lock(&self.waits));
            // The symbol table is read by the first dump, and another thread may have locked the
            // symbolizer to load debug information. Both may take longer than anybody waits.
            if lock(&self.state).latest.is_none() {
                let functions = TokioFunctions::default();
                self.publish(Grouping::without_symbols(&readings, &self.settings, &functions).dump(), started);
            }
            let mut grouping = Grouping::new(&readings, &self.settings, TokioFunctions::of_executable());
            // To load symbols may take longer than anybody waits.
            if grouping.must_load_symbols() {
                self.publish(grouping.dump(), started);
                grouping.symbolize();
            }
            self.publish(grouping.dump(), started);
        });
        if has_panicked {
            self.publish(ThreadDump::unavailable("the dump has failed, which is a defect of pollwatch"), started);
        }
        self.end();
    }

    fn end(&self) {
        lock(&self.state).ended += 1;
        self.changed.notify_all();
    }

    fn publish(&self, dump: ThreadDump, started: Instant) {
        let now = Instant::now();
        let max_age = (now.duration_since(started) * REST).clamp(SHORTEST_REUSE, LONGEST_REUSE);
        let mut state = lock(&self.state);
        let number = state.started;
        // A dump that lacks the names of functions is not returned again.
        let expires = if dump.symbols_pending { now } else { now + max_age };
        state.latest = Some(LatestDump { dump: Arc::new(dump), number, started, expires });
    }
}

#[cfg(all(test, target_os = "linux", feature = "capture", not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::model::time::Nanos;

    /// As in a process that loads the symbols of its first stall, which takes seconds in a debug
    /// build.
    #[test]
    fn the_first_dump_does_not_wait_for_another_thread_that_loads_symbols() {
        let symbolizer = pollwatch_stack::Symbolizer::shared();
        let settings =
            DumpSettings { capture_stacks: true, symbols: true, explain: |_| "", stacks: StackCoverage::Taken };
        let dumper = ThreadDumper::new(Meter::of(Nanos(1), 10), settings);
        let dump = dumper.dump();
        assert!(dump.threads > 0 && dump.symbols_pending, "{dump}");
        drop(symbolizer);
        dumper.wait_until_idle(Instant::now() + Duration::from_secs(60));
    }
}

//! Work that may block for ever, such as reading a file of a dead mount, on threads of its own.
//!
//! A thread that waits in the kernel for a file system, or for a page of another process, reacts to
//! no signal but a deadly one. So the work is given to another thread, and whoever needs its result
//! waits for a limited time. A thread that does not return in time is abandoned, and ends when the
//! kernel lets it.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::panics::catches_panic;
use crate::procfs::RunCount;

/// The part of a wait that counts as nothing: the time that a disk needs to answer, and a thread to
/// get a CPU where the kernel does not count that.
const FREE: Duration = Duration::from_millis(2);
/// The share of the time that may be spent waiting, on average, in percent.
const SHARE: u32 = 10;
/// The part of the burst that has to be free again before work is accepted after the burst was
/// spent: one of this many. Work in less time than it needs would be given up, and would spend that
/// time in vain.
const USEFUL: u32 = 4;

/// The most threads of one runner that may be stuck, and of all runners together. Then work is
/// refused until one of them returns.
const MAX_STUCK: usize = 4;
const MAX_STUCK_IN_ALL: usize = 32;
/// The threads of all runners that are stuck.
static STUCK_IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// The size of the stack of a thread, which makes system calls and little else.
const STACK: usize = 256 << 10;

/// The state of one piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkState {
    Running,
    Done,
    /// Nobody waits for it any more.
    Abandoned,
}

/// Runs work with a time limit. One thread is kept for the next work.
///
/// A source that answers late each time must not slow down its reader for ever. So the time that
/// was waited is limited as well, by a [token bucket]: `burst` at once, and [`SHARE`] of the time.
/// Once the burst is spent, all work is refused until a useful part of it is free. Of work that was
/// finished, neither [`FREE`] nor the time for which its thread had no CPU counts, since that is
/// not the source's. The wait for work that was given up counts in whole.
///
/// [token bucket]: https://en.wikipedia.org/wiki/Token_bucket
#[derive(Debug)]
pub(crate) struct BlockingWork {
    burst: Duration,
    waited: Mutex<WaitedTime>,
    idle: Mutex<Option<Worker>>,
    stuck: Arc<AtomicUsize>,
    lost: AtomicU64,
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread that waits for work. It ends when this is dropped.
#[derive(Debug)]
struct Worker {
    work: Sender<Work>,
    /// The process that started it. A forked child does not have it.
    process: u32,
}

/// Work that was started.
#[derive(Debug)]
#[must_use]
pub(crate) struct Started<T> {
    worker: Worker,
    result: Receiver<Finished<T>>,
    state: Arc<Mutex<WorkState>>,
}

/// The result of work.
#[derive(Debug)]
struct Finished<T> {
    value: T,
    /// The time that it took, without that for which its thread had no CPU.
    blocked: Duration,
}

impl BlockingWork {
    /// Makes the runner, with the time that may be waited at once.
    pub(crate) fn new(burst: Duration) -> BlockingWork {
        BlockingWork {
            burst,
            waited: Mutex::new(WaitedTime::new(Instant::now())),
            idle: Mutex::new(None),
            stuck: Arc::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Returns the number of pieces of work that were not finished in time, or were refused.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Runs work on another thread, and waits for it up to `limit`. `None` if it has not finished
    /// then, if it panicked, or if it was refused: too many threads are stuck already, or the time
    /// that may be waited is spent.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.finish(self.start(work)?, limit)
    }

    /// Runs work as [`run`](Self::run) does. The error says whether no thread could be made for it;
    /// in all other cases it is [`TimedOut`](io::ErrorKind::TimedOut).
    pub(crate) fn try_run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let started = self.admit(work)?;
        self.finish(started, limit).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Starts work on another thread. `None` if it was refused.
    pub(crate) fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<Started<T>> {
        self.admit(work).ok()
    }

    fn admit<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Started<T>> {
        let is_admitted = lock(&self.waited).left(self.burst, Instant::now()).is_some();
        let started = if is_admitted { self.try_start(work) } else { Err(io::ErrorKind::TimedOut.into()) };
        self.lost.fetch_add(u64::from(started.is_err()), Ordering::Relaxed);
        started
    }

    /// Waits up to `limit` for work that was started. `None` if it has not finished then, or if it
    /// panicked. Only the time of this wait counts.
    pub(crate) fn finish<T>(&self, started: Started<T>, limit: Duration) -> Option<T> {
        let start = Instant::now();
        let left = lock(&self.waited).left(self.burst, start).unwrap_or_default();
        let finished = self.wait(started, limit.min(left));
        let waited = start.elapsed();
        match &finished {
            Some(finished) => lock(&self.waited).add_finished(waited.min(finished.blocked)),
            None => lock(&self.waited).add_given_up(waited, left),
        }
        self.lost.fetch_add(u64::from(finished.is_none()), Ordering::Relaxed);
        Some(finished?.value)
    }

    fn try_start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Started<T>> {
        let worker = self.worker()?;
        let (send, result) = sync_channel(1);
        let state = Arc::new(Mutex::new(WorkState::Running));
        let (stuck, of_work) = (self.stuck.clone(), state.clone());
        let send_work = worker.work.send(Box::new(move || {
            catches_panic(|| {
                let (start, without_cpu) = (Instant::now(), run_delay());
                let value = work();
                let without_cpu = run_delay().saturating_sub(without_cpu);
                let blocked = start.elapsed().saturating_sub(without_cpu);
                drop(send.send(Finished { value, blocked }));
            });
            if std::mem::replace(&mut *lock(&of_work), WorkState::Done) == WorkState::Abandoned {
                stuck.fetch_sub(1, Ordering::Relaxed);
                STUCK_IN_ALL.fetch_sub(1, Ordering::Relaxed);
            }
        }));
        // The thread takes work for as long as this has its channel.
        send_work.map_err(|_| io::ErrorKind::TimedOut)?;
        Ok(Started { worker, result, state })
    }

    fn wait<T>(&self, started: Started<T>, limit: Duration) -> Option<Finished<T>> {
        let Started { worker, result, state } = started;
        let found = match result.recv_timeout(limit) {
            Ok(found) => Some(found),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let mut state = lock(&state);
                if *state == WorkState::Running {
                    *state = WorkState::Abandoned;
                    self.stuck.fetch_add(1, Ordering::Relaxed);
                    STUCK_IN_ALL.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                // It was finished just now.
                result.recv().ok()
            }
        };
        *lock(&self.idle) = Some(worker);
        found
    }

    /// Returns a thread that has no work. The error says whether none could be made, or too many
    /// are stuck.
    fn worker(&self) -> io::Result<Worker> {
        let process = std::process::id();
        let idle = lock(&self.idle).take();
        if let Some(worker) = idle.filter(|worker| worker.process == process) {
            return Ok(worker);
        }
        let stuck_in_all = STUCK_IN_ALL.load(Ordering::Relaxed);
        if self.stuck.load(Ordering::Relaxed) >= MAX_STUCK || stuck_in_all >= MAX_STUCK_IN_ALL {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (send, receive): (Sender<Work>, Receiver<Work>) = channel();
        let builder = std::thread::Builder::new().name("pollwatch-read".into()).stack_size(STACK);
        let spawned = builder.spawn(move || receive.into_iter().for_each(|work| work()));
        spawned
            .map_err(|error| io::Error::new(error.kind(), format!("no thread could be made to read it: {error}")))?;
        Ok(Worker { work: send, process })
    }
}

/// The time that was spent waiting, of which the share that is permitted is forgotten.
#[derive(Debug)]
struct WaitedTime {
    debt: Duration,
    updated: Instant,
    /// True from when the burst was spent until a useful part of it is free.
    is_spent: bool,
}

impl WaitedTime {
    fn new(now: Instant) -> WaitedTime {
        WaitedTime { debt: Duration::ZERO, updated: now, is_spent: false }
    }

    /// Adds the time of work that was finished.
    fn add_finished(&mut self, blocked: Duration) {
        self.debt += blocked.saturating_sub(FREE);
    }

    /// Adds the time of a wait that was in vain. `left` could be waited when it started. If all of
    /// that was waited, the burst is spent, although a little of it is free again by now.
    fn add_given_up(&mut self, waited: Duration, left: Duration) {
        self.debt += waited;
        self.is_spent |= waited >= left;
    }

    /// Returns the time that may be waited now; `None` while work is refused.
    fn left(&mut self, burst: Duration, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.updated);
        self.debt = self.debt.saturating_sub(passed * SHARE / 100);
        self.updated = now;
        let left = burst.saturating_sub(self.debt);
        let needed = if self.is_spent { burst / USEFUL } else { Duration::ZERO };
        self.is_spent = left <= needed;
        (!self.is_spent).then_some(left)
    }
}

/// Returns the time for which this thread had to wait for a CPU over its life; zero where the
/// kernel does not count it.
fn run_delay() -> Duration {
    thread_local! {
        static COUNTS: OnceCell<Option<File>> = const { OnceCell::new() };
    }
    let mut text = [0; 96];
    let read = COUNTS.with(|counts| {
        let file = counts.get_or_init(|| File::open("/proc/thread-self/schedstat").ok()).as_ref()?;
        file.read_at(&mut text, 0).ok()
    });
    let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
    RunCount::parse(text).map_or(Duration::ZERO, |count| count.run_delay)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn work_that_never_ends_is_given_up_and_then_refused() {
        let work = BlockingWork::new(PATIENCE);
        assert_eq!(work.run(PATIENCE, || 7), Some(7));
        assert_eq!(work.run(PATIENCE, || -> u32 { std::panic::resume_unwind(Box::new(())) }), None);
        assert_eq!((work.run(PATIENCE, || 8), work.lost()), (Some(8), 1));
        let mut releases = Vec::new();
        for _ in 0..MAX_STUCK {
            let (release, wait) = channel::<()>();
            releases.push(release);
            assert_eq!(work.run(Duration::from_millis(5), move || wait.recv().is_ok()), None);
        }
        let start = Instant::now();
        assert_eq!(work.run(PATIENCE, || 9), None, "refused");
        assert!(start.elapsed() < PATIENCE, "without a wait");
        assert_eq!(work.lost(), 2 + MAX_STUCK as u64);
        drop(releases);
        while work.run(PATIENCE, || 9) != Some(9) {
            assert!(start.elapsed() < PATIENCE, "the threads have returned");
            std::thread::yield_now();
        }
    }

    #[test]
    fn answers_that_always_come_late_are_refused_before_long() {
        const LATE: Duration = Duration::from_millis(20);
        let work = BlockingWork::new(2 * LATE);
        let start = Instant::now();
        let answered = (0..50).filter(|_| work.run(PATIENCE, || std::thread::sleep(LATE)).is_some()).count();
        let permitted = 3 + (start.elapsed() * SHARE / 100).div_duration_f64(LATE - FREE).ceil() as usize;
        assert!((1..=permitted).contains(&answered), "{answered} of {permitted}");
        assert_eq!(work.lost(), 50 - answered as u64);
    }

    #[test]
    fn spent_time_is_not_used_up_by_work_that_needs_more() {
        let (burst, start) = (Duration::from_secs(10), Instant::now());
        let mut waited = WaitedTime::new(start);
        assert_eq!(waited.left(burst, start), Some(burst));
        waited.debt = burst;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 1, 10, 25].map(|seconds| waited.left(burst, at(seconds))), [None; 4]);
        let left = waited.left(burst, at(26)).expect("more than a quarter is free");
        assert!(left >= burst / USEFUL);
        // All of that may be used.
        waited.debt += left - Duration::from_millis(1);
        assert_eq!(waited.left(burst, at(26)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn a_wait_that_was_in_vain_spends_the_burst() {
        let (burst, start) = (Duration::from_millis(200), Instant::now());
        let mut waited = WaitedTime::new(start);
        let left = waited.left(burst, start).unwrap();
        waited.add_given_up(left, left);
        let at = |millis| start + Duration::from_millis(millis);
        // A tenth of the wait itself is free again when it ends.
        assert_eq!([200, 400, 500].map(|millis| waited.left(burst, at(millis))), [None; 3]);
        let left = waited.left(burst, at(501)).expect("more than a quarter is free");
        assert!(left >= burst / USEFUL);
        // Work with a limit of its own leaves the rest to others.
        waited.add_given_up(left / 2, left);
        assert_eq!(waited.left(burst, at(501)), Some(left - left / 2));
    }

    #[test]
    fn threads_run_work_at_the_same_time() {
        let work = Arc::new(BlockingWork::new(PATIENCE));
        let (inner, (send, receive)) = (work.clone(), channel());
        // The second work needs the first one to have been done by another thread.
        let outer = work.run(PATIENCE, move || inner.run(PATIENCE, move || send.send(5)).is_some());
        assert_eq!((outer, receive.recv()), (Some(true), Ok(5)));
    }
}

//! What the tests share: own clocks, waiting with a deadline, a record of what `on_stall` was told.

#![allow(dead_code, unused_imports, reason = "several test binaries share this file")]

#[path = "scrape.rs"]
mod scrape;

use std::fmt::Debug;
use std::panic::Location;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use pollwatch::snapshot::{RuntimeSnapshot, SiteSnapshot, Snapshot};
use pollwatch::{Cause, Phase, Stall, Watchdog, WatchdogBuilder, Watched};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

pub(crate) use scrape::*;

/// Longer than anything may take on a busy machine: only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The threshold of most tests.
pub(crate) const THRESHOLD: Duration = Duration::from_millis(20);
/// Whether tokio's task hooks are compiled in.
pub(crate) const HOOKS: bool = cfg!(tokio_unstable);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Set where a test runs itself as a child.
const ROLE: &str = "POLLWATCH_TEST_CHILD";

pub(crate) fn is_child() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// The test `name` of this binary, to be run as a child.
pub(crate) fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
    command
}

/// What the user's own hooks count.
pub(crate) type Counters = [Arc<AtomicU64>; 4];

pub(crate) fn bump(counter: &Arc<AtomicU64>) -> impl Fn() + Send + Sync + 'static {
    let counter = counter.clone();
    move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// For what only holds when nobody else takes the CPU: `Err` tells how the attempt was disturbed. Something that is
/// broken fails every time; a busy machine has a quiet moment now and then.
#[track_caller]
pub(crate) fn undisturbed<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let (begin, mut why) = (Instant::now(), Vec::new());
    while why.len() < 10 || begin.elapsed() < PATIENCE {
        match attempt() {
            Ok(result) => return result,
            Err(reason) => why.push(reason),
        }
    }
    panic!("none of {} attempts was undisturbed; the last ones: {:#?}", why.len(), &why[why.len() - 10..]);
}

/// `Err` for a stall that the machine had a part in: its poll was given no CPU, or everything stood still.
pub(crate) fn is_undisturbed(stall: &Stall) -> Result<(), String> {
    if matches!(stall.cause, Cause::Starved | Cause::Paused) { Err(stall.to_string()) } else { Ok(()) }
}

/// What is said of a duration `holds`; or it is `Err`, when the watchdog was late: then a pause may have been left out.
#[track_caller]
pub(crate) fn measured(watchdog: &Watchdog, holds: bool, what: impl Debug) -> Result<(), String> {
    let oversleeps = watchdog.snapshot().watchdog.oversleeps;
    assert!(holds || oversleeps > 0, "{what:?}");
    if holds { Ok(()) } else { Err(format!("the watchdog was late {oversleeps} times: {what:?}")) }
}

/// Blocks the thread for at least `time` by its own clock; how long it was.
pub(crate) fn block(time: Duration) -> Duration {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::thread::sleep(time.saturating_sub(begin.elapsed()));
    }
    begin.elapsed()
}

/// Is polled once, and again at once.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polled `n + 1` times.
pub(crate) async fn yields(n: usize) {
    for _ in 0..n {
        yield_once().await;
    }
}

/// Counts the polls of a future.
pub(crate) async fn counted<F: Future>(polls: Arc<AtomicU64>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(cx)
    })
    .await
}

/// Blocked threads wait here until it is opened, which a drop does, too.
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate(Arc::default())
    }

    pub(crate) fn key(&self) -> Key {
        Key(self.0.clone())
    }

    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Lets a thread through a [`Gate`].
#[derive(Clone)]
pub(crate) struct Key(Arc<(Mutex<bool>, Condvar)>);

impl Key {
    /// Blocks the thread until the gate opens; whether it did in time.
    pub(crate) fn pass(&self) -> bool {
        let open = lock(&self.0.0);
        let (open, _) =
            self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap_or_else(PoisonError::into_inner);
        *open
    }
}

/// All that `on_stall` was given, in order.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<(Mutex<Vec<Stall>>, Condvar)>);

impl Told {
    pub(crate) fn push(&self, stall: &Stall) {
        lock(&self.0.0).push(stall.clone());
        self.0.1.notify_all();
    }

    /// A callback that only keeps what it is given.
    pub(crate) fn keep(&self) -> impl Fn(&Stall) + Send + Sync + 'static {
        let told = self.clone();
        move |stall| told.push(stall)
    }

    pub(crate) fn all(&self) -> Vec<Stall> {
        lock(&self.0.0).clone()
    }

    /// Of one runtime.
    pub(crate) fn of(&self, runtime: &str) -> Vec<Stall> {
        self.all().into_iter().filter(|s| &*s.runtime == runtime).collect()
    }

    /// Blocks until one such report was made; `None` when it never is.
    pub(crate) fn wait(&self, is_it: impl Fn(&Stall) -> bool) -> Option<Stall> {
        let find = |all: &Vec<Stall>| all.iter().find(|s| is_it(s)).cloned();
        let all = lock(&self.0.0);
        let (all, _) = self
            .0
            .1
            .wait_timeout_while(all, PATIENCE, |all| find(all).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        find(&all)
    }

    pub(crate) fn wait_ongoing(&self, runtime: &str) -> Option<Stall> {
        self.wait(|s| &*s.runtime == runtime && s.phase == Phase::Ongoing)
    }

    #[track_caller]
    pub(crate) fn wait_resolved(&self, runtime: &str) -> Stall {
        self.wait(|s| &*s.runtime == runtime && s.phase == Phase::Resolved).expect("a stall is resolved")
    }
}

/// A silent watchdog, and what it tells.
pub(crate) fn start(threshold: Duration) -> (Watchdog, Told) {
    start_with(Watchdog::builder().threshold(threshold).log(false))
}

pub(crate) fn start_with(builder: WatchdogBuilder) -> (Watchdog, Told) {
    let told = Told::default();
    (builder.on_stall(told.keep()).start().expect("a watchdog starts"), told)
}

/// Waits until everything that happened before this call has been told: a stall of a runtime of its own comes after it.
/// Returns the reports of all other runtimes.
#[track_caller]
pub(crate) fn told_so_far(watchdog: &Watchdog, told: &Told) -> Vec<Stall> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("fence {}", NEXT.fetch_add(1, Ordering::Relaxed));
    let runtime = watchdog.build_runtime(&name, &mut current_thread()).unwrap();
    // Found in flight: what ended before it is then known, if not told; and its own end comes after that.
    runtime.block_on(watchdog.watch(async { told.wait_ongoing(&name).expect("it is told") }));
    told.wait_resolved(&name);
    told.all().into_iter().filter(|s| !s.runtime.starts_with("fence ")).collect()
}

pub(crate) fn current_thread() -> Builder {
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    builder
}

pub(crate) fn multi_thread(workers: usize) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all();
    builder
}

/// One builder of each flavour.
pub(crate) fn flavours() -> [(&'static str, Builder); 2] {
    [("current", current_thread()), ("multi", multi_thread(2))]
}

/// Spawns as `tokio::spawn` does; the place that hooks see is the caller's.
#[track_caller]
pub(crate) fn spawn_on<F>(handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    (handle.spawn(future), Location::caller().to_string())
}

/// Spawns so that it is seen in either mode: by the hooks where there are any, else by a wrapper.
#[track_caller]
pub(crate) fn spawn_seen<F>(watchdog: &Watchdog, handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let place = Location::caller().to_string();
    if HOOKS {
        return (handle.spawn(future), place);
    }
    let _guard = handle.enter();
    (watchdog.spawn(future), place)
}

#[track_caller]
pub(crate) fn watch_at<F: Future>(watchdog: &Watchdog, future: F) -> (Watched<F>, String) {
    (watchdog.watch(future), Location::caller().to_string())
}

pub(crate) fn runtime_of(snapshot: &Snapshot, name: &str) -> RuntimeSnapshot {
    snapshot.runtimes.iter().find(|r| &*r.name == name).cloned().expect("the runtime is known")
}

/// Polls counted for a runtime so far.
pub(crate) fn polls(watchdog: &Watchdog, runtime: &str) -> u64 {
    runtime_of(&watchdog.snapshot(), runtime).polls.count
}

pub(crate) fn find_site(snapshot: &Snapshot, runtime: &str, place: &str) -> Option<SiteSnapshot> {
    snapshot.sites.iter().find(|s| &*s.runtime == runtime && s.site.to_string() == place).cloned()
}

#[track_caller]
pub(crate) fn site_of(watchdog: &Watchdog, runtime: &str, place: &str) -> SiteSnapshot {
    let snapshot = watchdog.snapshot();
    find_site(&snapshot, runtime, place).unwrap_or_else(|| panic!("no site {place}: {:#?}", snapshot.sites))
}

/// Runs `f` on a thread; panics in it are panics here.
pub(crate) fn in_time<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || send.send(f()));
    match receive.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("did not end: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(_) => unreachable!("it sends or panics"),
        },
    }
}

//! What the tests share: own clocks, waiting with a deadline, a record of what `on_stall` was told, a small HTTP client.

#![allow(dead_code, reason = "several test binaries share this file")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use pollwatch::snapshot::{RuntimeSnapshot, SiteSnapshot, Snapshot};
use pollwatch::{Phase, Stall, Watchdog, WatchdogBuilder, Watched};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

/// Longer than anything may take on a busy machine: only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The threshold of most tests.
pub(crate) const THRESHOLD: Duration = Duration::from_millis(20);
/// Whether tokio's task hooks are compiled in.
pub(crate) const HOOKS: bool = cfg!(tokio_unstable);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
/// broken fails every time.
#[track_caller]
pub(crate) fn undisturbed(mut attempt: impl FnMut() -> Result<(), String>) {
    let mut why = Vec::new();
    for _ in 0..10 {
        match attempt() {
            Ok(()) => return,
            Err(reason) => why.push(reason),
        }
    }
    panic!("no attempt of ten was undisturbed: {why:#?}");
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
    let threshold = watchdog.snapshot().watchdog.threshold;
    runtime.block_on(watchdog.watch(async { block(threshold * 2) }));
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

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str) -> Reply {
    let mut stream = connect(addr);
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status line");
    let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
    Reply { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
}

#[track_caller]
pub(crate) fn get(addr: SocketAddr, path: &str) -> Reply {
    request(addr, "GET", path)
}

/// Prometheus text, read.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By the series as it is printed, `name{labels}`.
    pub(crate) series: BTreeMap<String, f64>,
    pub(crate) kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// The sum over all series of a metric that have these labels: over all causes, which a loaded machine decides.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |series: &str| {
            let rest = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
            rest.is_some_and(|rest| labels.iter().all(|(k, v)| rest.contains(&format!("{k}=\"{v}\""))))
        };
        let found: Vec<f64> =
            self.series.iter().filter(|(series, _)| matches(series)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().sum()
    }

    #[track_caller]
    pub(crate) fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                metrics.kinds.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(metrics.series.insert(series.into(), value).is_none(), "twice: {series}");
            }
        }
        metrics
    }

    #[track_caller]
    pub(crate) fn scrape(addr: SocketAddr) -> Metrics {
        let reply = get(addr, "/metrics");
        assert_eq!(reply.status, 200);
        Metrics::parse(&reply.body)
    }

    /// The value of one series, by name and all its labels, in the order of the text.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        let key = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
        self.series.get(&key).copied()
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.series))
    }

    /// Series that must never go down: counters, and the parts of histograms.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.series
            .iter()
            .filter(|(series, _)| self.is_counter(series))
            .map(|(series, value)| (series.as_str(), *value))
    }

    fn is_counter(&self, series: &str) -> bool {
        let name = series.split('{').next().unwrap_or(series);
        let is = |name: &str, kind: &str| self.kinds.get(name).is_some_and(|k| k == kind);
        let parts = ["_bucket", "_sum", "_count"];
        is(name, "counter") || parts.iter().any(|part| name.strip_suffix(part).is_some_and(|n| is(n, "histogram")))
    }
}

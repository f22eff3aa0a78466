//! Tasks that wait to be polled, with their own record of it, and the blocks behind which they
//! wait.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::super::cpu_monitor;
use super::super::fixture::{Fixture, PATIENCE};
use super::super::ground_truth::{Block, Span, now};
use super::super::kinds::Kind;
use super::super::poll_recorder::{self, lock, record_block};
use super::super::requests::request;
use super::super::rng::Rng;

/// One wait of a task: from the moment at which it was spawned or woken to that of its poll.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    /// The route, or else the site, by which pollwatch groups the task.
    pub(super) group: Arc<str>,
    pub(super) site: Arc<str>,
    /// The task was scheduled within this span.
    pub(super) scheduled: Span,
    pub(super) polled: u64,
    /// The thread that polled it.
    pub(super) thread: Arc<str>,
}

/// A poll of a task.
struct RecordedStart {
    at: u64,
    thread: Arc<str>,
}

/// One task, with its own record.
struct TaskRecord {
    group: Arc<str>,
    site: Arc<str>,
    scheduled: Mutex<Vec<Span>>,
    polled: Mutex<Vec<RecordedStart>>,
    waker: Mutex<Option<Waker>>,
    is_woken: AtomicBool,
}

/// All tasks of a run.
#[derive(Default)]
pub(super) struct TaskRecords(Mutex<Vec<Arc<TaskRecord>>>);

impl TaskRecords {
    /// Adds a task that is spawned at the caller's location, under a route if it has one.
    #[track_caller]
    fn add(&self, route: Option<&str>) -> Arc<TaskRecord> {
        let site: Arc<str> = Location::caller().to_string().into();
        let record = Arc::new(TaskRecord {
            group: route.map_or_else(|| site.clone(), Arc::from),
            site,
            scheduled: Mutex::default(),
            polled: Mutex::default(),
            waker: Mutex::default(),
            is_woken: AtomicBool::new(false),
        });
        lock(&self.0).push(record.clone());
        record
    }

    /// Returns the waits of all tasks so far.
    pub(super) fn waits(&self) -> Vec<Wait> {
        let of_task = |task: &Arc<TaskRecord>| -> Vec<Wait> {
            let (scheduled, polled) = (lock(&task.scheduled), lock(&task.polled));
            let wait = |(scheduled, polled): (&Span, &RecordedStart)| Wait {
                group: task.group.clone(),
                site: task.site.clone(),
                scheduled: *scheduled,
                polled: polled.at,
                thread: polled.thread.clone(),
            };
            scheduled.iter().zip(polled.iter()).map(wait).collect()
        };
        lock(&self.0).iter().flat_map(of_task).collect()
    }
}

impl TaskRecord {
    fn record_poll(&self) {
        let at = poll_recorder::poll_start().unwrap_or_else(now);
        lock(&self.polled).push(RecordedStart { at, thread: poll_recorder::thread_name() });
    }

    fn polls(&self) -> usize {
        lock(&self.polled).len()
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take().expect("it waits");
        self.is_woken.store(true, Ordering::Release);
        let start = now();
        waker.wake();
        lock(&self.scheduled).push(Span { start, end: now() });
    }

    /// Waits until the task is woken.
    async fn wait(self: Arc<TaskRecord>) {
        std::future::poll_fn(|cx| {
            self.record_poll();
            if self.is_woken.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            *lock(&self.waker) = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Waits for a condition, and panics if it does not hold in time.
fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "a task is not polled");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Injects blocks with tasks that wait behind them, until `end`.
pub(super) fn inject(fixture: &Arc<Fixture>, records: &Arc<TaskRecords>, end: Instant, mut rng: Rng) {
    while Instant::now() < end {
        let count = 1 + rng.below(4);
        let tasks: Vec<_> = (0..count).map(|_| spawn_waiting(fixture, records, rng.below(5))).collect();
        tasks.iter().for_each(|task| wait_until(|| lock(&task.waker).is_some()));
        let time = Duration::from_nanos((fixture.threshold as f64 * rng.thresholds()) as u64);
        let (mut by_block, mut by_others) = (Vec::new(), Vec::new());
        for task in &tasks {
            if rng.below(3) == 0 {
                by_block.push(task.clone());
            } else {
                by_others.push((time.mul_f64(rng.between(0.0, 1.3)), task));
            }
        }
        by_others.sort_by_key(|(moment, _)| *moment);
        let (starts, started) = channel();
        spawn_blocking_task(fixture, records, Blocking { time, by_block, starts });
        started.recv().expect("the block starts");
        let start = Instant::now();
        for (moment, task) in by_others {
            std::thread::sleep(moment.saturating_sub(start.elapsed()));
            task.wake();
        }
        tasks.iter().for_each(|task| wait_until(|| task.polls() == 2));
        std::thread::sleep(Duration::from_nanos((fixture.threshold as f64 * rng.between(0.0, 0.5)) as u64));
    }
}

/// A block that is still to run.
struct Blocking {
    time: Duration,
    /// The tasks that the blocking task wakes before it blocks.
    by_block: Vec<Arc<TaskRecord>>,
    starts: Sender<()>,
}

fn spawn_blocking_task(fixture: &Fixture, records: &TaskRecords, blocking: Blocking) {
    spawn(&fixture.handle, records, None, |task| async move {
        task.record_poll();
        blocking.by_block.iter().for_each(|task| task.wake());
        let waited = cpu_monitor::own_run_delay();
        let start = now();
        let _ = blocking.starts.send(());
        std::thread::sleep(blocking.time);
        let inner = Span { start, end: now() };
        let waited = cpu_monitor::own_run_delay().saturating_sub(waited);
        record_block(Block { kind: Kind::Sleeps, inner, waited, request: None });
    });
}

/// Spawns a task that waits to be woken: one of several kinds.
fn spawn_waiting(fixture: &Fixture, records: &Arc<TaskRecords>, kind: usize) -> Arc<TaskRecord> {
    let (handle, watchdog) = (&fixture.handle, fixture.watchdog.clone());
    match kind {
        0 | 1 => spawn(handle, records, None, TaskRecord::wait),
        2 => spawn(handle, records, None, TaskRecord::wait),
        3 => spawn(handle, records, Some(READ), |task| request(watchdog, READ, task.wait())),
        _ => {
            let (records, (send, spawned)) = (records.clone(), channel());
            spawn(handle, &records.clone(), Some(EVENTS), |carrier| {
                let spawns = async move {
                    carrier.record_poll();
                    let task = spawn(&Handle::current(), &records, Some(EVENTS), TaskRecord::wait);
                    send.send(task).expect("the injector waits for it");
                };
                request(watchdog, EVENTS, spawns)
            });
            spawned.recv().expect("a request spawns a task")
        }
    }
}

/// The routes of the requests: the tasks of one wait, those of the other spawn tasks that wait.
const READ: &str = "/read";
const EVENTS: &str = "/events";

/// Spawns a task at the caller's location, and records how long that takes.
#[track_caller]
fn spawn<F: Future<Output = ()> + Send + 'static>(
    handle: &Handle,
    records: &TaskRecords,
    route: Option<&str>,
    future: impl FnOnce(Arc<TaskRecord>) -> F,
) -> Arc<TaskRecord> {
    let task = records.add(route);
    let future = future(task.clone());
    let start = now();
    // Not within a closure, so that tokio sees the location of the caller.
    handle.spawn(future);
    lock(&task.scheduled).push(Span { start, end: now() });
    task
}

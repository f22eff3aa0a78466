//! Records every poll that is long or contains a block, outside of pollwatch: by the user's hooks,
//! or by a wrapper around pollwatch's wrapper.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll as Answer};

use pin_project_lite::pin_project;

use super::cpu_monitor;
use super::ground_truth::{Block, Poll, Span, now};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A poll in progress.
struct Open {
    poll: Poll,
    waited: u64,
    cpu: u64,
    used_block_in_place: bool,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
    static NAME: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// A thread was observed with a worker index that another thread had before.
#[derive(Clone, Copy)]
struct Takeover {
    worker: usize,
    at: u64,
}

const WORKERS: usize = 64;

pub(crate) struct PollRecorder {
    /// The shortest poll that is recorded even if it contains no block.
    keep: u64,
    /// True where pollwatch watches the root.
    root_is_watched: bool,
    polls: Mutex<Vec<(Poll, bool)>>,
    owners: [AtomicU64; WORKERS],
    takeovers: Mutex<Vec<Takeover>>,
}

impl PollRecorder {
    pub(crate) fn new(keep: u64, root_is_watched: bool) -> Arc<PollRecorder> {
        Arc::new(PollRecorder {
            keep,
            root_is_watched,
            polls: Mutex::default(),
            owners: std::array::from_fn(|_| AtomicU64::new(0)),
            takeovers: Mutex::default(),
        })
    }

    /// Records the start of a poll on this thread.
    pub(crate) fn start(&self, task: Option<tokio::task::Id>) {
        let start = now();
        let worker = self.current_worker(start);
        let poll = Poll {
            thread: thread_name(),
            task,
            worker,
            is_root: self.root_is_watched && task.is_none() && worker.is_none(),
            outer: Span { start, end: start },
            waited: 0,
            cpu: 0,
            held_until: None,
            blocks: Vec::new(),
            site: None,
        };
        OPEN.with_borrow_mut(|open| {
            let (waited, cpu) = (cpu_monitor::own_run_delay(), cpu_monitor::own_cpu());
            open.push(Open { poll, waited, cpu, used_block_in_place: false })
        });
    }

    /// Records the end of the poll on this thread.
    pub(crate) fn end(&self) {
        let Some(Open { mut poll, waited, cpu, used_block_in_place }) = OPEN.with_borrow_mut(Vec::pop) else { return };
        poll.outer.end = now();
        if poll.outer.nanos() >= self.keep || !poll.blocks.is_empty() {
            poll.cpu = cpu_monitor::own_cpu().saturating_sub(cpu);
            poll.waited = cpu_monitor::own_run_delay().saturating_sub(waited);
            lock(&self.polls).push((poll, used_block_in_place));
        }
    }

    /// Returns the worker index of this thread, and records a takeover of the worker.
    pub(crate) fn current_worker(&self, at: u64) -> Option<usize> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let worker = tokio::runtime::worker_index()?;
        let number = NUMBER.with(|number| {
            if number.get() == 0 {
                number.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            number.get()
        });
        let owner = &self.owners[worker % WORKERS];
        if owner.load(Ordering::Relaxed) != number {
            owner.store(number, Ordering::Relaxed);
            lock(&self.takeovers).push(Takeover { worker, at });
        }
        Some(worker)
    }

    /// Returns all polls so far, in the order of their start.
    pub(crate) fn polls(&self) -> Vec<Poll> {
        let takeovers = lock(&self.takeovers);
        let held = |poll: &Poll| {
            let later = takeovers.iter().filter(|c| Some(c.worker) == poll.worker && c.at > poll.outer.start);
            later.map(|c| c.at).min().unwrap_or(u64::MAX)
        };
        let polls = lock(&self.polls);
        let mut polls: Vec<Poll> = polls
            .iter()
            .map(|(poll, used_block_in_place)| Poll {
                held_until: used_block_in_place.then(|| held(poll)),
                ..poll.clone()
            })
            .collect();
        polls.sort_by_key(|poll| poll.outer.start);
        polls
    }
}

/// Returns the start of the poll that this thread is in.
#[cfg(all(tokio_unstable, feature = "delays"))]
pub(crate) fn poll_start() -> Option<u64> {
    OPEN.with_borrow(|open| open.last().map(|open| open.poll.outer.start))
}

pub(crate) fn thread_name() -> Arc<str> {
    NAME.with_borrow_mut(|name| {
        name.get_or_insert_with(|| std::thread::current().name().unwrap_or("unnamed").into()).clone()
    })
}

fn top(f: impl FnOnce(&mut Open)) {
    OPEN.with_borrow_mut(|open| open.last_mut().map(f));
}

/// Records a block that has ended in the poll of this thread.
pub(crate) fn record_block(block: Block) {
    top(|open| open.poll.blocks.push(block));
}

/// Records the spawn site of the task that this thread polls.
pub(crate) fn record_site(site: &'static Location<'static>) {
    top(|open| open.poll.site = Some(site));
}

/// Records that the poll of this thread is about to call `block_in_place`.
pub(crate) fn record_block_in_place() {
    top(|open| open.used_block_in_place = true);
}

fn blocks() -> usize {
    OPEN.with_borrow(|open| open.last().map_or(0, |open| open.poll.blocks.len()))
}

pin_project! {
    /// A future whose polls are recorded.
    pub(crate) struct RecordedTask<F> {
        #[pin]
        inner: F,
        recorder: Arc<PollRecorder>,
    }
}

impl<F> RecordedTask<F> {
    pub(crate) fn new(recorder: &Arc<PollRecorder>, inner: F) -> RecordedTask<F> {
        RecordedTask { inner, recorder: recorder.clone() }
    }
}

struct End<'a>(&'a PollRecorder);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<F: Future> Future for RecordedTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let this = self.project();
        this.recorder.start(tokio::task::try_id());
        let _end = End(this.recorder);
        this.inner.poll(cx)
    }
}

pin_project! {
    /// A response future outside of the layer. The blocks in its poll belong to its request.
    pub(crate) struct RecordedRequest<F> {
        #[pin]
        pub(crate) inner: F,
    }
}

impl<F: Future> Future for RecordedRequest<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let (start, before) = (now(), blocks());
        let answer = self.project().inner.poll(cx);
        let request = Span { start, end: now() };
        top(|open| open.poll.blocks[before..].iter_mut().for_each(|block| block.request = Some(request)));
        answer
    }
}

pin_project! {
    /// The future of a task, which records where the task was spawned.
    pub(crate) struct RecordedSite<F> {
        #[pin]
        pub(crate) inner: F,
        pub(crate) site: &'static Location<'static>,
    }
}

impl<F: Future> Future for RecordedSite<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let this = self.project();
        record_site(this.site);
        this.inner.poll(cx)
    }
}

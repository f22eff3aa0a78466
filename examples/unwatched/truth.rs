//! What happened: each poll that was long, as a wrapper around the task saw it. pollwatch knows nothing of that wrapper.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

fn base() -> (Instant, SystemTime) {
    static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    *BASE.get_or_init(|| (Instant::now(), SystemTime::now()))
}

/// Since the first look at the clock.
pub(crate) fn now() -> Duration {
    base().0.elapsed()
}

/// A moment of the wall clock, as long as nobody sets it.
pub(crate) fn at_wall(time: SystemTime) -> Duration {
    time.duration_since(base().1).unwrap_or_default()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a poll blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sleeps,
    Locks,
    ReadsSocket,
    Computes,
    /// By `block_in_place`: its worker goes to another thread.
    InPlace,
}

impl Kind {
    /// It waits in one system call, on a worker.
    pub(crate) fn stands(self) -> bool {
        matches!(self, Kind::Sleeps | Kind::Locks | Kind::ReadsSocket)
    }
}

/// One poll.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) thread: Arc<str>,
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    /// The block in it, by its own clock.
    pub(crate) block: Option<(Kind, Duration)>,
}

/// All polls that had a block in them, or were long.
#[derive(Default)]
pub(crate) struct Journal(Mutex<Vec<Record>>);

impl Journal {
    pub(crate) fn polls(&self) -> Vec<Record> {
        lock(&self.0).clone()
    }
}

thread_local! {
    static BLOCK: Cell<Option<(Kind, Duration)>> = const { Cell::new(None) };
}

/// Notes a block of the poll that this thread is in.
pub(crate) fn note(kind: Kind, inner: Duration) {
    BLOCK.set(Some((kind, inner)));
}

/// Notes the polls of a future.
pub(crate) struct Noted<F> {
    pub(crate) future: F,
    pub(crate) journal: Arc<Journal>,
}

/// Shorter polls without a block are left out.
const LONG: Duration = Duration::from_millis(1);

impl<F: Future + Unpin> Future for Noted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        BLOCK.set(None);
        let begin = now();
        let result = Pin::new(&mut self.future).poll(cx);
        let (end, block) = (now(), BLOCK.take());
        if block.is_some() || end - begin >= LONG {
            let thread = std::thread::current().name().unwrap_or("unnamed").into();
            lock(&self.journal.0).push(Record { thread, begin, end, block });
        }
        result
    }
}

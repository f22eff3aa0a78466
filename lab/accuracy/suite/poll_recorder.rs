//! Writes down every poll that matters, from around pollwatch: by the user's own hooks, or by a wrapper around its wrapper.

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

/// A poll that goes on.
struct Open {
    poll: Poll,
    waited: u64,
    in_place: bool,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
    static NAME: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// Who was seen to have a worker's index, in place of somebody else.
#[derive(Clone, Copy)]
struct Claim {
    worker: usize,
    at: u64,
}

const WORKERS: usize = 64;

pub(crate) struct Journal {
    /// A poll that lasts this long is kept, block or not.
    keep: u64,
    polls: Mutex<Vec<(Poll, bool)>>,
    owners: [AtomicU64; WORKERS],
    claims: Mutex<Vec<Claim>>,
}

impl Journal {
    pub(crate) fn new(keep: u64) -> Arc<Journal> {
        Arc::new(Journal {
            keep,
            polls: Mutex::default(),
            owners: std::array::from_fn(|_| AtomicU64::new(0)),
            claims: Mutex::default(),
        })
    }

    /// A poll begins on this thread.
    pub(crate) fn begin(&self, task: Option<tokio::task::Id>) {
        let begin = now();
        let worker = self.seen(begin);
        let poll = Poll {
            thread: name(),
            task,
            worker,
            outer: Span { begin, end: begin },
            waited: 0,
            held_until: None,
            blocks: Vec::new(),
            site: None,
        };
        OPEN.with_borrow_mut(|open| open.push(Open { poll, waited: cpu_monitor::own_run_delay(), in_place: false }));
    }

    /// It ends.
    pub(crate) fn end(&self) {
        let Some(Open { mut poll, waited, in_place }) = OPEN.with_borrow_mut(Vec::pop) else { return };
        poll.outer.end = now();
        if poll.outer.nanos() >= self.keep || !poll.blocks.is_empty() {
            poll.waited = cpu_monitor::own_run_delay().saturating_sub(waited);
            lock(&self.polls).push((poll, in_place));
        }
    }

    /// This thread does something with a worker's index: which.
    pub(crate) fn seen(&self, at: u64) -> Option<usize> {
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
            lock(&self.claims).push(Claim { worker, at });
        }
        Some(worker)
    }

    /// All polls so far, in the order of their begin.
    pub(crate) fn polls(&self) -> Vec<Poll> {
        let claims = lock(&self.claims);
        let held = |poll: &Poll| {
            let later = claims.iter().filter(|c| Some(c.worker) == poll.worker && c.at > poll.outer.begin);
            later.map(|c| c.at).min().unwrap_or(u64::MAX)
        };
        let polls = lock(&self.polls);
        let mut polls: Vec<Poll> = polls
            .iter()
            .map(|(poll, in_place)| Poll { held_until: in_place.then(|| held(poll)), ..poll.clone() })
            .collect();
        polls.sort_by_key(|poll| poll.outer.begin);
        polls
    }
}

fn name() -> Arc<str> {
    NAME.with_borrow_mut(|name| {
        name.get_or_insert_with(|| std::thread::current().name().unwrap_or("unnamed").into()).clone()
    })
}

fn top(f: impl FnOnce(&mut Open)) {
    OPEN.with_borrow_mut(|open| open.last_mut().map(f));
}

/// A block has ended in the poll of this thread.
pub(crate) fn note(block: Block) {
    top(|open| open.poll.blocks.push(block));
}

/// The poll of this thread is of a task spawned here.
pub(crate) fn note_site(site: &'static Location<'static>) {
    top(|open| open.poll.site = Some(site));
}

/// The poll of this thread is about to hand its worker on.
pub(crate) fn note_in_place() {
    top(|open| open.in_place = true);
}

fn blocks() -> usize {
    OPEN.with_borrow(|open| open.last().map_or(0, |open| open.poll.blocks.len()))
}

pin_project! {
    /// Notes each poll of a future.
    pub(crate) struct Outer<F> {
        #[pin]
        inner: F,
        journal: Arc<Journal>,
    }
}

impl<F> Outer<F> {
    pub(crate) fn new(journal: &Arc<Journal>, inner: F) -> Outer<F> {
        Outer { inner, journal: journal.clone() }
    }
}

struct End<'a>(&'a Journal);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<F: Future> Future for Outer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let this = self.project();
        this.journal.begin(tokio::task::try_id());
        let _end = End(this.journal);
        this.inner.poll(cx)
    }
}

pin_project! {
    /// A response future, from outside of the layer: the blocks in its poll are those of its request.
    pub(crate) struct Requested<F> {
        #[pin]
        pub(crate) inner: F,
    }
}

impl<F: Future> Future for Requested<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let (begin, before) = (now(), blocks());
        let answer = self.project().inner.poll(cx);
        let request = Span { begin, end: now() };
        top(|open| open.poll.blocks[before..].iter_mut().for_each(|block| block.request = Some(request)));
        answer
    }
}

pin_project! {
    /// The future of a task: tells the journal where it was spawned.
    pub(crate) struct Spawned<F> {
        #[pin]
        pub(crate) inner: F,
        pub(crate) site: &'static Location<'static>,
    }
}

impl<F: Future> Future for Spawned<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer<F::Output> {
        let this = self.project();
        note_site(this.site);
        this.inner.poll(cx)
    }
}

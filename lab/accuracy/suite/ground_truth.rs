//! What happened, and what was told of it. Plain data; times in nanoseconds since the first look at the clock.

use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use pollwatch::{Cause, Certainty};

use super::kinds::Kind;

pub(crate) const MS: u64 = 1_000_000;
/// A poll is short, and a report of it false, only if it fell short of the threshold by this much: the two clocks differ a little.
pub(crate) const SHORT: u64 = MS / 10;

fn base() -> (Instant, SystemTime) {
    static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    *BASE.get_or_init(|| (Instant::now(), SystemTime::now()))
}

/// A moment of the monotonic clock.
pub(crate) fn at(instant: Instant) -> u64 {
    instant.saturating_duration_since(base().0).as_nanos() as u64
}

pub(crate) fn now() -> u64 {
    at(Instant::now())
}

/// A moment of the wall clock, as long as nobody sets it.
pub(crate) fn at_wall(time: SystemTime) -> u64 {
    time.duration_since(base().1).map_or(0, |since| since.as_nanos() as u64)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(crate) fn nanos(self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    pub(crate) fn overlap(self, other: Span) -> u64 {
        self.end.min(other.end).saturating_sub(self.begin.max(other.begin))
    }
}

/// One block, as it saw itself.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) inner: Span,
    /// How long its thread was ready to run meanwhile, but had no CPU, as the kernel counts.
    pub(crate) waited: u64,
    /// The poll of the request that it was part of: from outside of the layer.
    pub(crate) request: Option<Span>,
}

/// One poll, seen from around pollwatch: one that had a block in it, or was long.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    pub(crate) thread: Arc<str>,
    pub(crate) task: Option<tokio::task::Id>,
    /// The worker whose index the thread had when it began.
    pub(crate) worker: Option<usize>,
    pub(crate) outer: Span,
    /// How long its thread was ready to run within it, but had no CPU, as the kernel counts.
    pub(crate) waited: u64,
    /// It went through `block_in_place`: until when, at the latest, it still held its worker.
    pub(crate) held_until: Option<u64>,
    pub(crate) blocks: Vec<Block>,
    /// Where its task was spawned, or its future watched; `None` for noise.
    pub(crate) site: Option<&'static Location<'static>>,
}

impl Poll {
    /// From the begin of its first block to the end of its last.
    pub(crate) fn inner(&self) -> Option<Span> {
        let (first, last) = (self.blocks.first()?, self.blocks.last()?);
        Some(Span { begin: first.inner.begin, end: last.inner.end })
    }

    /// The longest time that it can have kept a worker.
    pub(crate) fn at_most(&self) -> u64 {
        match self.worker {
            Some(_) => self.held_until.unwrap_or(self.outer.end).min(self.outer.end).saturating_sub(self.outer.begin),
            None => 0,
        }
    }

    /// Whether it would have been short, had it been given a CPU.
    pub(crate) fn is_innocent(&self, threshold: u64) -> bool {
        self.outer.nanos().saturating_sub(self.waited) + SHORT < threshold
    }

    /// The time for which it certainly kept one.
    pub(crate) fn at_least(&self) -> u64 {
        match self.worker {
            Some(_) if self.held_until.is_none() => self.inner().map_or(0, Span::nanos),
            _ => 0,
        }
    }
}

/// What was told of a stall.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) thread: Arc<str>,
    pub(crate) task: Option<tokio::task::Id>,
    pub(crate) worker: Option<usize>,
    /// When its poll began, as it says.
    pub(crate) began: u64,
    /// In the order in which they were received; one at least.
    pub(crate) reports: Vec<Report>,
}

#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) received: u64,
    pub(crate) ongoing: bool,
    pub(crate) elapsed: u64,
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
    /// It says that it may have lasted for longer.
    pub(crate) at_least: bool,
    pub(crate) site: Option<&'static Location<'static>>,
    pub(crate) route: Option<Arc<str>>,
    /// The innermost of the program's own functions.
    pub(crate) leaf: Option<Arc<str>>,
    pub(crate) text: Arc<str>,
}

impl Told {
    pub(crate) fn last(&self) -> &Report {
        self.reports.last().expect("made of a report")
    }
}

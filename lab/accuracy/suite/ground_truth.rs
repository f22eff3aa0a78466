//! The polls and blocks that happened, and the stalls that pollwatch reported. Plain data. Times
//! are nanoseconds since the clock was first read.

use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use pollwatch::{Cause, Certainty};

use super::kinds::Kind;

pub(crate) const MS: u64 = 1_000_000;
/// A report is false only if its poll was shorter than the threshold by more than this, since the
/// two clocks differ a little.
pub(crate) const SHORT: u64 = MS / 10;

fn base() -> (Instant, SystemTime) {
    static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    *BASE.get_or_init(|| (Instant::now(), SystemTime::now()))
}

/// Converts a reading of the monotonic clock.
pub(crate) fn at(instant: Instant) -> u64 {
    instant.saturating_duration_since(base().0).as_nanos() as u64
}

pub(crate) fn now() -> u64 {
    at(Instant::now())
}

/// Converts a reading of the wall clock, which is right as long as nobody sets that clock.
pub(crate) fn at_wall(time: SystemTime) -> u64 {
    time.duration_since(base().1).map_or(0, |since| since.as_nanos() as u64)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(crate) fn nanos(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    pub(crate) fn overlap(self, other: Span) -> u64 {
        self.end.min(other.end).saturating_sub(self.start.max(other.start))
    }
}

/// One block, with its own measurements.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) inner: Span,
    /// The run delay of its thread during the block, as the kernel counts it.
    pub(crate) waited: u64,
    /// The poll of its request, measured outside of the layer.
    pub(crate) request: Option<Span>,
}

/// One poll that was long or contained a block, measured outside of pollwatch.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    pub(crate) thread: Arc<str>,
    pub(crate) task: Option<tokio::task::Id>,
    /// The worker index of the thread at the start of the poll.
    pub(crate) worker: Option<usize>,
    /// True for a watched root that occupies no worker: its long polls are stalls nevertheless.
    pub(crate) is_root: bool,
    pub(crate) outer: Span,
    /// The run delay of its thread during the poll, as the kernel counts it.
    pub(crate) waited: u64,
    /// The CPU time of its thread during the poll.
    pub(crate) cpu: u64,
    /// The latest time until which a poll that called `block_in_place` still held its worker.
    pub(crate) held_until: Option<u64>,
    pub(crate) blocks: Vec<Block>,
    /// The site at which its task was spawned or its future watched. `None` for background load.
    pub(crate) site: Option<&'static Location<'static>>,
}

impl Poll {
    /// Returns the span from the start of its first block to the end of its last.
    pub(crate) fn inner(&self) -> Option<Span> {
        let (first, last) = (self.blocks.first()?, self.blocks.last()?);
        Some(Span { start: first.inner.start, end: last.inner.end })
    }

    /// Returns the longest time for which the poll can have occupied a worker, or was in a root.
    pub(crate) fn max_nanos(&self) -> u64 {
        if !self.can_stall() {
            return 0;
        }
        self.held_until.unwrap_or(self.outer.end).min(self.outer.end).saturating_sub(self.outer.start)
    }

    fn can_stall(&self) -> bool {
        self.worker.is_some() || self.is_root
    }

    /// Returns true if the poll would have been short without its run delay.
    pub(crate) fn is_innocent(&self, threshold: u64) -> bool {
        self.outer.nanos().saturating_sub(self.waited) + SHORT < threshold
    }

    /// Returns true if the poll was on a CPU for the threshold, whatever it waited for besides.
    pub(crate) fn computed(&self, threshold: u64) -> bool {
        self.cpu >= threshold + SHORT
    }

    /// Returns the time for which the poll certainly occupied a worker, or was in a root.
    pub(crate) fn min_nanos(&self) -> u64 {
        let is_certain = self.can_stall() && self.held_until.is_none();
        self.inner().filter(|_| is_certain).map_or(0, Span::nanos)
    }
}

/// All reports of one stall.
#[derive(Clone, Debug)]
pub(crate) struct ReportedStall {
    pub(crate) thread: Arc<str>,
    pub(crate) task: Option<tokio::task::Id>,
    pub(crate) worker: Option<usize>,
    /// The start of its poll, as reported.
    pub(crate) started_at: u64,
    /// The reports in the order in which they were received. There is at least one.
    pub(crate) reports: Vec<Report>,
}

#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) received: u64,
    pub(crate) ongoing: bool,
    pub(crate) elapsed: u64,
    pub(crate) cause: Cause,
    pub(crate) certainty: Certainty,
    /// True if the report calls its duration a lower bound.
    pub(crate) is_lower_bound: bool,
    pub(crate) site: Option<&'static Location<'static>>,
    pub(crate) route: Option<Arc<str>>,
    /// The innermost function of the program itself.
    pub(crate) leaf: Option<Arc<str>>,
    pub(crate) text: Arc<str>,
}

impl ReportedStall {
    pub(crate) fn last(&self) -> &Report {
        self.reports.last().expect("made of a report")
    }
}

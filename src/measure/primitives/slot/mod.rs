//! The slot: what one thread is polling right now, published for the watchdog to read.
//!
//! One writer (the thread itself), any number of readers, no lock and no read-modify-write. `state` holds the number of
//! the last push and the depth; a reader copies the frames between two reads of `state` and keeps them only if the two agree.
//! The fields of a frame are stored with `Release`: a reader that saw a field of a later frame therefore also sees that
//! `state` has moved on (its own fence pairs with the store), and throws its copy away. On x86 these are plain stores.

mod owner;
mod reading;

use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters};
use crate::measure::primitives::route::RouteId;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, fence};

pub(crate) use reading::Reading;

/// Frames published at most; deeper ones are counted in the depth only.
pub(crate) const MAX_FRAMES: usize = 16;

const DEPTH_BITS: u32 = 16;
const DEPTH_MASK: u64 = (1 << DEPTH_BITS) - 1;
const READ_TRIES: usize = 3;

/// What a frame stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A poll that tokio's hooks reported.
    Task,
    /// A poll that a wrapper saw, with no hook around it: a `block_on` root, or a watched task in stable mode.
    Watched,
    /// A watched future inside a poll: part of it, never a poll of its own.
    Scope,
    /// A request of a route inside a poll: part of it, too.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    Route,
    /// A part of a poll that is meant to block: while it lasts, the polls beneath it stand still.
    Allowed,
}

impl Kind {
    /// Whether it is a poll, not a part of one.
    #[inline]
    pub(crate) fn is_poll(self) -> bool {
        matches!(self, Kind::Task | Kind::Watched)
    }
}

/// The identity of what a frame polls, packed into one word: kind, route, runtime, and the thread's tally cell (for a poll)
/// or the site (for a scope). The route is that of the request; of a watched future, the one that it was spawned under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct What {
    pub(crate) kind: Kind,
    /// Below [`MAX_RUNTIMES`](crate::measure::counters::sites::MAX_RUNTIMES): 8 bits.
    pub(crate) runtime: u16,
    pub(crate) route: Option<RouteId>,
    pub(crate) index: u32,
}

const _: () = assert!(crate::measure::counters::sites::MAX_RUNTIMES <= 1 << 8);

impl What {
    #[inline]
    pub(crate) fn pack(self) -> u64 {
        (self.kind as u64) << 56
            | u64::from(RouteId::to_bits(self.route)) << 40
            | u64::from(self.runtime) << 32
            | u64::from(self.index)
    }

    /// That of a poll, from what its tally cell says of it.
    #[inline(always)]
    pub(crate) fn of_poll(kind: Kind, route: Option<RouteId>, counted: u64) -> u64 {
        (kind as u64) << 56 | u64::from(RouteId::to_bits(route)) << 40 | counted
    }

    #[inline]
    pub(crate) fn unpack(word: u64) -> What {
        What {
            kind: match word >> 56 {
                0 => Kind::Task,
                1 => Kind::Watched,
                2 => Kind::Scope,
                3 => Kind::Route,
                _ => Kind::Allowed,
            },
            runtime: (word >> 32) as u16 & 0xff,
            route: RouteId::from_bits((word >> 40) as u16),
            index: word as u32,
        }
    }
}

/// A copy of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The push number: unique on this thread and never 0, it tells one poll from the next; later ones are higher.
    pub(crate) number: u64,
    /// The clock reading at the push, plus all time within the frame that does not count as its own.
    pub(crate) begin: u64,
    /// [`What`], packed.
    pub(crate) what: u64,
    /// The task id's bits, 0 where there is none.
    pub(crate) task: u64,
    /// What a wrapper saw of the worker that it is on; see `runtime::ownership`.
    pub(crate) place: u64,
}

/// The memory of one frame.
#[derive(Debug)]
pub(crate) struct FrameCell {
    number: AtomicU64,
    begin: AtomicU64,
    what: AtomicU64,
    task: AtomicU64,
    place: AtomicU64,
    /// Where a poll is counted, `NO_COUNTERS` for a part of one; for its owner, which looks nothing up at the end of a poll.
    cell: AtomicPtr<SiteCounters>,
}

/// See the module's text. The state and the outermost frame, all that most polls write, are in one cache line.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    state: AtomicU64,
    frames: [FrameCell; MAX_FRAMES],
}

impl Slot {
    pub(crate) fn new() -> Slot {
        Slot {
            state: AtomicU64::new(0),
            frames: std::array::from_fn(|_| FrameCell {
                number: AtomicU64::new(0),
                begin: AtomicU64::new(0),
                what: AtomicU64::new(0),
                task: AtomicU64::new(0),
                place: AtomicU64::new(0),
                cell: AtomicPtr::new(std::ptr::from_ref(&NO_COUNTERS).cast_mut()),
            }),
        }
    }

    /// Publishes a frame; only the owning thread calls this. Returns the push number, 0 for a frame too deep to be published.
    #[cfg(test)]
    pub(crate) fn push(&self, begin: u64, what: u64, task: u64, place: Option<u64>) -> u64 {
        self.push_poll(begin, what, task, place, &NO_COUNTERS)
    }

    /// As [`push`](Self::push), of a poll that is counted in a cell.
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        begin: u64,
        what: u64,
        task: u64,
        place: Option<u64>,
        counted: &SiteCounters,
    ) -> u64 {
        let state = self.state.load(Ordering::Relaxed);
        let next = state.wrapping_add((1 << DEPTH_BITS) + 1);
        let mut number = 0;
        if let Some(cell) = self.frames.get((state & DEPTH_MASK) as usize) {
            // The whole word: nothing to be taken from it, and as unique.
            number = next;
            cell.number.store(number, Ordering::Release);
            cell.begin.store(begin, Ordering::Release);
            cell.what.store(what, Ordering::Release);
            cell.task.store(task, Ordering::Release);
            cell.cell.store(std::ptr::from_ref(counted).cast_mut(), Ordering::Relaxed);
            if let Some(place) = place {
                cell.place.store(place, Ordering::Release);
            }
        }
        self.state.store(next, Ordering::Release);
        number
    }

    /// The innermost frame; `None` when there is none, or it is too deep to be published. For its owner, which takes from it
    /// only what it needs.
    #[inline(always)]
    pub(crate) fn top(&self) -> Option<&FrameCell> {
        self.frames.get(self.depth().wrapping_sub(1))
    }

    /// Withdraws the innermost frame; only the owning thread calls this, and only after a push.
    #[inline]
    pub(crate) fn pop(&self) {
        let state = self.state.load(Ordering::Relaxed);
        debug_assert!(state & DEPTH_MASK != 0, "pop without push");
        self.state.store(state - 1, Ordering::Release);
    }

    /// How many frames are pushed; exact on the owning thread.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        (self.state.load(Ordering::Relaxed) & DEPTH_MASK) as usize
    }

    /// The state word: two equal readings mean that nothing was pushed or popped between them.
    pub(crate) fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// Whether the frame with this push number is still there.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.read().is_some_and(|r| r.frames().iter().any(|f| f.number == number))
    }

    /// A consistent copy, or `None` when the thread pushed and popped faster than it could be read: such a thread is not
    /// blocked.
    pub(crate) fn read(&self) -> Option<Reading> {
        for _ in 0..READ_TRIES {
            let state = self.state.load(Ordering::Acquire);
            let len = ((state & DEPTH_MASK) as usize).min(MAX_FRAMES);
            let mut frames = [Frame::default(); MAX_FRAMES];
            for (copy, cell) in frames.iter_mut().zip(&self.frames).take(len) {
                *copy = cell.load();
            }
            fence(Ordering::Acquire);
            if self.state.load(Ordering::Relaxed) == state {
                return Some(Reading { state, frames, len });
            }
        }
        None
    }
}

impl FrameCell {
    /// Its push number; the owning thread only, as the next three.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn begin(&self) -> u64 {
        self.begin.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn what(&self) -> u64 {
        self.what.load(Ordering::Relaxed)
    }

    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    #[inline]
    pub(crate) fn task(&self) -> u64 {
        self.task.load(Ordering::Relaxed)
    }

    /// Where the poll is counted.
    #[inline]
    pub(crate) fn cell(&self) -> *const SiteCounters {
        self.cell.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn load(&self) -> Frame {
        Frame {
            number: self.number.load(Ordering::Relaxed),
            begin: self.begin.load(Ordering::Relaxed),
            what: self.what.load(Ordering::Relaxed),
            task: self.task.load(Ordering::Relaxed),
            place: self.place.load(Ordering::Relaxed),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn nests_and_unwinds() {
        let slot = Slot::new();
        assert!(slot.read().unwrap().frames().is_empty());
        assert!(slot.top().is_none());
        let first = slot.push(10, 7, 1, None);
        assert!(first > 0 && slot.push(20, 8, 2, Some(5)) > first);
        let reading = slot.read().unwrap();
        assert_eq!(reading.frames().iter().map(|f| f.begin).collect::<Vec<_>>(), [10, 20]);
        assert_eq!(slot.top().unwrap().load().place, 5);
        let outer = reading.frames()[0].number;
        slot.pop();
        assert!(slot.holds(outer));
        slot.push(30, 9, 3, None);
        assert_ne!(slot.state(), reading.state, "another frame at the same depth is another state");
        slot.pop();
        slot.pop();
        assert!(!slot.holds(outer));
    }

    #[test]
    fn deeper_than_published_is_still_balanced() {
        let slot = Slot::new();
        for i in 0..MAX_FRAMES as u64 + 4 {
            let number = slot.push(i, 0, 0, None);
            assert_eq!(number != 0, i < MAX_FRAMES as u64);
        }
        assert!(slot.top().is_none());
        assert_eq!(slot.read().unwrap().frames().len(), MAX_FRAMES);
        for _ in 0..MAX_FRAMES + 4 {
            slot.pop();
        }
        assert_eq!(slot.depth(), 0);
    }

    #[test]
    fn what_survives_packing() {
        for kind in [Kind::Task, Kind::Watched, Kind::Scope, Kind::Route, Kind::Allowed] {
            for route in [None, RouteId::from_bits(1), RouteId::from_bits(u16::MAX)] {
                let what = What { kind, runtime: 63, route, index: u32::MAX };
                assert_eq!(What::unpack(what.pack()), what);
            }
        }
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models {
    use super::*;

    /// No reader ever keeps a mixture of two polls.
    #[test]
    fn a_reading_is_of_one_poll() {
        let write = |slot: &Slot| {
            for i in 1..=2 {
                slot.push(i, i, i, Some((i << DEPTH_BITS) + 1));
                slot.pop();
            }
        };
        let read = |slot: &Slot| {
            let Some(reading) = slot.read() else { return false };
            for f in reading.frames() {
                assert_eq!(f.number, f.place, "{f:?}");
                assert!([f.begin, f.what, f.task].iter().all(|word| *word == f.number >> DEPTH_BITS), "{f:?}");
            }
            !reading.frames().is_empty()
        };
        crate::sync::model_one_writer(Slot::new, write, read, |slot| assert_eq!(slot.depth(), 0));
    }
}

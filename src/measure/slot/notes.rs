//! From when on an untimed frame is known to be there: all that is known of the begin of one whose push read no clock (sampled
//! timing). The watchdog notes it when it first sees the frame.
//!
//! What is meant to block, and a request within a request, is left out of the frames around it: they begin later. The thread counts
//! by depth how much that has been in all, for ever, and a note has the count of its moment taken off: so what is left out later moves
//! it, and what was before does not.

use super::{FrameCell, MAX_FRAMES, Reading, Slot, UNTIMED};
#[cfg(feature = "tower")]
use super::{Kind, What};
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Notes {
    by_depth: [Note; MAX_FRAMES],
    /// When the watchdog looked last.
    looked: AtomicU64,
    /// How often a scope has begun or finished to be left out, by the thread: odd while frames are moved.
    moves: AtomicU64,
}

#[derive(Debug)]
struct Note {
    /// The frame's push number; 0 for none. The watchdog's, as the next two.
    number: AtomicU64,
    /// The reading from which it is known to be there, and that of the look before it was: it began after that, or beneath what did.
    /// Less `left_out` as it was.
    at: AtomicU64,
    before: AtomicU64,
    /// Ticks left out of the frames at this depth, in all; the thread's.
    left_out: AtomicU64,
}

impl Notes {
    pub(super) fn new() -> Notes {
        let zero = || AtomicU64::new(0);
        let note = |_| Note { number: zero(), at: zero(), before: zero(), left_out: zero() };
        Notes { by_depth: std::array::from_fn(note), looked: zero(), moves: zero() }
    }

    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Whether no frame was moved since `moves` was read, before all that was; with a fence in between.
    pub(super) fn are_steady_since(&self, moves: u64) -> bool {
        moves.is_multiple_of(2) && self.moves.load(Ordering::Relaxed) == moves
    }

    /// What has been left out at each depth.
    pub(super) fn left_out(&self, len: usize) -> [u64; MAX_FRAMES] {
        let mut ticks = [0; MAX_FRAMES];
        for (ticks, note) in ticks.iter_mut().zip(&self.by_depth).take(len) {
            *ticks = note.left_out.load(Ordering::Relaxed);
        }
        ticks
    }

    pub(super) fn get(&self, index: usize, number: u64, left_out: u64) -> Option<u64> {
        Some(self.of(index, number)?.at.load(Ordering::Relaxed).wrapping_add(left_out))
    }

    fn of(&self, index: usize, number: u64) -> Option<&Note> {
        self.by_depth.get(index).filter(|note| note.number.load(Ordering::Acquire) == number)
    }

    /// The frame that was noted before at this depth is gone: nobody asks for it while this is half-way.
    fn set(&self, index: usize, number: u64, at: u64, before: u64) {
        if let Some(note) = self.by_depth.get(index) {
            note.at.store(at, Ordering::Relaxed);
            note.before.store(before, Ordering::Relaxed);
            note.number.store(number, Ordering::Release);
        }
    }
}

impl Note {
    /// Released: a reader that sees it also sees that frames are moved.
    fn leave_out(&self, ticks: u64) {
        self.left_out.store(self.left_out.load(Ordering::Relaxed).wrapping_add(ticks), Ordering::Release);
    }
}

impl Slot {
    /// Has the untimed frames of a reading, which was made before the clock was at `now`, begin then, unless they were noted earlier;
    /// the watchdog only. A frame beneath a scope that is meant to block was there when that began, and stands still since.
    pub(crate) fn note(&self, reading: &mut Reading, now: u64) {
        let looked = self.notes.looked.load(Ordering::Relaxed);
        for index in 0..reading.len {
            let frame = reading.frames[index];
            if frame.begin != UNTIMED {
                continue;
            }
            let at = reading.stands_since(index).unwrap_or(now);
            reading.frames[index].begin = at;
            // Else it is noted at the next look: it is not known whether what is left out just now is in the count.
            if reading.is_steady {
                let left_out = reading.left_out[index];
                self.notes.set(index, frame.number, at.wrapping_sub(left_out), looked.wrapping_sub(left_out));
                self.noted.store(frame.number.max(self.noted.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
        }
        if reading.is_steady {
            self.notes.looked.store(now, Ordering::Relaxed);
        }
    }

    /// Whether a frame may have been noted; the owning thread only, as all that follows. Whoever is told `false` of an untimed frame
    /// need not ask [`noted`](Self::noted).
    #[inline(always)]
    pub(crate) fn may_be_noted(&self, frame: &FrameCell) -> bool {
        frame.number() <= self.noted.load(Ordering::Relaxed)
    }

    /// From when on the frame at this depth, an untimed one, is known to be there.
    pub(crate) fn noted(&self, (index, frame): (usize, &FrameCell)) -> Option<u64> {
        let note = self.notes.of(index, frame.number())?;
        Some(note.at.load(Ordering::Relaxed).wrapping_add(note.left_out.load(Ordering::Relaxed)))
    }

    /// Withdraws the innermost frame, which was meant to block for so many ticks: every other begins later by that.
    ///
    /// The watchdog may be noting one just now. It does not, if it finds these moves half-way; if it has read all before, what it
    /// writes is moved.
    pub(crate) fn pop_left_out(&self, ticks: u64) {
        let moves = self.notes.moves.load(Ordering::Relaxed);
        self.notes.moves.store(moves + 1, Ordering::Relaxed);
        let beneath = self.depth().saturating_sub(1).min(MAX_FRAMES);
        for (cell, note) in self.frames[..beneath].iter().zip(&self.notes.by_depth) {
            match cell.begin() {
                UNTIMED => note.leave_out(ticks),
                begin => cell.begin.store(begin.saturating_add(ticks), Ordering::Release),
            }
        }
        self.pop();
        self.notes.moves.store(moves + 2, Ordering::Release);
    }

    /// Lets the requests around the innermost frame, an untimed one, begin later by as much of its own time as may be: it began after
    /// the look before it was first seen. One that was never seen took no longer than from one look to the next.
    #[cfg(feature = "tower")]
    #[cold]
    pub(super) fn delay_noted_requests_around(&self, (index, top): (usize, &FrameCell), now: impl FnOnce() -> u64) {
        let Some(inner) = self.notes.of(index, top.number()) else { return };
        let before = inner.before.load(Ordering::Relaxed).wrapping_add(inner.left_out.load(Ordering::Relaxed));
        let now = now();
        for index in (0..index).rev() {
            let around = &self.frames[index];
            match What::unpack(around.what()).kind {
                Kind::Task | Kind::Watched | Kind::Allowed => return,
                Kind::Route => {}
                Kind::Scope => continue,
            }
            // They are untimed, too, and were noted no later.
            if let Some(at) = self.noted((index, around)) {
                self.notes.by_depth[index].leave_out(now.saturating_sub(at.max(before)));
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

#[cfg(all(test, pollwatch_loom))]
mod models;

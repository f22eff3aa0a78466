//! Whose turn it is with the one request: the requester's, or the handler's that it has sent a signal for. Only a word, so that a
//! handler may touch it, and so that it can be proven without signals.
//!
//! IDLE -> REQUESTED (the requester has filled the request in) -> BUSY (the handler has claimed it) -> DONE (it has answered) -> IDLE
//! (the requester has read the answer). A request that nobody claims in time is withdrawn: REQUESTED -> IDLE, by the same
//! compare-and-swap that a handler claims by, so that only one of the two has it.

use crate::sync::{Ordering, Word};

const IDLE: u64 = 0;
const REQUESTED: u64 = 1;
const BUSY: u64 = 2;
const DONE: u64 = 3;
const PHASE: u64 = 3;

/// Whom a request is for (the upper half), which one it is, and its phase (the lowest two bits): claimed or withdrawn as a whole, so
/// that a late handler takes no other thread's. (A handler that comes late to the next request of its own thread may have that one.)
pub(super) struct Handshake<W> {
    state: W,
}

/// One request, told from those before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// The `number`th request, to thread `tid`.
    pub(super) fn new(tid: i32, number: u64) -> Ticket {
        Ticket((tid as u64) << 32 | (number % (1 << 30)) << 2)
    }
}

/// The requester's side: one thread at a time.
impl<W: Word> Handshake<W> {
    /// Of a word that is 0.
    pub(super) const fn new(state: W) -> Handshake<W> {
        Handshake { state }
    }

    /// Whether the last handler has begun and not ended: then all that belongs to the request is still its own.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == BUSY
    }

    /// Makes a request, which has been filled in. Not while the last one [is busy](Self::is_busy).
    pub(super) fn request(&self, ticket: Ticket) {
        self.state.store(ticket.0 | REQUESTED, Ordering::Release);
    }

    /// Takes a request back; false: a handler has it.
    pub(super) fn withdraw(&self, ticket: Ticket) -> bool {
        self.state.replace(ticket.0 | REQUESTED, IDLE, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Whether it has been answered: then all that belongs to the request is the requester's again.
    pub(super) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == DONE
    }

    /// The answer has been read.
    pub(super) fn close(&self) {
        self.state.store(IDLE, Ordering::Release);
    }
}

/// The handler's side; async-signal-safe.
impl<W: Word> Handshake<W> {
    /// Claims a request to this thread, if there is one. What belongs to it is the handler's from here on.
    pub(super) fn claim(&self, tid: u64) -> Option<Ticket> {
        let state = self.state.load(Ordering::Acquire);
        if state >> 32 != tid || state & PHASE != REQUESTED {
            return None;
        }
        let ticket = state & !PHASE;
        self.state.replace(state, ticket | BUSY, Ordering::Acquire, Ordering::Relaxed).then_some(Ticket(ticket))
    }

    /// Gives it back, answered.
    pub(super) fn answer(&self, ticket: Ticket) {
        self.state.store(ticket.0 | DONE, Ordering::Release);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;

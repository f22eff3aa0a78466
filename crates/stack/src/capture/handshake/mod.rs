//! The handshake between a requester and the signal handler: whose the one request is at a time.
//!
//! It is a single word, so that a handler may touch it, and so that it can be proven without
//! signals (`models`).
//!
//! `IDLE` -> `REQUESTED` (the requester has filled the request in) -> `BUSY` (the handler has
//! claimed it) -> `DONE` (the handler has answered) -> `IDLE` (the requester has read the answer).
//! A request that nobody claims in time is withdrawn, `REQUESTED` -> `IDLE`, by the same
//! compare-and-swap by which a handler claims, so that only one of the two has it.

mod word;

use std::sync::atomic::Ordering;

use word::Word;

use crate::Tid;

const IDLE: u64 = 0;
const REQUESTED: u64 = 1;
const BUSY: u64 = 2;
const DONE: u64 = 3;
const PHASE: u64 = 3;

/// The state of the request: the thread it is for (the upper half), its number, and its phase (the
/// lowest two bits).
///
/// All three are claimed or withdrawn at once, so that a late handler never takes the request to
/// another thread. (A late handler may answer the next request to its own thread, which is
/// harmless.)
pub(super) struct Handshake<W> {
    state: W,
}

/// One request, distinguished from those before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// Makes the ticket of the `number`th request, which is to thread `tid`.
    pub(super) fn new(tid: Tid, number: u64) -> Ticket {
        Ticket((tid.as_raw() as u64) << 32 | (number % (1 << 30)) << 2)
    }
}

/// The requester's side: one thread at a time.
impl<W: Word> Handshake<W> {
    /// Makes a handshake of a word that is 0.
    pub(super) const fn new(state: W) -> Handshake<W> {
        Handshake { state }
    }

    /// Returns whether the last handler has started and not ended: all that belongs to the request
    /// is still the handler's.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == BUSY
    }

    /// Publishes a request that has been filled in. Not allowed while the last one
    /// [is busy](Self::is_busy).
    pub(super) fn request(&self, ticket: Ticket) {
        self.state.store(ticket.0 | REQUESTED, Ordering::Release);
    }

    /// Withdraws a request. Returns false when a handler has claimed it.
    pub(super) fn withdraw(&self, ticket: Ticket) -> bool {
        self.state.replace(ticket.0 | REQUESTED, IDLE, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Returns whether the request has been answered: all that belongs to it is the requester's
    /// again.
    pub(super) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == DONE
    }

    /// Ends the request, after its answer has been read.
    pub(super) fn close(&self) {
        self.state.store(IDLE, Ordering::Release);
    }
}

/// The handler's side; async-signal-safe.
impl<W: Word> Handshake<W> {
    /// Claims a request to thread `tid`, if there is one. All that belongs to it is the handler's
    /// until [`answer`](Self::answer).
    pub(super) fn claim(&self, tid: u64) -> Option<Ticket> {
        let state = self.state.load(Ordering::Acquire);
        if state >> 32 != tid || state & PHASE != REQUESTED {
            return None;
        }
        let ticket = state & !PHASE;
        self.state.replace(state, ticket | BUSY, Ordering::Acquire, Ordering::Relaxed).then_some(Ticket(ticket))
    }

    /// Gives the request back, answered.
    pub(super) fn answer(&self, ticket: Ticket) {
        self.state.store(ticket.0 | DONE, Ordering::Release);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;

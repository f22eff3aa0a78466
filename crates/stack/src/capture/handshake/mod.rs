//! The handshake between a requester and the signal handler: a state machine that says which of
//! the two owns a request.
//!
//! Its state is a single atomic integer, which is async-signal-safe. The `models` check it without
//! signals.
//!
//! `IDLE` -> `REQUESTED` (the requester has filled the request in) -> `BUSY` (the handler has
//! claimed it) -> `DONE` (the handler has answered) -> `IDLE` (the requester has read the answer).
//! A request that nobody claims in time is withdrawn, `REQUESTED` -> `IDLE`, by the same
//! compare-and-swap by which a handler claims, so that only one of the two succeeds.
//!
//! A pending request stays `REQUESTED` until the thread returns to user mode. It goes through the
//! same states, and is withdrawn in the same way when nobody wants the answer any more. After that
//! no handler touches what the request refers to.

mod atomic;

use std::sync::atomic::Ordering;

use atomic::AtomicState;

use crate::Tid;

const IDLE: u64 = 0;
const REQUESTED: u64 = 1;
const BUSY: u64 = 2;
const DONE: u64 = 3;
const PHASE: u64 = 3;

/// The state of a request: the id of the thread it addresses (upper half), the request's number,
/// and its phase (lowest two bits).
///
/// All three are compared and swapped at once, so that a late handler never claims a request to
/// another thread. (A late handler may answer the next request to its own thread, which is
/// harmless.)
pub(super) struct Handshake<A> {
    state: A,
}

/// One request, distinguished from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// Makes the ticket of the `number`th request, which is to thread `tid`.
    pub(super) fn new(tid: Tid, number: u64) -> Ticket {
        Ticket((tid.as_raw() as u64) << 32 | (number % (1 << 30)) << 2)
    }

    /// Returns the ticket as an integer, which is not 0.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }
}

/// The requester's side: one thread at a time.
impl<A: AtomicState> Handshake<A> {
    /// Makes a handshake of an atomic that is 0.
    pub(super) const fn new(state: A) -> Handshake<A> {
        Handshake { state }
    }

    /// Returns whether a handler has claimed the last request and not answered it. The handler then
    /// still owns the request's data.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == BUSY
    }

    /// Publishes a request that has been filled in. Not allowed while the last one
    /// [is busy](Self::is_busy) or pending.
    pub(super) fn request(&self, ticket: Ticket) {
        self.state.store(ticket.0 | REQUESTED, Ordering::Release);
    }

    /// Withdraws a request. Returns false when a handler has claimed it.
    pub(super) fn withdraw(&self, ticket: Ticket) -> bool {
        self.state.compare_exchange(ticket.0 | REQUESTED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Returns whether a request waits for its handler or is being answered.
    pub(super) fn is_open(&self, ticket: Ticket) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state == ticket.0 | REQUESTED || state == ticket.0 | BUSY
    }

    /// Returns whether the request has been answered. The requester then owns its data again.
    pub(super) fn is_done(&self, ticket: Ticket) -> bool {
        self.state.load(Ordering::Acquire) == ticket.0 | DONE
    }

    /// Ends the request, after its answer has been read.
    pub(super) fn close(&self) {
        self.state.store(IDLE, Ordering::Release);
    }
}

/// The handler's side; async-signal-safe.
impl<A: AtomicState> Handshake<A> {
    /// Claims a request to thread `tid`, if there is one. The handler owns its data until
    /// [`answer`](Self::answer).
    pub(super) fn claim(&self, tid: u64) -> Option<Ticket> {
        let state = self.state.load(Ordering::Acquire);
        if state >> 32 != tid || state & PHASE != REQUESTED {
            return None;
        }
        let ticket = state & !PHASE;
        let claimed = self.state.compare_exchange(state, ticket | BUSY, Ordering::Acquire, Ordering::Relaxed);
        claimed.ok().map(|_| Ticket(ticket))
    }

    /// Returns the request to the requester, answered.
    pub(super) fn answer(&self, ticket: Ticket) {
        self.state.store(ticket.0 | DONE, Ordering::Release);
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;

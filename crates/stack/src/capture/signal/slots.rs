//! The requests, by index: which of them are in use, their buffers, and what they refer to.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::handshake::Ticket;
use super::handler::REQUESTS;
use super::{MAX_PENDING, MAX_REQUESTS, MAX_STACK};
use crate::{Activity, Tid};

/// The tickets of requests that were given up by a thread that did not get the requester's lock; 0
/// without one.
static GIVEN_UP: [AtomicU64; MAX_REQUESTS] = [const { AtomicU64::new(0) }; MAX_REQUESTS];

/// Gives up a request without the requester's lock. The next request of any thread frees it. Only
/// the holder of the request may call this, in the process that made it, so that there is one
/// ticket for each slot.
pub(super) fn give_up(index: usize, ticket: Ticket) {
    GIVEN_UP[index].store(ticket.to_bits(), Ordering::Release);
}

/// The use of a request.
#[derive(Default)]
enum Use {
    #[default]
    Free,
    /// Its requester waits for the answer, or holds a pending capture.
    Held(Holder),
    /// Nobody wants the answer any more, but the handler has claimed the request. It owns the
    /// buffer until it has answered.
    Abandoned(Holder),
}

/// The request of a slot in use.
struct Holder {
    /// The process that made the request. A forked child has a copy of its parent's requests, and
    /// none of the threads that they are to.
    pid: u32,
    tid: Tid,
    ticket: Ticket,
    /// Keeps the word in memory that the handler reads.
    activity: Option<Activity>,
}

#[derive(Default)]
struct Slot {
    /// The copy of the stack. It is allocated at the first use, and never freed, because a handler
    /// may be late.
    buffer: Option<&'static [UnsafeCell<u8>]>,
    in_use: Use,
}

#[derive(Default)]
pub(super) struct Slots([Slot; MAX_REQUESTS]);

// SAFETY: handler and requester access the cells in turns, which the handshake of each request
// orders.
unsafe impl Send for Slots {}

impl Slot {
    fn holder(&self) -> Option<&Holder> {
        match &self.in_use {
            Use::Held(holder) => Some(holder),
            Use::Free | Use::Abandoned(_) => None,
        }
    }
}

impl Slots {
    /// Makes all slots free. The first one, which most processes never need more than, has its
    /// buffer.
    pub(super) fn new() -> Slots {
        let mut slots = Slots::default();
        slots.allocate(0);
        slots
    }

    /// Frees the requests that have been given up, those that have been abandoned and answered
    /// since, and those of a parent process.
    pub(super) fn reclaim(&mut self) {
        let own = std::process::id();
        for (index, given_up) in GIVEN_UP.iter().enumerate() {
            let held = self.0[index].holder().map(|holder| holder.ticket);
            if let Some(ticket) = held.filter(|ticket| ticket.to_bits() == given_up.load(Ordering::Acquire)) {
                self.cancel(index, ticket);
            }
        }
        for (slot, request) in self.0.iter_mut().zip(&REQUESTS) {
            let (Use::Held(holder) | Use::Abandoned(holder)) = &mut slot.in_use else { continue };
            if holder.pid != own {
                // The parent's threads do not exist here. What they were doing is not dropped,
                // because it may be in any state.
                std::mem::forget(holder.activity.take());
            } else if matches!(slot.in_use, Use::Held(_)) || request.handshake.is_busy() {
                continue;
            }
            request.handshake.close();
            slot.in_use = Use::Free;
        }
    }

    /// Returns whether a request to a thread has not been answered yet.
    pub(super) fn has_open(&self, tid: Tid) -> bool {
        self.0.iter().zip(&REQUESTS).any(|(slot, request)| {
            slot.holder().is_some_and(|holder| holder.tid == tid && request.handshake.is_open(holder.ticket))
        })
    }

    /// Returns whether one more request may stay pending.
    pub(super) fn may_pend(&self) -> bool {
        self.0.iter().filter(|slot| !matches!(slot.in_use, Use::Free)).count() < MAX_PENDING
    }

    /// Takes a free request into use. Returns its index; `None` when all are in use.
    pub(super) fn occupy(&mut self, tid: Tid, ticket: Ticket, activity: Option<&Activity>) -> Option<usize> {
        let index = self.0.iter().position(|slot| matches!(slot.in_use, Use::Free))?;
        self.allocate(index);
        let word = activity.map_or(std::ptr::null_mut(), Activity::as_ptr);
        REQUESTS[index].activity.store(word, Ordering::Relaxed);
        let holder = Holder { pid: std::process::id(), tid, ticket, activity: activity.cloned() };
        self.0[index].in_use = Use::Held(holder);
        Some(index)
    }

    /// Returns the thread of the request that is held under a ticket by this process.
    pub(super) fn holder(&self, index: usize, ticket: Ticket) -> Option<Tid> {
        let holder = self.0[index].holder()?;
        (holder.ticket == ticket && holder.pid == std::process::id()).then_some(holder.tid)
    }

    /// Cancels a request whatever its state is. It is free after that, or abandoned. A request that
    /// is not held under the ticket by this process is left alone.
    pub(super) fn cancel(&mut self, index: usize, ticket: Ticket) {
        if self.holder(index, ticket).is_none() {
            return;
        }
        let handshake = &REQUESTS[index].handshake;
        if handshake.withdraw(ticket) {
            self.free(index);
        } else if handshake.is_done(ticket) {
            handshake.close();
            self.free(index);
        } else {
            self.abandon(index);
        }
    }

    /// Frees a request that no handler can claim or has claimed.
    pub(super) fn free(&mut self, index: usize) {
        self.0[index].in_use = Use::Free;
    }

    /// Gives up a request that a handler has claimed. [`reclaim`](Self::reclaim) frees it.
    pub(super) fn abandon(&mut self, index: usize) {
        let slot = &mut self.0[index];
        slot.in_use = match std::mem::take(&mut slot.in_use) {
            Use::Held(holder) => Use::Abandoned(holder),
            other => other,
        };
    }

    /// Copies the first `len` bytes of the buffer of an answered request.
    pub(super) fn copy_buffer(&self, index: usize, len: usize, to: &mut Vec<u8>) {
        to.clear();
        let Some(buffer) = self.0[index].buffer else { return };
        // SAFETY: the request is answered, so the handler no longer uses the buffer. No handler can
        // claim it again before the next request, which needs the lock that is held here.
        to.extend(buffer[..len].iter().map(|byte| unsafe { *byte.get() }));
    }

    /// Allocates the buffer of a slot, unless it has one.
    fn allocate(&mut self, index: usize) {
        let buffer = self.0[index].buffer.get_or_insert_with(|| {
            // The bytes are not zero, so that every page is mapped before a handler writes to it.
            let buffer: Box<[UnsafeCell<u8>]> = (0..MAX_STACK).map(|_| UnsafeCell::new(1)).collect();
            Box::leak(buffer)
        });
        REQUESTS[index].buffer.store(UnsafeCell::raw_get(buffer.as_ptr()), Ordering::Release);
    }
}

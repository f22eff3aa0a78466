//! What is blocked at this very moment, read from the slots by whoever asks: it holds though the watchdog be late, or hang in
//! a user's callback.

use std::sync::Arc;

use crate::measure::meter::Meter;
use crate::measure::pool::Seat;
use crate::measure::runtime::Runtime;
use crate::measure::slot::{Frame, Reading, UNTIMED};
use crate::measure::thread::ThreadState;
use crate::shared::Shared;
use crate::sys;
use crate::util::lock;

/// What a stall is tied to: it goes on as long as this holds.
#[derive(Clone, Debug)]
pub(crate) enum Still {
    /// The poll with this push number.
    Poll(u64),
    /// A worker that is in nobody's frame.
    Worker(Worker),
}

/// A worker that has neither parked nor been in a frame since; one that stands, has not run either.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) seat: Arc<Seat>,
    /// Its last unpark, and the state of its slot.
    pub(crate) mark: (u64, u64),
    /// The CPU time that its thread had used when it came to stand.
    pub(crate) cpu: Option<u64>,
}

impl Worker {
    fn holds(&self, thread: &ThreadState) -> bool {
        let stands = |cpu| self.seat.tid.and_then(sys::thread_cpu_nanos) == Some(cpu);
        (self.seat.event().map_or(0, |event| event.word), thread.slot.state()) == self.mark
            && self.cpu.is_none_or(stands)
    }
}

impl Still {
    /// Whether it holds; from any thread.
    pub(crate) fn holds(&self, thread: &ThreadState) -> bool {
        match self {
            Still::Poll(number) => thread.slot.holds(*number),
            Still::Worker(worker) => worker.holds(thread),
        }
    }

    /// Whether it is the poll with this push number.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn is_poll(&self, number: u64) -> bool {
        matches!(self, Still::Poll(this) if *this == number)
    }

    /// Whether it holds by this reading of its thread's slot, and no part of it is meant to block.
    pub(crate) fn goes_on(&self, thread: &ThreadState, reading: Option<&Reading>) -> bool {
        match self {
            Still::Poll(number) => {
                reading.is_some_and(|r| r.polls().any(|(frame, _, stands)| frame.number == *number && stands.is_none()))
            }
            Still::Worker(worker) => worker.holds(thread),
        }
    }
}

/// A worker whose poll has lasted at least the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) worker: u16,
    pub(crate) nanos: u64,
}

/// The blocked workers of a runtime, each once, with its longest poll; those included that a task blocks which nobody wrapped.
pub(crate) fn blocked(shared: &Shared, runtime: &Runtime) -> Vec<Blocked> {
    let meter = &shared.meter;
    let mut found = Vec::new();
    let standing = lock(&shared.book).standing(runtime.id);
    for (worker, at, nanos) in standing {
        note(&mut found, worker, nanos + meter.clock.delta(at, meter.clock.now()));
    }
    in_polls(meter, runtime, &mut found);
    found
}

fn note(found: &mut Vec<Blocked>, worker: u16, nanos: u64) {
    match found.iter_mut().find(|b| b.worker == worker) {
        Some(known) => known.nanos = known.nanos.max(nanos),
        None => found.push(Blocked { worker, nanos }),
    }
}

fn in_polls(meter: &Meter, runtime: &Runtime, found: &mut Vec<Blocked>) {
    for thread in meter.threads() {
        let Some(reading) = thread.slot.read() else { continue };
        let now = meter.clock.now();
        for (frame, what, stands) in reading.polls() {
            let nanos = meter.clock.delta(frame.begin, stands.unwrap_or(now));
            if what.runtime != runtime.id || frame.begin == UNTIMED || nanos < meter.threshold {
                continue;
            }
            if let Some(worker) = worker_of(runtime, &thread, frame) {
                note(found, worker, nanos);
            }
        }
    }
}

/// The worker that the poll of `frame` blocks; `None` when it blocks none, or is over.
pub(crate) fn worker_of(runtime: &Runtime, thread: &ThreadState, frame: &Frame) -> Option<u16> {
    runtime.worker_of(thread, frame).filter(|_| thread.slot.holds(frame.number))
}

//! What is blocked at this very moment, by whoever asks: polls as the slots have them, which holds though the watchdog be late, or hang
//! in a user's callback; and the workers that it has found blocked by tasks that nobody wrapped.

use crate::measure::meter::Meter;
use crate::measure::runtime::Runtime;
use crate::measure::slot::Frame;
use crate::measure::thread::ThreadState;
use crate::shared::Shared;
use crate::util::lock;

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
            if what.runtime != runtime.id || nanos < meter.threshold {
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

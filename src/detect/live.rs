//! What is blocked at this very moment, read from the slots by whoever asks: it holds though the watchdog be late, or hang in
//! a user's callback.

use crate::measure::meter::Meter;
use crate::measure::runtime::Runtime;
use crate::measure::slot::{Frame, UNTIMED};
use crate::measure::thread::ThreadState;

/// A worker whose poll has lasted at least the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) worker: u16,
    pub(crate) nanos: u64,
}

/// The blocked workers of a runtime, each once, with its longest poll.
pub(crate) fn blocked(meter: &Meter, runtime: &Runtime) -> Vec<Blocked> {
    let mut found: Vec<Blocked> = Vec::new();
    for thread in meter.threads() {
        let Some(reading) = thread.slot.read() else { continue };
        let now = meter.clock.now();
        for (frame, what, stands) in reading.polls() {
            let nanos = meter.clock.delta(frame.begin, stands.unwrap_or(now));
            if what.runtime != runtime.id || frame.begin == UNTIMED || nanos < meter.threshold {
                continue;
            }
            if let Some(worker) = worker_of(runtime, &thread, frame) {
                match found.iter_mut().find(|b| b.worker == worker) {
                    Some(known) => known.nanos = known.nanos.max(nanos),
                    None => found.push(Blocked { worker, nanos }),
                }
            }
        }
    }
    found
}

/// The worker that the poll of `frame` blocks; `None` when it blocks none, or is over.
pub(crate) fn worker_of(runtime: &Runtime, thread: &ThreadState, frame: &Frame) -> Option<u16> {
    runtime.worker_of(thread, frame).filter(|_| thread.slot.holds(frame.number))
}

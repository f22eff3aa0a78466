//! The scan of all slots: which polls are running at this moment, and which of them block a worker.
//!
//! This is the only walk over the slots. The watchdog thread uses it to find stalls, and any other
//! thread to read what is running now. That answer is right even while the watchdog thread is late.

use std::sync::Arc;

use super::track::{Poll, PollState, Request};
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::measure::thread::slot::{Frame, FrameTag, PollFrame, SlotReading};
use crate::model::id::{FrameNumber, PollKey};
use crate::model::time::Nanos;

/// Reads the slots of all measured threads. A slot that changes too fast to be read yields `None`:
/// its thread is not blocked.
pub(super) fn read_slots(meter: &Meter) -> impl Iterator<Item = (Arc<ThreadState>, Option<SlotReading>)> {
    meter.threads().into_iter().map(|thread| {
        let reading = thread.slot.read();
        (thread, reading)
    })
}

/// Returns the polls in a slot, outermost first, each with its frame.
pub(super) fn polls_in(
    meter: &Meter,
    thread: &ThreadState,
    reading: &SlotReading,
) -> impl Iterator<Item = (Poll, Frame)> {
    reading.polls().map(move |PollFrame { frame, tag, paused_since }| {
        let mut poll = poll_of(meter, thread, frame.number, frame.start, tag, frame.task);
        poll.watched = reading.scope_of(frame);
        poll.parent_route = reading.parent_route(frame);
        poll.request = reading.request_of(frame).map(|(request, route)| Request {
            frame: request.number,
            route,
            begin: meter.clock.nanos(request.start).0,
        });
        poll.paused_since = paused_since.map(|at| meter.clock.nanos(at).0);
        (poll, *frame)
    })
}

/// Returns what a frame's number, start, tag and task say by themselves about a poll.
pub(super) fn poll_of(
    meter: &Meter,
    thread: &ThreadState,
    number: FrameNumber,
    start: Ticks,
    tag: FrameTag,
    task: TaskBits,
) -> Poll {
    Poll {
        key: PollKey { thread: thread.id, number },
        begin: meter.clock.nanos(start).0,
        runtime: tag.runtime,
        site: thread.counters.get(tag.index).map_or(SiteId::OTHER, |counters| counters.site()),
        watched: None,
        request: None,
        parent_route: tag.route,
        task,
        paused_since: None,
        waited: 0,
    }
}

/// Returns whether the poll of a frame blocks a worker of its runtime at this moment, and which.
/// Takes tokio's locks.
pub(super) fn poll_state(runtime: &Runtime, thread: &ThreadState, frame: &Frame) -> PollState {
    let worker = runtime.worker_of(thread, frame);
    // Read last: while the poll lasts, what was said about its thread is true of it.
    match (thread.slot.has_frame(frame.number), worker) {
        (false, _) => PollState::Finished,
        (true, Some(worker)) => PollState::OnWorker(worker),
        (true, None) => PollState::OffWorker,
    }
}

/// A worker and the poll that it is in.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPoll {
    pub(crate) worker: u16,
    /// The time for which the poll has lasted so far.
    pub(crate) elapsed: Nanos,
    #[cfg(feature = "server")]
    pub(crate) thread: Arc<ThreadState>,
    #[cfg(feature = "server")]
    pub(crate) poll: Poll,
}

/// Returns the workers of a runtime that have been in a poll for at least `min_elapsed`, each once,
/// with its longest poll.
pub(crate) fn worker_polls(meter: &Meter, runtime: &Runtime, min_elapsed: Nanos) -> Vec<WorkerPoll> {
    let mut found: Vec<WorkerPoll> = Vec::new();
    for (thread, reading) in read_slots(meter) {
        let Some(reading) = reading else { continue };
        let now = meter.clock.nanos(meter.clock.now()).0;
        for (poll, frame) in polls_in(meter, &thread, &reading) {
            let elapsed = Nanos(poll.paused_since.unwrap_or(now).saturating_sub(poll.begin));
            if poll.runtime != runtime.id || elapsed < min_elapsed {
                continue;
            }
            let PollState::OnWorker(worker) = poll_state(runtime, &thread, &frame) else { continue };
            let this = WorkerPoll {
                worker,
                elapsed,
                #[cfg(feature = "server")]
                thread: thread.clone(),
                #[cfg(feature = "server")]
                poll,
            };
            match found.iter_mut().find(|known| known.worker == worker) {
                Some(known) if known.elapsed >= elapsed => {}
                Some(known) => *known = this,
                None => found.push(this),
            }
        }
    }
    found
}

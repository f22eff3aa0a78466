//! The scan of all slots: which polls are running at this moment, and which of them block a worker.
//!
//! Only this module copies the slots of all threads. (The watchdog thread also sums their versions
//! before it falls asleep.) The watchdog thread uses this scan to find stalls. Any other thread
//! uses it to read what is running now, also when the watchdog thread is blocked.

use std::sync::Arc;

use super::track::{OpenRequest, Poll, PollState};
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::{Runtime, ownership};
use crate::measure::thread::ThreadState;
use crate::measure::thread::slot::{Frame, FrameKind, FrameTag, PollFrame, SlotReading};
use crate::model::id::{FrameNumber, PollKey, WorkerIndex};
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
    reading.polls().map(move |PollFrame { frame, tag, allowed_since }| {
        let fields = FrameFields { number: frame.number, start: frame.start, task: frame.task, tag };
        let mut poll = poll_of(meter, thread, fields);
        poll.watched = reading.watched_part_of(frame);
        poll.parent_route = reading.parent_route(frame).or_else(|| meter.spawn_route(frame.task));
        poll.request = reading.request_of(frame).map(|(request, route)| OpenRequest {
            frame: request.number,
            route,
            start: meter.clock.nanos(request.start),
        });
        poll.allowed_since = allowed_since.map(|at| meter.clock.nanos(at));
        (poll, *frame)
    })
}

/// The fields that the frame of a running poll and the record of a finished one have in common.
pub(super) struct FrameFields {
    pub(super) number: FrameNumber,
    pub(super) start: Ticks,
    pub(super) task: TaskBits,
    pub(super) tag: FrameTag,
}

/// Returns a poll with all that its own frame says about it, and nothing of the frames inside.
pub(super) fn poll_of(meter: &Meter, thread: &ThreadState, frame: FrameFields) -> Poll {
    let FrameFields { number, start, task, ref tag } = frame;
    Poll {
        key: PollKey { thread: thread.id, number },
        start: meter.clock.nanos(start),
        runtime: tag.runtime,
        site: thread.counters.get(tag.index).map_or(SiteId::OTHER, |counters| counters.site()),
        watched: None,
        request: None,
        parent_route: tag.route,
        task,
        allowed_since: None,
        account: None,
        is_root: is_root(meter, &frame),
    }
}

/// Returns whether a poll is the root of a multi-thread runtime: a watched future that is polled
/// within no task.
fn is_root(meter: &Meter, frame: &FrameFields) -> bool {
    let FrameTag { kind, runtime, .. } = frame.tag;
    kind == FrameKind::Watched
        && frame.task == TaskBits::NONE
        && meter.runtimes.get(runtime).is_some_and(|runtime| runtime.is_multi_thread())
}

/// Returns whether the poll of a frame blocks a worker of its runtime at this moment, and which
/// one. Takes tokio's locks.
pub(super) fn poll_state(runtime: &Runtime, thread: &ThreadState, frame: &Frame) -> PollState {
    let worker = runtime.worker_of(thread, frame);
    // The slot is read last. If it still has the frame, the poll was running when the worker was
    // looked up, so that the worker is that of the poll.
    match (thread.slot.has_frame(frame.number), worker) {
        (false, _) => PollState::Finished,
        (true, Some(worker)) => PollState::OnWorker(worker),
        (true, None) => PollState::OffWorker,
    }
}

/// The polls that have left their worker, because `block_in_place` has handed it on, and are not
/// over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OffWorkerPolls {
    pub(crate) count: usize,
    /// The duration of the longest of them so far.
    pub(crate) oldest: Nanos,
}

/// Returns the polls of a multi-thread runtime that have left their worker, and have lasted for at
/// least `min_elapsed`.
pub(crate) fn off_worker_polls(meter: &Meter, runtime: &Runtime, min_elapsed: Nanos) -> OffWorkerPolls {
    let mut found = OffWorkerPolls::default();
    // As in `worker_polls`.
    if !runtime.is_multi_thread() || !meter.clock.is_consistent() {
        return found;
    }
    for (thread, reading) in read_slots(meter) {
        let Some(reading) = reading else { continue };
        let now = meter.clock.moment();
        for PollFrame { frame, tag, .. } in reading.polls() {
            let elapsed = now.saturating_sub(meter.clock.nanos(frame.start));
            if tag.runtime == runtime.id
                && elapsed >= min_elapsed
                && ownership::started_on_worker(frame)
                && poll_state(runtime, &thread, frame) == PollState::OffWorker
            {
                (found.count, found.oldest) = (found.count + 1, found.oldest.max(elapsed));
            }
        }
    }
    found
}

/// A worker and the poll that it is in.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPoll {
    pub(crate) worker: WorkerIndex,
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
    // The clock has jumped, and the watchdog thread has not noticed it yet: no moment is known.
    if !meter.clock.is_consistent() {
        return found;
    }
    for (thread, reading) in read_slots(meter) {
        let Some(reading) = reading else { continue };
        let now = meter.clock.moment();
        for (poll, frame) in polls_in(meter, &thread, &reading) {
            let elapsed = poll.allowed_since.unwrap_or(now).saturating_sub(poll.start);
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
            match found.iter_mut().find(|other| other.worker == worker) {
                Some(other) if other.elapsed >= elapsed => {}
                Some(other) => *other = this,
                None => found.push(this),
            }
        }
    }
    found
}

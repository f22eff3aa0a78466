//! Tracing spans: each thread publishes the spans that it is in, so that the watchdog can read them
//! without the user's subscriber. A blocked thread may hold that subscriber's locks.
//!
//! [`layer`] receives the spans from `tracing`, [`thread`] publishes them in the thread's span
//! slot.

pub(crate) mod layer;
mod thread;

use std::sync::Arc;

use crate::measure::primitives::span_slot::{EnteredDuring, PublishedSpan};
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::thread::ThreadState;
use crate::model::id::FrameNumber;
pub(crate) use thread::attach_to;

/// Returns the texts of the spans that a thread is in during a poll, the outermost first. `poll` is
/// the number of the poll's frame.
///
/// Excluded are spans that an earlier poll entered and did not exit, and spans that another task
/// entered in a poll that is not measured. They say nothing about this poll.
pub(crate) fn during_poll(thread: &ThreadState, poll: FrameNumber) -> Vec<Arc<str>> {
    let Some(stack) = thread.spans.get().and_then(|spans| spans.read()) else { return Vec::new() };
    let Some(slot) = thread.slot.read() else { return Vec::new() };
    let task = slot.frames().iter().find(|frame| frame.number == poll).map_or(TaskBits::NONE, |frame| frame.task);
    let belongs = |span: &&PublishedSpan| match span.during {
        EnteredDuring::Poll(number) => slot.frames().iter().any(|frame| frame.number == number),
        EnteredDuring::Task(bits) => bits == task,
        EnteredDuring::NoTask => true,
    };
    let mut spans: Vec<(u64, Arc<str>)> = Vec::new();
    for span in stack.spans.iter().filter(belongs) {
        let span = (span.key.span, span.text().into());
        // A span can be entered twice, and be seen by two layers.
        if !spans.contains(&span) {
            spans.push(span);
        }
    }
    let mut texts: Vec<Arc<str>> = spans.into_iter().map(|(_, text)| text).collect();
    if stack.excess > 0 {
        texts.push(format!("… {} more", stack.excess).into());
    }
    texts
}

//! Tracing spans: each thread publishes the spans that it is in, so that the watchdog can read them
//! without the user's subscriber. A blocked thread may hold that subscriber's locks.
//!
//! [`layer`] receives the spans from `tracing`, [`thread`] publishes them in the thread's span
//! slot.

pub(crate) mod layer;
mod thread;

use std::sync::Arc;

use crate::measure::primitives::span_slot::{EnteredDuring, SpanLabel, SpanStack};
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
    let Some(stack) = spans_during(thread, poll) else { return Vec::new() };
    let mut spans: Vec<(u64, Arc<str>)> = Vec::new();
    for span in stack.spans {
        let SpanLabel::Span(text) = span.label() else { continue };
        // A span can be entered twice, and pass two layers.
        let span = (span.key.span, text.into());
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

/// Returns the name of the task that a poll is of, if it has one and tokio's span of the task was
/// published.
pub(crate) fn task_name(thread: &ThreadState, poll: FrameNumber) -> Option<Arc<str>> {
    let spans = spans_during(thread, poll)?.spans;
    spans.into_iter().rev().find_map(|span| match (span.during, span.label()) {
        (EnteredDuring::Poll(number), SpanLabel::Task(name)) if number == poll && !name.is_empty() => Some(name.into()),
        _ => None,
    })
}

/// Returns the spans that belong to a poll, and the number of further ones.
fn spans_during(thread: &ThreadState, poll: FrameNumber) -> Option<SpanStack> {
    let mut stack = thread.spans.get()?.read()?;
    let slot = thread.slot.read()?;
    let task = slot.frames().iter().find(|frame| frame.number == poll).map_or(TaskBits::NONE, |frame| frame.task);
    stack.spans.retain(|span| match span.during {
        EnteredDuring::Poll(number) => slot.frames().iter().any(|frame| frame.number == number),
        EnteredDuring::Task(bits) => bits == task,
        EnteredDuring::NoTask => true,
    });
    Some(stack)
}

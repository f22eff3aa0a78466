//! Tracing spans: which of them a thread is in, published so that the watchdog tells them without asking the subscriber, whose
//! locks may be held by whatever blocks.
//!
//! [`layer`] sees the spans, [`thread`] publishes them in the thread's span slot.

pub(crate) mod layer;
mod thread;

use std::sync::Arc;

use crate::measure::primitives::span_slot::Entered;
use crate::measure::thread::ThreadState;
use crate::model::id::FrameNumber;
pub(crate) use thread::hand_over;

/// The spans that the thread is in during the poll with this push number, outermost first, each once. Left out are those that
/// were entered in a poll that is over, and those that another task entered outside of any poll that is measured.
pub(crate) fn of_poll(thread: &ThreadState, number: FrameNumber) -> Vec<Arc<str>> {
    let Some(spans) = thread.spans.get().and_then(|spans| spans.read()) else { return Vec::new() };
    let Some(polls) = thread.slot.read() else { return Vec::new() };
    let task = polls.frames().iter().find(|frame| frame.number == number).map_or(0, |frame| frame.task.0);
    let counts = |entered: &Entered| match entered.place.poll {
        0 => entered.place.task == 0 || entered.place.task == task,
        poll => polls.frames().iter().any(|frame| frame.number.0 == poll),
    };
    let mut told: Vec<(u64, Arc<str>)> = Vec::new();
    for entered in spans.entered.iter().filter(|entered| counts(entered)) {
        // Entered twice, or seen by two layers.
        let this = (entered.key.span, entered.text().into());
        if !told.contains(&this) {
            told.push(this);
        }
    }
    let mut told: Vec<Arc<str>> = told.into_iter().map(|(_, text)| text).collect();
    if spans.deeper > 0 {
        told.push(format!("… {} more", spans.deeper).into());
    }
    told
}

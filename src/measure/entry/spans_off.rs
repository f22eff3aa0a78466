//! No spans: the feature is off. The twin of `spans/`.

use std::sync::Arc;

use crate::measure::thread::ThreadState;
use crate::model::id::FrameNumber;

pub(crate) fn hand_over(_meter_id: u64, _state: &Arc<ThreadState>) {}

pub(crate) fn of_poll(_thread: &ThreadState, _number: FrameNumber) -> Vec<Arc<str>> {
    Vec::new()
}

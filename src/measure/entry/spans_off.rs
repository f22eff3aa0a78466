//! The functions of `spans/` without the feature `spans`: there are no spans.

use std::sync::Arc;

use crate::measure::thread::ThreadState;
use crate::model::id::FrameNumber;

pub(crate) fn attach_to(_state: &Arc<ThreadState>, _meter_id: u64) {}

pub(crate) fn task_name(_thread: &ThreadState, _poll: FrameNumber) -> Option<Arc<str>> {
    None
}

pub(crate) fn during_poll(_thread: &ThreadState, _poll: FrameNumber) -> Vec<Arc<str>> {
    Vec::new()
}

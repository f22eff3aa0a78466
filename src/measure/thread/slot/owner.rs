//! What the owning thread reads and changes below its innermost frame, without copies or retries.

use super::{FrameCell, FrameTag, MAX_FRAMES, Slot};
use crate::measure::primitives::route::RouteId;

/// For the owning thread only.
impl Slot {
    /// Returns the published frames, the innermost first.
    #[inline]
    fn own_frames(&self) -> impl Iterator<Item = (&FrameCell, FrameTag)> {
        let depth = self.depth().min(MAX_FRAMES);
        self.frames[..depth].iter().rev().map(|cell| (cell, FrameTag::unpack(cell.what())))
    }

    /// Returns the innermost frame that is a poll.
    #[inline]
    pub(crate) fn innermost_poll(&self) -> Option<(&FrameCell, FrameTag)> {
        self.own_frames().find(|(_, what)| what.kind.is_poll())
    }

    /// Returns whether this thread is polling this task.
    #[cfg(tokio_unstable)]
    pub(crate) fn is_polling(&self, task: u64) -> bool {
        self.own_frames().any(|(cell, what)| what.kind == super::FrameKind::Task && cell.task() == task)
    }

    /// Returns the route of the innermost request of the innermost poll.
    #[cfg(feature = "tower")]
    pub(crate) fn innermost_request(&self) -> Option<RouteId> {
        let parts = self.own_frames().take_while(|(_, what)| !what.kind.is_poll());
        parts.filter(|(_, what)| what.kind == super::FrameKind::Route).find_map(|(_, what)| what.route)
    }

    /// Leaves the time of the innermost frame, a request, out of the requests that enclose it. They
    /// are those up to the next scope of allowed blocking, which leaves out all of its own time.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn delay_requests_around(&self, now: impl FnOnce() -> u64) {
        if self.depth() <= 2 {
            return;
        }
        let Some(top) = self.top() else { return };
        let ticks = now().saturating_sub(top.begin());
        let parts = self
            .own_frames()
            .skip(1)
            .take_while(|(_, what)| !what.kind.is_poll() && what.kind != super::FrameKind::Allowed);
        for (around, _) in parts.filter(|(_, what)| what.kind == super::FrameKind::Route) {
            around.delay(ticks);
        }
    }

    /// Withdraws the innermost frame, which was allowed to block, and leaves its ticks out of all
    /// enclosing frames.
    pub(crate) fn pop_allowed(&self, ticks: u64) {
        let enclosing = self.depth().saturating_sub(1).min(MAX_FRAMES);
        self.frames[..enclosing].iter().for_each(|frame| frame.delay(ticks));
        self.pop();
    }

    /// Returns the push number of the innermost frame that is a poll, 0 where there is none.
    #[cfg(feature = "spans")]
    #[inline]
    pub(crate) fn innermost_poll_number(&self) -> u64 {
        self.innermost_poll().map_or(0, |(cell, _)| cell.number())
    }

    /// Returns the route under which a task that is spawned now is spawned.
    pub(crate) fn current_route(&self) -> Option<RouteId> {
        self.own_frames().find_map(|(_, what)| what.route)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::FrameKind;
    use super::*;

    fn tag(kind: FrameKind) -> u64 {
        FrameTag { kind, runtime: crate::model::id::RuntimeId::OTHER, route: None, index: 0 }.pack()
    }

    fn starts(slot: &Slot) -> Vec<u64> {
        slot.read().unwrap().frames().iter().map(|frame| frame.begin).collect()
    }

    #[test]
    fn allowed_blocking_is_left_out_of_every_enclosing_frame() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, 1, 2, None);
        slot.push(100, tag(FrameKind::Allowed), 0, None);
        slot.push(150, tag(FrameKind::Allowed), 0, None);
        slot.pop_allowed(50);
        assert_eq!(starts(&slot), [60, 70, 150]);
        slot.pop_allowed(300 - 150);
        assert_eq!(starts(&slot), [210, 220]);
    }

    #[cfg(feature = "tower")]
    #[test]
    fn a_nested_request_is_left_out_of_the_outer_request_and_not_of_the_poll() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, tag(FrameKind::Route), 0, None);
        slot.push(40, tag(FrameKind::Route), 0, None);
        slot.delay_requests_around(|| 140);
        slot.pop();
        assert_eq!(starts(&slot), [10, 120]);
    }

    /// The scope leaves out all of its own time, and with it the time of the request inside.
    #[cfg(feature = "tower")]
    #[test]
    fn a_request_in_a_scope_in_a_request_is_left_out_once() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, tag(FrameKind::Route), 0, None);
        slot.push(30, tag(FrameKind::Allowed), 0, None);
        slot.push(40, tag(FrameKind::Route), 0, None);
        slot.delay_requests_around(|| 140);
        slot.pop();
        assert_eq!(starts(&slot)[..2], [10, 20]);
        slot.pop_allowed(150 - 30);
        assert_eq!(starts(&slot), [130, 140]);
    }
}

//! The operations of the owning thread on the frames below its innermost one. They need neither
//! copies nor retries.

#[cfg(feature = "tower")]
use super::FrameKind;
use super::{FrameCell, FrameTag, MAX_FRAMES, Slot};
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::route::RouteId;
#[cfg(tokio_unstable)]
use crate::measure::primitives::task_id::TaskBits;
#[cfg(feature = "spans")]
use crate::model::id::FrameNumber;

/// For the owning thread only.
impl Slot {
    /// Returns the published frames, the innermost first.
    #[inline]
    fn own_frames(&self) -> impl Iterator<Item = (&FrameCell, FrameTag)> {
        let depth = self.depth().min(MAX_FRAMES);
        self.frames[..depth].iter().rev().map(|frame| (frame, frame.tag()))
    }

    /// Returns the innermost frame that is a poll.
    #[inline]
    pub(crate) fn innermost_poll(&self) -> Option<(&FrameCell, FrameTag)> {
        self.own_frames().find(|(_, tag)| tag.kind.is_poll())
    }

    /// Returns whether this thread is polling this task.
    #[cfg(tokio_unstable)]
    pub(crate) fn is_polling(&self, task: TaskBits) -> bool {
        self.own_frames().any(|(frame, tag)| tag.kind == super::FrameKind::Task && frame.task() == task)
    }

    /// Returns the route of the innermost request of the innermost poll.
    #[cfg(feature = "tower")]
    pub(crate) fn innermost_request(&self) -> Option<RouteId> {
        let parts = self.own_frames().take_while(|(_, tag)| !tag.kind.is_poll());
        parts.filter(|(_, tag)| tag.kind == FrameKind::Route).find_map(|(_, tag)| tag.route)
    }

    /// Excludes the time of the innermost frame, a request, from the requests that enclose it.
    /// Those outside of a scope of allowed blocking are not changed, because the scope excludes all
    /// of its own time from them.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn delay_enclosing_requests(&self, now: impl FnOnce() -> Ticks) {
        if self.depth() <= 2 {
            return;
        }
        let Some(top) = self.top() else { return };
        let ticks = now().since_same_source(top.start());
        let parts =
            self.own_frames().skip(1).take_while(|(_, tag)| !tag.kind.is_poll() && tag.kind != FrameKind::Allowed);
        for (request, _) in parts.filter(|(_, tag)| tag.kind == FrameKind::Route) {
            request.delay_start(ticks);
        }
    }

    /// Pops the innermost frame, a scope of allowed blocking, and excludes its ticks from all
    /// enclosing frames.
    pub(crate) fn pop_allowed(&self, ticks: Ticks) {
        let enclosing = self.depth().saturating_sub(1).min(MAX_FRAMES);
        self.frames[..enclosing].iter().for_each(|frame| frame.delay_start(ticks));
        self.pop();
    }

    /// Returns the push number of the innermost frame that is a poll.
    #[cfg(feature = "spans")]
    #[inline]
    pub(crate) fn innermost_poll_number(&self) -> FrameNumber {
        self.innermost_poll().map_or(FrameNumber::NONE, |(frame, _)| frame.number())
    }

    /// Returns the route that a task is spawned under, if this thread spawns one now.
    pub(crate) fn current_route(&self) -> Option<RouteId> {
        self.own_frames().find_map(|(_, tag)| tag.route)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::FrameKind;
    use super::*;

    fn tag(kind: FrameKind) -> u64 {
        FrameTag { kind, runtime: crate::model::id::RuntimeId::OTHER, route: None, index: 0 }.pack().0
    }

    fn starts(slot: &Slot) -> Vec<u64> {
        slot.read().unwrap().frames().iter().map(|frame| frame.start.0).collect()
    }

    #[test]
    fn allowed_blocking_is_excluded_from_every_enclosing_frame() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, 1, 2, None);
        slot.push(100, tag(FrameKind::Allowed), 0, None);
        slot.push(150, tag(FrameKind::Allowed), 0, None);
        slot.pop_allowed(Ticks(50));
        assert_eq!(starts(&slot), [60, 70, 150]);
        slot.pop_allowed(Ticks(300 - 150));
        assert_eq!(starts(&slot), [210, 220]);
    }

    #[cfg(feature = "tower")]
    #[test]
    fn a_nested_request_is_excluded_from_the_outer_request_and_not_from_the_poll() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, tag(FrameKind::Route), 0, None);
        slot.push(40, tag(FrameKind::Route), 0, None);
        slot.delay_enclosing_requests(|| Ticks(140));
        slot.pop();
        assert_eq!(starts(&slot), [10, 120]);
    }

    /// The scope excludes all of its own time, and with it the time of the request inside.
    #[cfg(feature = "tower")]
    #[test]
    fn a_request_in_a_scope_in_a_request_is_excluded_once() {
        let slot = Slot::new();
        slot.push(10, 1, 1, None);
        slot.push(20, tag(FrameKind::Route), 0, None);
        slot.push(30, tag(FrameKind::Allowed), 0, None);
        slot.push(40, tag(FrameKind::Route), 0, None);
        slot.delay_enclosing_requests(|| Ticks(140));
        slot.pop();
        assert_eq!(starts(&slot)[..2], [10, 20]);
        slot.pop_allowed(Ticks(150 - 30));
        assert_eq!(starts(&slot), [130, 140]);
    }
}

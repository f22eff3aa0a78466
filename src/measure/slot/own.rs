//! What a thread asks of its own slot, beneath the innermost frame: no copies, no retries.

#[cfg(feature = "tower")]
use super::UNTIMED;
use super::{FrameCell, MAX_FRAMES, Slot, What};
use crate::measure::route::RouteId;
#[cfg(feature = "tower")]
use crate::sync::Ordering;

/// For the owning thread only.
impl Slot {
    /// The frames, innermost first, as their owner wrote them.
    #[inline]
    fn own_frames(&self) -> impl Iterator<Item = (&FrameCell, What)> {
        let depth = self.depth().min(MAX_FRAMES);
        self.frames[..depth].iter().rev().map(|cell| (cell, What::unpack(cell.what())))
    }

    /// The innermost frame that is a poll.
    #[inline]
    pub(crate) fn innermost_poll(&self) -> Option<(&FrameCell, What)> {
        self.own_frames().find(|(_, what)| what.kind.is_poll())
    }

    /// Whether the poll of this task is under way.
    #[cfg(tokio_unstable)]
    pub(crate) fn is_polling(&self, task: u64) -> bool {
        self.own_frames().any(|(cell, what)| what.kind == super::Kind::Task && cell.task() == task)
    }

    /// The innermost request of the innermost poll.
    #[cfg(feature = "tower")]
    pub(crate) fn innermost_request(&self) -> Option<RouteId> {
        let parts = self.own_frames().take_while(|(_, what)| !what.kind.is_poll());
        parts.filter(|(_, what)| what.kind == super::Kind::Route).find_map(|(_, what)| what.route)
    }

    /// Lets the requests around the innermost frame, which is one, too, begin later by its own time: what lay within it has been
    /// taken from them already. A scope that is meant to block will leave out all of itself from what is around it.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn delay_requests_around(&self, now: impl FnOnce() -> u64) {
        if self.depth() <= 2 {
            return;
        }
        let Some((index, top)) = self.top_at() else { return };
        let begin = top.begin();
        if begin == UNTIMED {
            return self.delay_noted_requests_around((index, top), now);
        }
        let ticks = now().saturating_sub(begin);
        let parts =
            self.own_frames().skip(1).take_while(|(_, what)| !what.kind.is_poll() && what.kind != super::Kind::Allowed);
        for (around, _) in parts.filter(|(_, what)| what.kind == super::Kind::Route) {
            around.begin.store(around.begin().saturating_add(ticks), Ordering::Release);
        }
    }

    /// The push number of the innermost frame that is a poll, 0 where there is none; the owning thread only.
    #[cfg(feature = "spans")]
    #[inline]
    pub(crate) fn innermost_poll_number(&self) -> u64 {
        self.innermost_poll().map_or(0, |(cell, _)| cell.number())
    }

    /// The route that whatever is spawned now is spawned under.
    pub(crate) fn current_route(&self) -> Option<RouteId> {
        self.own_frames().find_map(|(_, what)| what.route)
    }
}

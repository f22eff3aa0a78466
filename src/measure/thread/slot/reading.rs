//! A copy of a slot, and the polls, scopes and requests in it.

use super::{Frame, FrameKind, FrameTag, MAX_FRAMES};
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;

/// A consistent copy of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The version of the slot: another one as soon as anything was pushed or popped.
    pub(crate) state: u64,
    pub(super) frames: [Frame; MAX_FRAMES],
    pub(super) len: usize,
}

impl Reading {
    /// Returns the frames, the outermost first.
    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames[..self.len]
    }

    /// Returns the parts of a poll up to the next poll within it, the outermost first.
    fn parts_of(&self, poll: &Frame) -> impl Iterator<Item = (&Frame, FrameTag)> {
        let within = self.frames().iter().skip_while(|f| f.number != poll.number).skip(1);
        within.map(|f| (f, FrameTag::unpack(f.what))).take_while(|(_, what)| !what.kind.is_poll())
    }

    /// Returns the innermost watched future in a poll.
    pub(crate) fn scope_of(&self, poll: &Frame) -> Option<SiteId> {
        self.parts_of(poll).filter(|(_, what)| what.kind == FrameKind::Scope).last().map(|(_, what)| SiteId(what.index))
    }

    /// Returns the innermost request in a poll.
    pub(crate) fn request_of(&self, poll: &Frame) -> Option<(&Frame, RouteId)> {
        let requests = self.parts_of(poll).filter(|(_, what)| what.kind == FrameKind::Route);
        requests.filter_map(|(frame, what)| Some((frame, what.route?))).last()
    }

    /// Returns the route under which the task of a poll, or the innermost watched future in it, was
    /// spawned.
    pub(crate) fn parent_route(&self, poll: &Frame) -> Option<RouteId> {
        let parts = self.parts_of(poll).filter(|(_, what)| what.kind == FrameKind::Scope).map(|(_, what)| what);
        std::iter::once(FrameTag::unpack(poll.what)).chain(parts).filter_map(|what| what.route).last()
    }

    /// Returns the polls, the outermost first. The third item is the clock reading since when the
    /// time of the poll does not count, because a scope of allowed blocking is open in it.
    pub(crate) fn polls(&self) -> impl Iterator<Item = (&Frame, FrameTag, Option<u64>)> {
        let polls = self.frames().iter().enumerate().map(|(i, frame)| (i, frame, FrameTag::unpack(frame.what)));
        polls.filter(|(_, _, what)| what.kind.is_poll()).map(|(i, frame, what)| (frame, what, self.stands_since(i)))
    }

    /// Returns the start of the outermost scope of allowed blocking at this depth or deeper.
    fn stands_since(&self, index: usize) -> Option<u64> {
        self.frames()[index..].iter().find(|f| FrameTag::unpack(f.what).kind == FrameKind::Allowed).map(|f| f.begin)
    }
}

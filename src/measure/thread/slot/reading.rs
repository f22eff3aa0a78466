//! A copy of a slot, and the polls, scopes and requests in it.

use super::{Frame, FrameKind, FrameTag, MAX_FRAMES};
use crate::measure::primitives::clock::Ticks;
use crate::measure::primitives::route::RouteId;
use crate::measure::primitives::site::SiteId;
use crate::model::id::RuntimeId;

/// A consistent copy of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotReading {
    /// The version of the slot, which every push and every pop changes.
    pub(crate) version: u64,
    pub(super) frames: [Frame; MAX_FRAMES],
    pub(super) len: usize,
}

/// A poll in a copy of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollFrame<'a> {
    pub(crate) frame: &'a Frame,
    pub(crate) tag: FrameTag,
    /// The start of the scope of allowed blocking that is open in the poll. Time from then on does
    /// not count for the poll.
    pub(crate) allowed_since: Option<Ticks>,
}

impl SlotReading {
    /// Returns the frames, the outermost first.
    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames[..self.len]
    }

    /// Returns the parts of a poll up to the next poll within it, the outermost first.
    fn parts_of(&self, poll: &Frame) -> impl Iterator<Item = (&Frame, FrameTag)> {
        let within = self.frames().iter().skip_while(|f| f.number != poll.number).skip(1);
        within.map(|f| (f, f.tag.unpack())).take_while(|(_, tag)| !tag.kind.is_poll())
    }

    /// Returns the innermost watched future in a poll.
    pub(crate) fn watched_part_of(&self, poll: &Frame) -> Option<SiteId> {
        self.parts_of(poll)
            .filter(|(_, tag)| tag.kind == FrameKind::WatchedPart)
            .last()
            .map(|(_, tag)| SiteId(tag.index))
    }

    /// Returns the innermost request in a poll.
    pub(crate) fn request_of(&self, poll: &Frame) -> Option<(&Frame, RouteId)> {
        let requests = self.parts_of(poll).filter(|(_, tag)| tag.kind == FrameKind::Route);
        requests.filter_map(|(frame, tag)| Some((frame, tag.route?))).last()
    }

    /// Returns the route under which the task of a poll, or the innermost watched future in it, was
    /// spawned.
    pub(crate) fn parent_route(&self, poll: &Frame) -> Option<RouteId> {
        let watched = self.parts_of(poll).filter(|(_, tag)| tag.kind == FrameKind::WatchedPart).map(|(_, tag)| tag);
        std::iter::once(poll.tag.unpack()).chain(watched).filter_map(|tag| tag.route).last()
    }

    /// Returns the polls, the outermost first.
    pub(crate) fn polls(&self) -> impl Iterator<Item = PollFrame<'_>> {
        let frames = self.frames().iter().enumerate().map(|(i, frame)| (i, frame, frame.tag.unpack()));
        let polls = frames.filter(|(_, _, tag)| tag.kind.is_poll());
        polls.map(|(i, frame, tag)| PollFrame { frame, tag, allowed_since: self.allowed_since(i) })
    }

    /// Returns whether a poll is one of this runtime.
    pub(crate) fn has_poll_of(&self, runtime: RuntimeId) -> bool {
        self.polls().any(|poll| poll.tag.runtime == runtime)
    }

    /// Returns the start of the outermost scope of allowed blocking at this depth or deeper.
    fn allowed_since(&self, depth: usize) -> Option<Ticks> {
        self.frames()[depth..].iter().find(|f| f.tag.unpack().kind == FrameKind::Allowed).map(|f| f.start)
    }
}

//! The words of a frame: the identity of what it polls, and the worker that it was pushed on.

use super::route::RouteId;
use crate::model::id::RuntimeId;

/// The number of runtimes that one watchdog distinguishes. Further ones share
/// [`RuntimeId::OTHER`].
pub(crate) const MAX_RUNTIMES: usize = 64;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A poll that tokio's hooks report.
    Task,
    /// A poll of a watched future that no hook measures: a `block_on` root, a task of a runtime
    /// without hooks, or a watched task in stable mode.
    Watched,
    /// A watched future within a poll. It is a part of that poll.
    WatchedPart,
    /// A request within a poll. It is a part of that poll.
    Route,
    /// A scope of allowed blocking. While it is open, no time counts for the enclosing polls.
    Allowed,
}

impl FrameKind {
    /// Returns whether the frame is a poll, and not a part of one.
    #[inline]
    pub(crate) fn is_poll(self) -> bool {
        matches!(self, FrameKind::Task | FrameKind::Watched)
    }
}

/// The identity of what a frame polls: kind, route, runtime, and the index of the site's counters
/// on the thread (of a poll) or the site (of a scope). The route is that of the request, or the one
/// under which a watched future was spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTag {
    pub(crate) kind: FrameKind,
    /// The runtime's id, below [`MAX_RUNTIMES`]: 8 bits.
    pub(crate) runtime: RuntimeId,
    pub(crate) route: Option<RouteId>,
    pub(crate) index: u32,
}

const _: () = assert!(MAX_RUNTIMES <= 1 << 8);

impl FrameTag {
    #[inline]
    pub(crate) fn pack(self) -> PackedTag {
        PackedTag(u64::from(self.runtime.0) << 32 | u64::from(self.index)).with(self.kind, self.route)
    }
}

/// A [`FrameTag`] in one word. From the highest bits: the kind (8), the route (16), the runtime
/// (8), and the index (32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackedTag(pub(crate) u64);

impl PackedTag {
    /// Adds a kind and a route to the tag of counters, which has a runtime and an index only.
    #[inline(always)]
    pub(crate) fn with(self, kind: FrameKind, route: Option<RouteId>) -> PackedTag {
        PackedTag((kind as u64) << 56 | u64::from(RouteId::to_bits(route)) << 40 | self.0)
    }

    #[inline]
    pub(crate) fn unpack(self) -> FrameTag {
        let word = self.0;
        FrameTag {
            kind: match word >> 56 {
                0 => FrameKind::Task,
                1 => FrameKind::Watched,
                2 => FrameKind::WatchedPart,
                3 => FrameKind::Route,
                _ => FrameKind::Allowed,
            },
            runtime: RuntimeId((word >> 32) as u8),
            route: RouteId::from_bits((word >> 40) as u16),
            index: word as u32,
        }
    }
}

/// The observation that a wrapper makes at the push of a frame about its thread and the poll's
/// runtime, in one word. The two modules in `runtime::ownership` define the bits. 0 is the record
/// of a frame for which nothing has to be remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnershipRecord(pub(crate) u64);

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_packing() {
        for kind in [FrameKind::Task, FrameKind::Watched, FrameKind::WatchedPart, FrameKind::Route, FrameKind::Allowed]
        {
            for route in [None, RouteId::from_bits(1), RouteId::from_bits(u16::MAX)] {
                let tag = FrameTag { kind, runtime: RuntimeId(63), route, index: u32::MAX };
                assert_eq!(tag.pack().unpack(), tag);
            }
        }
    }
}

//! The identity of what a frame polls, packed into one word.

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
    /// A poll that a wrapper measures, because no hook does: a `block_on` root, or a watched task
    /// in stable mode.
    Watched,
    /// A watched future within a poll. It is a part of that poll.
    Scope,
    /// A request within a poll. It is a part of that poll.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
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
    pub(crate) fn pack(self) -> u64 {
        (self.kind as u64) << 56
            | u64::from(RouteId::to_bits(self.route)) << 40
            | u64::from(self.runtime.0) << 32
            | u64::from(self.index)
    }

    /// Packs the identity of a poll. `counted` is what its counters hold of it.
    #[inline(always)]
    pub(crate) fn pack_poll(kind: FrameKind, route: Option<RouteId>, counted: u64) -> u64 {
        (kind as u64) << 56 | u64::from(RouteId::to_bits(route)) << 40 | counted
    }

    #[inline]
    pub(crate) fn unpack(word: u64) -> FrameTag {
        FrameTag {
            kind: match word >> 56 {
                0 => FrameKind::Task,
                1 => FrameKind::Watched,
                2 => FrameKind::Scope,
                3 => FrameKind::Route,
                _ => FrameKind::Allowed,
            },
            runtime: RuntimeId((word >> 32) as u8),
            route: RouteId::from_bits((word >> 40) as u16),
            index: word as u32,
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_survives_packing() {
        for kind in [FrameKind::Task, FrameKind::Watched, FrameKind::Scope, FrameKind::Route, FrameKind::Allowed] {
            for route in [None, RouteId::from_bits(1), RouteId::from_bits(u16::MAX)] {
                let what = FrameTag { kind, runtime: RuntimeId(63), route, index: u32::MAX };
                assert_eq!(FrameTag::unpack(what.pack()), what);
            }
        }
    }
}

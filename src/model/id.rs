//! Identifiers that all layers use.

use std::num::NonZeroU16;

/// A runtime in the table of a watchdog's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RuntimeId(pub(crate) u8);

impl RuntimeId {
    /// The runtime `other`: of polls outside of any runtime, and of the runtimes that did not fit
    /// into the table.
    pub(crate) const OTHER: RuntimeId = RuntimeId(0);

    /// Returns the index in lists: 0, 1, 2 ...
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A site in the table of a watchdog's sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SiteId(pub(crate) u32);

impl SiteId {
    /// The sites that did not fit into the table.
    pub(crate) const OTHER: SiteId = SiteId(0);
    /// The site of pollwatch's own tasks, which no counter includes.
    pub(crate) const OWN: SiteId = SiteId(u32::MAX);
}

/// A route in the table of a watchdog's routes. It fits, with its absence, into the 16 bits that a
/// frame has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteId(NonZeroU16);

impl RouteId {
    /// The routes that did not fit into the table.
    #[cfg(any(feature = "tower", test))]
    pub(crate) const OTHER: RouteId = RouteId(NonZeroU16::new(1).unwrap());
    /// The requests that no route matched.
    #[cfg(feature = "tower")]
    pub(crate) const UNMATCHED: RouteId = RouteId(NonZeroU16::new(2).unwrap());

    /// Returns the bits of a route; those of `None` are 0.
    #[inline]
    pub(crate) fn to_bits(route: Option<RouteId>) -> u16 {
        route.map_or(0, |route| route.0.get())
    }

    /// Returns the route with these bits.
    #[inline]
    pub(crate) fn from_bits(bits: u16) -> Option<RouteId> {
        NonZeroU16::new(bits).map(RouteId)
    }

    /// Returns the index in lists: 0, 1, 2 ...
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The push number of a frame in a thread's slot: unique on that thread, higher for later frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FrameNumber(pub(crate) u64);

impl FrameNumber {
    /// No frame: nothing is measured, or the frame is too deep to be published.
    pub(crate) const NONE: FrameNumber = FrameNumber(0);
}

/// The index of a worker in its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerIndex(pub(crate) u16);

impl WorkerIndex {
    /// Returns the index in lists: 0, 1, 2 ...
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The number of a stall: 1, 2, 3 ... in each watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StallId(pub(crate) u64);

/// The number of a condition of a whole runtime: 1, 2, 3 ... in each watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConditionId(pub(crate) u64);

/// The number that a watchdog gives to a measured thread. Never reused within the watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ThreadNumber(pub(crate) u64);

/// One poll, unlike all others of the same watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PollKey {
    /// The measured thread.
    pub(crate) thread: ThreadNumber,
    /// The number of the poll's frame on that thread.
    pub(crate) number: FrameNumber,
}

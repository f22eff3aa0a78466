//! The state that a measured thread publishes, and the thread's private handle to it.

use std::sync::Arc;
#[cfg(feature = "spans")]
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};
#[cfg(tokio_unstable)]
use std::thread::ThreadId;

use pollwatch_stack::{StackBounds, Tid};

use crate::measure::counters::routes::ThreadRouteCounters;
use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters, ThreadCounters};
use crate::measure::primitives::clock::{Clock, Ticks};
use crate::measure::primitives::frame::{OwnershipRecord, PackedTag};
use crate::measure::primitives::histogram::SLOW;
#[cfg(feature = "spans")]
use crate::measure::primitives::span_slot::SpanSlot;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::slot::Slot;
use crate::measure::thread::slow_polls::SlowPollRing;
use crate::model::id::{FrameNumber, ThreadNumber};
use crate::model::time::Nanos;

mod handle;
mod local;
pub(crate) mod slot;
pub(crate) mod slow_polls;

#[cfg(tokio_unstable)]
pub(crate) use handle::RuntimeKey;
pub(crate) use handle::{LocalHandle, ResolvedRuntime, SpawnSite};
pub(crate) use local::*;

/// The published state of one thread. The thread writes it, any thread reads it.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) slot: Slot,
    pub(crate) counters: ThreadCounters,
    pub(crate) routes: ThreadRouteCounters,
    pub(crate) slow_polls: SlowPollRing,
    /// The thread's span slot, from its first span on.
    #[cfg(feature = "spans")]
    pub(crate) spans: OnceLock<Arc<SpanSlot>>,
    clock: Clock,
    pub(crate) threshold: Nanos,
    /// The duration from which a poll takes the slow path at its end. Shorter ones are only
    /// counted: they are slow neither for the histogram's exact buckets nor for the watchdog.
    pub(crate) fast_limit: Nanos,
    #[cfg(feature = "tower")]
    pub(crate) route_histograms: bool,
    wake: Arc<Wake>,
    /// The number of the thread in its watchdog, never reused.
    pub(crate) id: ThreadNumber,
    #[cfg(tokio_unstable)]
    pub(crate) thread: ThreadId,
    pub(crate) name: Arc<str>,
    /// The kernel's thread id, where there is one.
    pub(crate) tid: Option<Tid>,
    /// The run delay of the thread when it was registered: how long it had waited for a CPU since
    /// its start. Zero where the kernel does not publish it.
    pub(crate) initial_run_delay: Nanos,
    /// The bounds of the thread's stack, where stacks can be captured.
    pub(crate) stack: Option<StackBounds>,
}

impl ThreadState {
    pub(crate) fn new(meter: &Meter, id: ThreadNumber) -> ThreadState {
        let thread = std::thread::current();
        ThreadState {
            slot: Slot::new(),
            counters: ThreadCounters::new(meter.max_sites),
            routes: ThreadRouteCounters::new(meter.routes.capacity()),
            slow_polls: SlowPollRing::new(),
            #[cfg(feature = "spans")]
            spans: OnceLock::new(),
            clock: meter.clock.clone(),
            threshold: meter.threshold,
            fast_limit: meter.threshold.min(SLOW),
            #[cfg(feature = "tower")]
            route_histograms: meter.route_histograms,
            wake: meter.wake.clone(),
            id,
            #[cfg(tokio_unstable)]
            thread: thread.id(),
            name: thread.name().unwrap_or("unnamed").into(),
            tid: Tid::current(),
            initial_run_delay: Nanos(crate::sys::OwnRunDelay::open().nanos().unwrap_or(0)),
            stack: StackBounds::current(),
        }
    }

    /// Publishes a frame without task and counters, otherwise like [`push_poll`](Self::push_poll).
    #[inline(always)]
    pub(crate) fn push(&self, start: Ticks, tag: PackedTag) -> FrameNumber {
        self.push_poll(start, tag, TaskBits::NONE, None, &NO_COUNTERS)
    }

    /// Publishes the frame of a poll, and wakes the watchdog if it sleeps. Returns what
    /// [`Slot::push_poll`] does.
    ///
    /// The store of the frame may still be in this CPU's store buffer when the flag is read. The
    /// barrier in [`Wake::fall_asleep`] compensates for that.
    #[inline(always)]
    pub(crate) fn push_poll(
        &self,
        start: Ticks,
        tag: PackedTag,
        task: TaskBits,
        ownership: Option<OwnershipRecord>,
        counters: &SiteCounters,
    ) -> FrameNumber {
        let number = self.slot.push_poll(start, tag, task, ownership, counters);
        compiler_fence(Ordering::SeqCst);
        self.wake.check();
        number
    }

    /// Reads the clock.
    #[inline(always)]
    pub(crate) fn now(&self) -> Ticks {
        self.clock.now()
    }

    /// Reads the clock where that takes no call; `None` elsewhere.
    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn fast_now(&self) -> Option<Ticks> {
        self.clock.fast_now()
    }

    /// Returns the time since a reading where that takes no call; `None` elsewhere.
    #[inline(always)]
    pub(crate) fn fast_since(&self, start: Ticks) -> Option<Nanos> {
        self.clock.fast_since(start)
    }

    /// Returns the time since a reading.
    #[inline(always)]
    pub(crate) fn since(&self, start: Ticks) -> Nanos {
        self.clock.since(start)
    }
}

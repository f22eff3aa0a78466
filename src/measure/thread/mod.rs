//! The state that a measured thread publishes, and the thread's private handle to it.

use std::sync::Arc;
#[cfg(feature = "spans")]
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};
#[cfg(tokio_unstable)]
use std::thread::ThreadId;

use pollwatch_stack::{StackBounds, Target, Tid};

use crate::measure::counters::routes::ThreadRouteCounters;
use crate::measure::counters::sites::{NO_COUNTERS, SiteCounters, ThreadCounters};
use crate::measure::primitives::clock::{ThreadClock, Ticks};
use crate::measure::primitives::frame::{OwnershipRecord, PackedTag};
use crate::measure::primitives::histogram::SLOW;
#[cfg(feature = "spans")]
use crate::measure::primitives::span_slot::SpanSlot;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::primitives::wake::Wake;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::delayed_polls::DelayedPollRing;
use crate::measure::thread::slot::Slot;
use crate::measure::thread::slow_polls::SlowPollRing;
use crate::model::id::{FrameNumber, ThreadNumber};
use crate::model::time::Nanos;

pub(crate) mod delayed_polls;
mod handle;
mod local;
pub(crate) mod slot;
pub(crate) mod slow_polls;

#[cfg(all(tokio_unstable, feature = "delays"))]
pub(crate) use handle::PollRoute;
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
    /// The polls that were delayed for long, where delays are tracked.
    pub(crate) delayed_polls: Option<Box<DelayedPollRing>>,
    /// The thread's span slot, from its first span on.
    #[cfg(feature = "spans")]
    pub(crate) spans: OnceLock<Arc<SpanSlot>>,
    pub(crate) clock: ThreadClock,
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
    /// What the kernel had counted for the thread when it was registered.
    pub(crate) initial_times: InitialTimes,
    /// The bounds of the thread's stack, where stacks can be captured.
    pub(crate) stack: Option<StackBounds>,
}

/// The CPU time and the run delay of a thread since its start. Zero where the kernel does not
/// publish them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InitialTimes {
    /// The moment at which they were read.
    pub(crate) at: Nanos,
    pub(crate) cpu: Nanos,
    pub(crate) run_delay: Nanos,
}

impl ThreadState {
    pub(crate) fn new(meter: &Meter, id: ThreadNumber) -> ThreadState {
        let thread = std::thread::current();
        let tid = Tid::current();
        ThreadState {
            slot: Slot::new(),
            counters: ThreadCounters::new(meter.max_sites).tracking_delays(meter.min_delay.is_some()),
            routes: ThreadRouteCounters::new(meter.routes.capacity()),
            slow_polls: SlowPollRing::new(),
            delayed_polls: meter.min_delay.map(|_| Box::new(DelayedPollRing::new())),
            #[cfg(feature = "spans")]
            spans: OnceLock::new(),
            clock: ThreadClock::new(&meter.clock),
            threshold: meter.threshold,
            fast_limit: meter.threshold.min(SLOW),
            #[cfg(feature = "tower")]
            route_histograms: meter.route_histograms,
            wake: meter.wake.clone(),
            id,
            #[cfg(tokio_unstable)]
            thread: thread.id(),
            name: thread.name().unwrap_or("unnamed").into(),
            tid,
            initial_times: InitialTimes {
                at: meter.clock.moment(),
                cpu: Nanos(tid.and_then(crate::sys::thread_cpu_nanos).unwrap_or(0)),
                run_delay: Nanos(crate::sys::OwnRunDelay::open().nanos().unwrap_or(0)),
            },
            stack: StackBounds::current(),
        }
    }

    /// Returns the state of a thread that is not measured and only observed from outside. Nothing
    /// is ever published in it. It has a number of its own, like that of a measured thread.
    pub(crate) fn detached(meter: &Meter, name: &Arc<str>, target: Target) -> ThreadState {
        ThreadState {
            name: name.clone(),
            tid: Some(target.tid),
            initial_times: InitialTimes::default(),
            stack: Some(target.stack),
            ..ThreadState::new(meter, meter.next_thread_number())
        }
    }

    /// Returns whether the watchdog has not taken all polls from the thread's rings.
    pub(crate) fn has_untaken_polls(&self) -> bool {
        !self.slow_polls.is_empty() || self.delayed_polls.as_ref().is_some_and(|delayed| !delayed.is_empty())
    }

    /// Returns how many delayed polls the watchdog has not taken.
    pub(crate) fn untaken_delays(&self) -> u64 {
        self.delayed_polls.as_ref().map_or(0, |delayed| delayed.len())
    }

    /// Returns how many delayed polls did not fit into the ring.
    pub(crate) fn lost_delays(&self) -> u64 {
        self.delayed_polls.as_ref().map_or(0, |delayed| delayed.lost())
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

    /// Returns the time since a reading where that takes no call; `None` elsewhere. A time of the
    /// threshold or more is not verified.
    #[inline(always)]
    pub(crate) fn fast_since(&self, start: Ticks) -> Option<Nanos> {
        self.clock.fast_since(start)
    }

    /// Returns the time since a reading. A jump of the clock does not count.
    #[inline(always)]
    pub(crate) fn since(&self, start: Ticks) -> Nanos {
        self.clock.since(start, self.threshold)
    }
}

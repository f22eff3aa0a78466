//! Entry point of wrapped futures: `watch` and `spawn`, on stable and unstable tokio.

use std::any::Any;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use crate::measure::counters::panics::{self, TaskPanic};
use crate::measure::counters::sites::SiteEvent;
use crate::measure::entry::poll::{self, PushedFrame, WrapperOrigin};
use crate::measure::primitives::route::{RouteId, Routes};
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{LocalHandle, SpawnSite, attached};
use crate::model::id::RuntimeId;

/// The file of a wrapper's poll, as it appears in stacks.
pub(crate) const FILE: &str = file!();

/// The runtime of a future that was not polled yet.
pub(super) const UNRESOLVED: RuntimeId = RuntimeId(u8::MAX);

pin_project! {
    /// A future whose polls are watched; made by [`Watchdog::watch`](crate::Watchdog::watch).
    ///
    /// Where tokio's hooks see the task already, this is a named part of its polls and counts none
    /// of its own. It adds 16 bytes to the future; what it adds to a poll is in `docs/overhead.md`.
    #[must_use = "futures do nothing unless polled"]
    pub struct Watched<F> {
        #[pin]
        inner: F,
        tag: Tag,
    }
}

impl<F> std::fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("site", &self.tag.meter.sites.get(self.tag.site)).finish_non_exhaustive()
    }
}

/// What a wrapper adds to its future: 16 bytes.
struct Tag {
    meter: Arc<Meter>,
    site: SiteId,
    spawned: Spawned,
    runtime: RuntimeId,
    /// How the future ended; counted when it is dropped.
    outcome: Outcome,
}

/// The route that it was spawned under, and in the highest bit whether it is a task whose spawn was
/// counted here, so that its end is, too.
#[derive(Clone, Copy, Default)]
struct Spawned(u16);

const COUNTED: u16 = 1 << 15;
const _: () = assert!(Routes::MAX + 2 < COUNTED as usize);

impl Spawned {
    #[inline]
    fn under(self) -> Option<RouteId> {
        RouteId::from_bits(self.0 & !COUNTED)
    }

    fn is_counted(self) -> bool {
        self.0 & COUNTED != 0
    }
}

const _: () = assert!(size_of::<usize>() != 8 || size_of::<Tag>() == 16);

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Pending,
    Completed,
    Panicked,
}

impl<F> Watched<F> {
    /// Wraps a future that may be polled anywhere.
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>, inner: F) -> Watched<F> {
        let place = Location::caller();
        let site = attached(meter).map(|thread| thread.site(place)).unwrap_or_else(|| meter.sites.intern(place));
        let (spawned, outcome) = (Spawned::default(), Outcome::Pending);
        Watched { inner, tag: Tag { meter: meter.clone(), site, spawned, runtime: UNRESOLVED, outcome } }
    }

    /// A future about to be spawned on the current runtime. Where the hooks see tasks, they count
    /// its spawn and its end.
    #[track_caller]
    pub(crate) fn task(meter: &Arc<Meter>, inner: F) -> Watched<F> {
        let mut watched = Watched::new(meter, inner);
        let hooked = watched.tag.resolve();
        let route = attached(meter).and_then(|thread| thread.state.slot.current_route());
        watched.tag.spawned = Spawned(RouteId::to_bits(route) | if hooked { 0 } else { COUNTED });
        if !hooked {
            watched.tag.count(SiteEvent::Spawned);
        }
        watched
    }

    /// Hands the panic of this task to the watchdog, which reports it.
    #[cold]
    pub(super) fn leave_panic(&self, payload: &(dyn Any + Send)) {
        let Tag { meter, site, runtime, .. } = &self.tag;
        let task = TaskBits::current();
        meter.panics.leave(TaskPanic { runtime: *runtime, site: *site, task, text: panics::text(payload) });
        meter.wake.wake();
    }
}

/// Returns the runtime that polls on this thread, and whether hooks see its tasks.
#[cold]
pub(super) fn resolve(meter: &Arc<Meter>) -> (RuntimeId, bool) {
    let handle = Handle::try_current().ok();
    let id = handle.as_ref().map(Handle::id);
    let thread = attached(meter);
    // As a rule it is the runtime of the last future resolved on this thread, found without a lock.
    let last = thread.and_then(|thread| thread.last_runtime.get());
    if let Some((_, runtime, hooked)) = last.filter(|(last, _, _)| Some(*last) == id) {
        return (runtime, hooked);
    }
    let runtimes = &meter.runtimes;
    let known = handle.and_then(|handle| runtimes.find_or_attach(&handle, meter));
    let runtime = known.unwrap_or_else(|| runtimes.other(meter));
    // There are at most MAX_RUNTIMES of them.
    let (runtime_id, hooked) = (runtime.id, runtime.is_hooked());
    if let (Some(thread), Some(id)) = (thread, id) {
        thread.last_runtime.set(Some((id, runtime_id, hooked)));
        // The cache may be of a runtime that had this id before.
        thread.ownership.forget(runtime.id);
    }
    (runtime_id, hooked)
}

/// The runtime that polls a future now. It may have been polled by another before it was spawned
/// here.
#[cold]
#[inline(never)]
fn resolve_cold(meter: &Arc<Meter>, site: SiteId, runtime: &mut RuntimeId) -> RuntimeId {
    let (now, _) = resolve(meter);
    if now != *runtime {
        *runtime = now;
        count(meter, site, now, SiteEvent::Watched);
    }
    now
}

fn count(meter: &Arc<Meter>, site: SiteId, runtime: RuntimeId, event: SiteEvent) {
    let Some(thread) = attached(meter) else { return };
    if let Some(cell) = thread.cell(SpawnSite::Interned(site), runtime) {
        cell.event(event);
    }
}

impl Tag {
    /// Finds the runtime that polls this future; returns whether hooks see its tasks.
    fn resolve(&mut self) -> bool {
        let (runtime, hooked) = resolve(&self.meter);
        self.runtime = runtime;
        self.count(SiteEvent::Watched);
        hooked
    }

    fn count(&self, event: SiteEvent) {
        count(&self.meter, self.site, self.runtime, event);
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        if self.runtime == UNRESOLVED {
            return;
        }
        self.count(match self.outcome {
            Outcome::Pending => SiteEvent::Cancelled,
            Outcome::Completed => SiteEvent::Completed,
            Outcome::Panicked => SiteEvent::Panicked,
        });
        if self.spawned.is_counted() {
            self.count(SiteEvent::Terminated);
        }
    }
}

/// Pops the frame when the poll unwinds.
struct Unwinds<'a> {
    entered: Option<(&'a LocalHandle, PushedFrame)>,
    outcome: &'a mut Outcome,
}

impl Drop for Unwinds<'_> {
    #[cold]
    #[inline(never)]
    fn drop(&mut self) {
        *self.outcome = Outcome::Panicked;
        leave(self.entered);
    }
}

#[inline(always)]
fn leave(entered: Option<(&LocalHandle, PushedFrame)>) {
    if let Some((thread, entered)) = entered {
        poll::leave(thread, entered);
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let tag = this.tag;
        if tag.runtime == UNRESOLVED {
            tag.resolve();
        }
        let Tag { meter, site, spawned, runtime, outcome } = tag;
        let entered = attached(meter).and_then(|thread| {
            let origin = WrapperOrigin { site: *site, parent_route: spawned.under(), runtime: *runtime };
            let resolve = || resolve_cold(meter, *site, runtime);
            let entered = poll::enter(thread, origin, TaskBits::current, resolve)?;
            Some((thread, entered))
        });
        let unwinds = Unwinds { entered, outcome };
        let result = this.inner.poll(cx);
        if result.is_ready() {
            *unwinds.outcome = Outcome::Completed;
        }
        std::mem::forget(unwinds);
        leave(entered);
        result
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::counters::sites::SiteTotals;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::Waker;

    fn poll<F: Future>(future: &mut Pin<Box<Watched<F>>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn depth(meter: &Meter) -> usize {
        meter.threads()[0].slot.depth()
    }

    fn totals(meter: &Meter) -> SiteTotals {
        *meter.sum().sites.values().next().expect("one site")
    }

    #[test]
    fn a_poll_is_withdrawn_when_it_returns_and_when_it_unwinds() {
        let meter = Meter::of(10_000_000, 10);
        let inside = meter.clone();
        let mut unwinds = Box::pin(Watched::new(&meter, async move {
            assert_eq!(depth(&inside), 1);
            tokio::task::yield_now().await;
            panic!("on purpose");
        }));
        assert!(poll(&mut unwinds).is_pending());
        assert_eq!((depth(&meter), totals(&meter).event(SiteEvent::Panicked)), (0, 0));
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut unwinds))).is_err());
        assert_eq!(depth(&meter), 0);
        drop(unwinds);
        let totals = totals(&meter);
        assert_eq!((totals.polls, totals.event(SiteEvent::Panicked), totals.event(SiteEvent::Cancelled)), (2, 1, 0));
    }

    /// The outer poll holds the thread's handle to its own watchdog meanwhile.
    #[test]
    fn another_watchdog_is_met_within_a_poll() {
        let [outer, inner, innermost] = std::array::from_fn(|_| Meter::of(10_000_000, 10));
        let nested = Watched::new(&outer, async {
            Watched::new(&inner, async { Watched::new(&innermost, async {}).await }).await;
        });
        assert!(poll(&mut Box::pin(nested)).is_ready());
        for meter in [&outer, &inner, &innermost] {
            assert_eq!((totals(meter).polls, totals(meter).event(SiteEvent::Completed), depth(meter)), (1, 1, 0));
        }
    }
}

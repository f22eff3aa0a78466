//! The entry point of wrapped futures: `watch` and `spawn`, on stable and unstable tokio.

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
use crate::measure::thread::{LocalHandle, ResolvedRuntime, SpawnSite, local_handle};
use crate::model::id::RuntimeId;

/// The file of a wrapper's poll, as it appears in stacks.
pub(crate) const FILE: &str = file!();

/// The runtime of a future that was neither polled nor spawned yet.
pub(super) const UNRESOLVED: RuntimeId = RuntimeId(u8::MAX);

pin_project! {
    /// A future whose polls are watched; made by [`Watchdog::watch`](crate::Watchdog::watch).
    ///
    /// Where tokio's hooks measure the task already, this is a named part of its polls and counts
    /// none of its own. It adds 16 bytes to the future; what it adds to a poll is in
    /// `docs/overhead.md`.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").current_thread().build()?;
    /// assert_eq!(runtime.block_on(watchdog.watch(async { 42 })), 42);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct Watched<F> {
        #[pin]
        inner: F,
        state: WatchState,
    }
}

impl<F> std::fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("site", &self.state.meter.sites.get(self.state.site)).finish_non_exhaustive()
    }
}

/// The state that a wrapper adds to its future: 16 bytes.
pub(super) struct WatchState {
    meter: Arc<Meter>,
    site: SiteId,
    spawn: SpawnRecord,
    /// The runtime that polled the future last.
    runtime: RuntimeId,
    /// The outcome of the future so far. It is counted when the wrapper is dropped.
    outcome: FutureOutcome,
}

/// The spawn of a future, in 16 bits: the route that it was spawned under, and in the highest bit
/// whether this wrapper counts the spawn and the end of the task, because no hook does.
#[derive(Clone, Copy, Default)]
struct SpawnRecord(u16);

const COUNTED: u16 = 1 << 15;
const _: () = assert!(Routes::MAX + 2 < COUNTED as usize);

impl SpawnRecord {
    fn new(parent_route: Option<RouteId>, is_counted: bool) -> SpawnRecord {
        SpawnRecord(RouteId::to_bits(parent_route) | if is_counted { COUNTED } else { 0 })
    }

    #[inline]
    fn parent_route(self) -> Option<RouteId> {
        RouteId::from_bits(self.0 & !COUNTED)
    }

    fn is_counted(self) -> bool {
        self.0 & COUNTED != 0
    }
}

const _: () = assert!(size_of::<usize>() != 8 || size_of::<WatchState>() == 16);

#[derive(Clone, Copy, PartialEq)]
enum FutureOutcome {
    Pending,
    Completed,
    Panicked,
}

impl<F> Watched<F> {
    /// Wraps a future that may be polled anywhere.
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>, inner: F) -> Watched<F> {
        Watched { inner, state: WatchState::new(meter, Location::caller()) }
    }

    /// Returns the future, which is not watched any more. If it was polled, it counts as cancelled.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let watched = watchdog.watch(std::future::ready(42));
    /// assert_eq!(watched.into_inner().into_inner(), 42);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn into_inner(self) -> F {
        self.inner
    }

    /// Wraps a future that is about to be spawned on the current runtime. Where hooks see the tasks
    /// of the runtime, they count its spawn and its end.
    #[track_caller]
    pub(crate) fn task(meter: &Arc<Meter>, inner: F) -> Watched<F> {
        let mut watched = Watched::new(meter, inner);
        let is_hooked = watched.state.resolve();
        let route = local_handle(meter).and_then(|thread| thread.state.slot.current_route());
        watched.state.spawn = SpawnRecord::new(route, !is_hooked);
        if !is_hooked {
            watched.state.count(SiteEvent::Spawned);
        }
        watched
    }

    /// Publishes the panic of this task for the watchdog, which reports it.
    #[cold]
    pub(super) fn publish_panic(&self, payload: &(dyn Any + Send)) {
        let WatchState { meter, site, runtime, .. } = &self.state;
        let task = TaskBits::current();
        meter.panics.push(TaskPanic { runtime: *runtime, site: *site, task, text: panics::text(payload) });
        meter.wake.wake();
    }
}

/// Returns the runtime that polls on this thread.
#[cold]
pub(super) fn resolve(meter: &Arc<Meter>) -> ResolvedRuntime {
    let handle = Handle::try_current().ok();
    let tokio_id = handle.as_ref().map(Handle::id);
    let thread = local_handle(meter);
    // As a rule it is the runtime of the previous future on this thread, which is found without a
    // lock.
    let last = thread.and_then(|thread| thread.last_runtime.get());
    if let Some(last) = last.filter(|last| last.tokio_id == tokio_id) {
        return last;
    }
    let runtimes = &meter.runtimes;
    let known = handle.and_then(|handle| runtimes.find_or_attach(&handle, meter));
    let runtime = known.unwrap_or_else(|| runtimes.other(meter));
    let resolved = ResolvedRuntime { tokio_id, id: runtime.id, is_hooked: runtime.is_hooked() };
    if let Some(thread) = thread.filter(|_| tokio_id.is_some()) {
        thread.last_runtime.set(Some(resolved));
        // The cache may be of a runtime that had this id before.
        thread.ownership.forget(runtime.id);
    }
    resolved
}

/// Returns the runtime that polls a future now. Another one may have polled it before it was
/// spawned here.
#[cold]
#[inline(never)]
fn resolve_cold(meter: &Arc<Meter>, site: SiteId, runtime: &mut RuntimeId) -> RuntimeId {
    let now = resolve(meter).id;
    if now != *runtime {
        *runtime = now;
        count(meter, site, now, SiteEvent::Watched);
    }
    now
}

fn count(meter: &Arc<Meter>, site: SiteId, runtime: RuntimeId, event: SiteEvent) {
    let Some(thread) = local_handle(meter) else { return };
    if let Some(counters) = thread.counters(SpawnSite::Interned(site), runtime) {
        counters.event(event);
    }
}

/// Returns the site of a location, which each thread caches.
pub(crate) fn site(meter: &Arc<Meter>, location: &'static Location<'static>) -> SiteId {
    match local_handle(meter) {
        Some(thread) => thread.site(location),
        None => meter.sites.intern(location),
    }
}

impl WatchState {
    /// Returns the state of a future that was wrapped at a location and was not polled yet.
    pub(super) fn new(meter: &Arc<Meter>, location: &'static Location<'static>) -> WatchState {
        let (spawn, outcome) = (SpawnRecord::default(), FutureOutcome::Pending);
        WatchState { meter: meter.clone(), site: site(meter, location), spawn, runtime: UNRESOLVED, outcome }
    }

    /// Finds the runtime that polls this future. Returns whether hooks see its tasks.
    fn resolve(&mut self) -> bool {
        let resolved = resolve(&self.meter);
        self.runtime = resolved.id;
        self.count(SiteEvent::Watched);
        resolved.is_hooked
    }

    fn count(&self, event: SiteEvent) {
        count(&self.meter, self.site, self.runtime, event);
    }

    /// Polls the future that this is the state of, in a frame of its own.
    #[inline(always)]
    pub(super) fn poll<F: Future>(&mut self, inner: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.runtime == UNRESOLVED {
            self.resolve();
        }
        let WatchState { meter, site, spawn, runtime, outcome } = self;
        let pushed = local_handle(meter).and_then(|thread| {
            let origin = WrapperOrigin { site: *site, parent_route: spawn.parent_route(), runtime: *runtime };
            let resolve = || resolve_cold(meter, *site, runtime);
            Some((thread, poll::enter(thread, origin, TaskBits::current, resolve)?))
        });
        let guard = UnwindGuard { pushed, outcome };
        let result = inner.poll(cx);
        if result.is_ready() {
            *guard.outcome = FutureOutcome::Completed;
        }
        std::mem::forget(guard);
        leave(pushed);
        result
    }
}

impl Drop for WatchState {
    fn drop(&mut self) {
        if self.runtime == UNRESOLVED {
            return;
        }
        self.count(match self.outcome {
            FutureOutcome::Pending => SiteEvent::Cancelled,
            FutureOutcome::Completed => SiteEvent::Completed,
            FutureOutcome::Panicked => SiteEvent::Panicked,
        });
        if self.spawn.is_counted() {
            self.count(SiteEvent::Terminated);
        }
    }
}

/// A guard that pops the frame when the poll unwinds. A poll that returns forgets the guard.
struct UnwindGuard<'a> {
    pushed: Option<(&'a LocalHandle, PushedFrame)>,
    outcome: &'a mut FutureOutcome,
}

impl Drop for UnwindGuard<'_> {
    #[cold]
    #[inline(never)]
    fn drop(&mut self) {
        *self.outcome = FutureOutcome::Panicked;
        leave(self.pushed);
    }
}

#[inline(always)]
fn leave(pushed: Option<(&LocalHandle, PushedFrame)>) {
    if let Some((thread, frame)) = pushed {
        poll::leave(thread, frame);
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.state.poll(this.inner, cx)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::counters::sites::SiteTotals;
    use crate::model::time::Nanos;
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
    fn the_frame_is_popped_when_the_poll_returns_and_when_it_unwinds() {
        let meter = Meter::of(Nanos::from_millis(10), 10);
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

    /// The outer poll borrows the thread's handle to its own watchdog meanwhile.
    #[test]
    fn polls_of_several_watchdogs_nest() {
        let [outer, inner, innermost] = std::array::from_fn(|_| Meter::of(Nanos::from_millis(10), 10));
        let nested = Watched::new(&outer, async {
            Watched::new(&inner, async { Watched::new(&innermost, async {}).await }).await;
        });
        assert!(poll(&mut Box::pin(nested)).is_ready());
        for meter in [&outer, &inner, &innermost] {
            assert_eq!((totals(meter).polls, totals(meter).event(SiteEvent::Completed), depth(meter)), (1, 1, 0));
        }
    }
}

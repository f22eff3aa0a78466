//! The way in by a request: what the tower layer puts around each poll of a response and its body.

use std::sync::Arc;

use crate::measure::counters::routes::Status;
use crate::measure::entry::future::{UNRESOLVED, resolve};
use crate::measure::entry::poll::{self, Entered, RequestPhase};
use crate::measure::primitives::route::{Proof, RouteId};
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::to_bits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{LocalHandle, attached};

/// What a request's future and body carry.
pub(crate) struct Request {
    meter: Arc<Meter>,
    /// Where the layer was made: the site of the poll, where nobody else sees one (stable mode).
    site: SiteId,
    route: RouteId,
    runtime: u8,
}

impl Request {
    pub(crate) fn new(meter: &Arc<Meter>, site: SiteId, route: RouteId) -> Request {
        Request { meter: meter.clone(), site, route, runtime: UNRESOLVED }
    }

    /// Begins a part of the request: from here until the guard is dropped, this thread works for its route. Where no poll is
    /// known around it, it is one itself, as a watched future is.
    #[inline]
    pub(crate) fn enter<'a>(&'a mut self, part: RequestPhase<'a>) -> Guard<'a> {
        let Request { meter, site, route, runtime } = self;
        let Some(thread) = attached(meter) else { return Guard(None) };
        let around = if thread.state.slot.depth() == 0 { enter_poll(thread, meter, *site, runtime) } else { None };
        let entered = poll::enter_route(thread, *route);
        Guard(Some(Within { thread, around, entered, route: *route, part }))
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The runtime that polls it: that of the poll around it, where one is known.
    pub(crate) fn runtime(&mut self) -> Option<u16> {
        let around = attached(&self.meter)?.state.slot.innermost_poll().map(|(_, what)| what.runtime);
        Some(around.unwrap_or_else(|| {
            (self.runtime, _) = resolve(&self.meter);
            self.runtime.into()
        }))
    }

    /// How long the latest requests of its route took on this thread until they had been polled once, on average, in nanoseconds.
    pub(crate) fn mean_poll(&self) -> u64 {
        let Some(thread) = attached(&self.meter) else { return 0 };
        thread.state.routes.cell(self.route).map_or(0, |cell| cell.recent_mean())
    }

    /// Whether this thread works for its route already: another layer, further out, has named the same request.
    pub(crate) fn is_within_its_route(&self) -> bool {
        attached(&self.meter).is_some_and(|thread| thread.state.slot.innermost_request() == Some(self.route))
    }

    /// Counts the request, once it is known how it ended. `method` is an index of [`METHODS`](crate::measure::counters::routes::METHODS).
    pub(crate) fn count(&self, method: usize, status: Status) {
        if self.route == RouteId::OTHER {
            self.meter.routes.count_overflow();
        }
        let Some(thread) = attached(&self.meter) else { return };
        if let Some(cell) = thread.state.routes.cell(self.route) {
            cell.request(method, status);
        }
    }

    /// Its name, which did not fit as a claim, was answered to: from here on it goes under it, if that fits.
    #[cold]
    pub(crate) fn prove(&mut self, name: &str) {
        self.route = route(&self.meter, name, Proof::Known);
    }

    /// Counts the request as turned away.
    pub(crate) fn count_shed(&self) {
        let Some(thread) = attached(&self.meter) else { return };
        if let Some(cell) = thread.state.routes.cell(self.route) {
            cell.shed();
        }
    }
}

/// The id of a route, remembered by each thread.
pub(crate) fn route(meter: &Arc<Meter>, name: &str, proof: Proof) -> RouteId {
    match attached(meter) {
        Some(thread) => thread.route(meter, name, proof),
        None => meter.routes.intern(name, proof),
    }
}

#[inline(never)]
fn enter_poll(thread: &LocalHandle, meter: &Arc<Meter>, site: SiteId, runtime: &mut u8) -> Option<Entered> {
    if *runtime == UNRESOLVED {
        (*runtime, _) = resolve(meter);
    }
    poll::enter(thread, (*runtime).into(), (site, None), || to_bits(tokio::task::try_id()), || (*runtime).into())
}

struct Within<'a> {
    thread: &'a LocalHandle,
    around: Option<Entered>,
    entered: Entered,
    route: RouteId,
    part: RequestPhase<'a>,
}

/// Ends a part of a request, also when it unwinds.
#[must_use]
pub(crate) struct Guard<'a>(Option<Within<'a>>);

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(Within { thread, around, entered, route, mut part }) = self.0.take() {
            poll::leave_route(thread, entered, route, &mut part);
            match (around, part) {
                (None, _) => {}
                (Some(around), RequestPhase::Call(_)) => poll::leave_call(thread, around),
                (Some(around), _) => poll::leave(thread, around),
            }
        }
    }
}

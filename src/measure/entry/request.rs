//! The entry by a request: what the tower layer puts around each poll of a response and of its body.

use std::sync::Arc;

use crate::measure::counters::routes::RequestStatus;
use crate::measure::entry::future::{UNRESOLVED, resolve};
use crate::measure::entry::poll::{self, PushedFrame, RequestPhase, WrapperOrigin};
use crate::measure::primitives::route::{Proof, RouteId};
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{LocalHandle, attached};
use crate::model::id::RuntimeId;

/// The part of a request that its future and its body carry.
pub(crate) struct Request {
    meter: Arc<Meter>,
    /// The location where the layer was made. It is the site of polls that nothing else measures, as in
    /// stable mode.
    site: SiteId,
    route: RouteId,
    runtime: RuntimeId,
}

impl Request {
    pub(crate) fn new(meter: &Arc<Meter>, site: SiteId, route: RouteId) -> Request {
        Request { meter: meter.clone(), site, route, runtime: UNRESOLVED }
    }

    /// Starts a phase of the request: until the guard is dropped, this thread works for its route.
    /// Outside of any measured poll the phase is a poll itself, as that of a watched future is.
    #[inline]
    pub(crate) fn enter(&mut self, phase: RequestPhase) -> Guard<'_> {
        let Request { meter, site, route, runtime } = self;
        let Some(thread) = attached(meter) else { return Guard(None) };
        let around = if thread.state.slot.depth() == 0 { enter_poll(thread, meter, *site, runtime) } else { None };
        let entered = poll::enter_route(thread, *route);
        Guard(Some(Within { thread, around, entered, route: *route, phase }))
    }

    /// Returns whether this thread works for the request's route already: a layer further out has named
    /// the same request.
    pub(crate) fn is_within_its_route(&self) -> bool {
        attached(&self.meter).is_some_and(|thread| thread.state.slot.innermost_request() == Some(self.route))
    }

    /// Counts the request with its outcome. `method` is an index of
    /// [`METHODS`](crate::measure::counters::routes::METHODS).
    pub(crate) fn count(&self, method: usize, status: RequestStatus) {
        if self.route == RouteId::OTHER {
            self.meter.routes.count_overflow();
        }
        let Some(thread) = attached(&self.meter) else { return };
        if let Some(cell) = thread.state.routes.get_or_create(self.route) {
            cell.request(method, status);
        }
    }

    /// Names the request by a name for which the service has answered, and which did not fit as a claim.
    #[cold]
    pub(crate) fn prove(&mut self, name: &str) {
        self.route = route(&self.meter, name, Proof::Known);
    }
}

/// Returns the id of a route, which each thread caches.
pub(crate) fn route(meter: &Arc<Meter>, name: &str, proof: Proof) -> RouteId {
    match attached(meter) {
        Some(thread) => thread.route(meter, name, proof),
        None => meter.routes.intern(name, proof),
    }
}

#[inline(never)]
fn enter_poll(thread: &LocalHandle, meter: &Arc<Meter>, site: SiteId, runtime: &mut RuntimeId) -> Option<PushedFrame> {
    if *runtime == UNRESOLVED {
        (*runtime, _) = resolve(meter);
    }
    let origin = WrapperOrigin { site, parent_route: None, runtime: *runtime };
    poll::enter(thread, origin, TaskBits::current, || *runtime)
}

struct Within<'a> {
    thread: &'a LocalHandle,
    around: Option<PushedFrame>,
    entered: PushedFrame,
    route: RouteId,
    phase: RequestPhase,
}

/// Ends a phase of a request, also when it unwinds.
#[must_use]
pub(crate) struct Guard<'a>(Option<Within<'a>>);

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(Within { thread, around, entered, route, phase }) = self.0.take() {
            poll::leave_route(thread, entered, route, phase);
            match (around, phase) {
                (None, _) => {}
                (Some(around), RequestPhase::Call) => poll::leave_call(thread, around),
                (Some(around), _) => poll::leave(thread, around),
            }
        }
    }
}

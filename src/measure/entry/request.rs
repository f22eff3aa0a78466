//! The entry point of requests: the tower layer enters here around each poll of a response and of
//! its body.

use std::sync::Arc;

use crate::measure::entry::future::{UNRESOLVED, resolve};
use crate::measure::entry::poll::{self, PushedFrame, RequestPhase, WrapperOrigin};
use crate::measure::primitives::route::{NameStatus, RouteId};
use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::{LocalHandle, local_handle};
use crate::model::id::RuntimeId;
use crate::model::labels::RequestStatus;

/// A request that is being handled. Its future owns this, and after that its body.
pub(crate) struct ActiveRequest {
    meter: Arc<Meter>,
    /// The location where the layer was made. It is the site of polls that nothing else measures,
    /// as in stable mode.
    site: SiteId,
    route: RouteId,
    runtime: RuntimeId,
}

impl ActiveRequest {
    pub(crate) fn new(meter: &Arc<Meter>, site: SiteId, route: RouteId) -> ActiveRequest {
        ActiveRequest { meter: meter.clone(), site, route, runtime: UNRESOLVED }
    }

    /// Starts a phase of the request: until the guard is dropped, this thread works for its route.
    /// Outside of any measured poll the phase is also a poll of its own, like that of a watched
    /// future.
    #[inline]
    pub(crate) fn enter(&mut self, phase: RequestPhase) -> PhaseGuard<'_> {
        let ActiveRequest { meter, site, route, runtime } = self;
        let Some(thread) = local_handle(meter) else { return PhaseGuard(None) };
        let poll = if thread.state.slot.depth() == 0 { enter_poll(thread, meter, *site, runtime) } else { None };
        let request = poll::enter_route(thread, *route);
        PhaseGuard(Some(EnteredPhase { thread, poll, request, route: *route, phase }))
    }

    /// Returns whether this thread works for the request's route already, because an outer layer
    /// has named the same request.
    pub(crate) fn is_within_its_route(&self) -> bool {
        local_handle(&self.meter).is_some_and(|thread| thread.state.slot.innermost_request() == Some(self.route))
    }

    /// Counts the request with its outcome. `method` is an index of
    /// [`METHODS`](crate::measure::counters::routes::METHODS).
    pub(crate) fn count(&self, method: usize, status: RequestStatus) {
        if self.route == RouteId::OTHER {
            self.meter.routes.count_overflow();
        }
        let Some(thread) = local_handle(&self.meter) else { return };
        if let Some(counters) = thread.state.routes.get_or_create(self.route) {
            counters.request(method, status);
        }
    }

    /// Counts the request as one that a layer could not name, if it has no name.
    #[cold]
    pub(crate) fn count_unnamed(&self) {
        if self.route != RouteId::UNMATCHED {
            return;
        }
        let Some(thread) = local_handle(&self.meter) else { return };
        if let Some(counters) = thread.state.routes.get_or_create(self.route) {
            counters.unnamed_request();
        }
    }

    /// Names the request again, by a name that the service has confirmed by its response. The name
    /// got no id as an unconfirmed one.
    #[cold]
    pub(crate) fn confirm(&mut self, name: &str) {
        self.route = route(&self.meter, name, NameStatus::Confirmed);
    }
}

/// Returns the id of a route, which each thread caches.
pub(crate) fn route(meter: &Arc<Meter>, name: &str, status: NameStatus) -> RouteId {
    match local_handle(meter) {
        Some(thread) => thread.route(meter, name, status),
        None => meter.routes.intern(name, status),
    }
}

#[inline(never)]
fn enter_poll(thread: &LocalHandle, meter: &Arc<Meter>, site: SiteId, runtime: &mut RuntimeId) -> Option<PushedFrame> {
    if *runtime == UNRESOLVED {
        *runtime = resolve(meter).id;
    }
    let origin = WrapperOrigin { site, parent_route: None, runtime: *runtime };
    poll::enter(thread, origin, TaskBits::current, || *runtime)
}

struct EnteredPhase<'a> {
    thread: &'a LocalHandle,
    /// The frame of the phase as a poll of its own.
    poll: Option<PushedFrame>,
    /// The frame of the request.
    request: PushedFrame,
    route: RouteId,
    phase: RequestPhase,
}

/// A guard that ends a phase of a request, also when the phase unwinds.
#[must_use]
pub(crate) struct PhaseGuard<'a>(Option<EnteredPhase<'a>>);

impl Drop for PhaseGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(EnteredPhase { thread, poll, request, route, phase }) = self.0.take() {
            poll::leave_route(thread, request, route, phase);
            match (poll, phase) {
                (None, _) => {}
                (Some(poll), RequestPhase::Call) => poll::leave_call(thread, poll),
                (Some(poll), RequestPhase::Poll) => poll::leave(thread, poll),
            }
        }
    }
}

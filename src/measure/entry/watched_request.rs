//! Requests as other crates measure them, and as the tower layer does: a request is polled as a
//! frame of its route, and counted once, with its outcome.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::measure::counters::routes::METHODS;
use crate::measure::entry::future;
use crate::measure::entry::poll::RequestPhase;
use crate::measure::entry::request::{ActiveRequest, route};
use crate::measure::entry::unwatched;
use crate::measure::primitives::route::{NameStatus, RouteId};
use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::current;
use crate::measure::runtime::meter::Meter;
use crate::model::labels::RequestStatus;

/// The source file of the functions that run a phase of a request, as captured stacks name it.
pub(crate) const FILE: &str = file!();

/// Starts the requests of a web framework that has no tower layers; made by
/// [`Watchdog::request_watcher`](crate::Watchdog::request_watcher).
///
/// A middleware for actix-web is in the crate `pollwatch-actix`. For another framework, a
/// middleware calls [`start`](Self::start) when a request arrives, and the request's
/// [`poll`](WatchedRequest::poll) around each poll of the response. What is counted, and what a
/// name of a route may be, is as for [`WatchLayer`](crate::WatchLayer).
///
/// ```
/// use std::pin::pin;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let requests = watchdog.request_watcher();
/// # futures_executor::block_on(async {
/// let mut request = requests.start("GET", Some("/report/{id}"));
/// let mut handler = pin!(async { "a report" });
/// let response = std::future::poll_fn(|cx| request.poll(|| handler.as_mut().poll(cx))).await;
/// request.respond(200);
/// # assert_eq!(response, "a report");
/// # });
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone)]
pub struct RequestWatcher {
    meter: Arc<Meter>,
    /// The location where the watcher was made: the site of polls that only it measures.
    site: SiteId,
}

impl RequestWatcher {
    #[track_caller]
    pub(crate) fn new(meter: &Arc<Meter>) -> RequestWatcher {
        RequestWatcher { meter: meter.clone(), site: meter.sites.intern(Location::caller()) }
    }

    /// Returns a watcher of the current watchdog, if there is one, with the site of a location.
    pub(crate) fn of_current(location: &'static Location<'static>) -> Option<RequestWatcher> {
        let meter = current::meter()?;
        let site = future::site(&meter, location);
        Some(RequestWatcher { meter, site })
    }

    /// Starts a request. `route` is the pattern that a router has matched, such as `/report/{id}`;
    /// `None` or an empty pattern counts as `unmatched`. It must not be a path that clients choose.
    ///
    /// Cost: a lookup in a small table of the thread, and a reference count.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let requests = watchdog.request_watcher();
    /// let request = requests.start("GET", Some("/report/{id}"));
    /// drop(request); // counts as cancelled
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn start(&self, method: &str, route: Option<&str>) -> WatchedRequest {
        let route = self::route(&self.meter, route.unwrap_or(""), NameStatus::Confirmed);
        self.start_with(method, route)
    }

    /// Starts the part of a request that an outer middleware of the same watchdog has started. Its
    /// polls count for `route`. The request itself is counted by the outer middleware, also if that
    /// one knows it by another name.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let requests = watchdog.request_watcher();
    /// let mut outer = requests.start("GET", None);
    /// let mut inner = requests.start_inner("GET", Some("/report/{id}"));
    /// inner.respond(200); // counts nothing
    /// outer.set_route("/report/{id}");
    /// outer.respond(200); // counts the request
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn start_inner(&self, method: &str, route: Option<&str>) -> WatchedRequest {
        let mut request = self.start(method, route);
        request.outcome = OutcomeOnDrop::Counted;
        request
    }

    /// Returns whether both watchers were made by the same watchdog, and count the same requests.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// assert!(watchdog.request_watcher().has_same_watchdog(&watchdog.request_watcher()));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn has_same_watchdog(&self, other: &RequestWatcher) -> bool {
        Arc::ptr_eq(&self.meter, &other.meter)
    }

    /// Returns the meter that counts the requests.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Starts a request of a route.
    pub(crate) fn start_with(&self, method: &str, route: RouteId) -> WatchedRequest {
        unwatched::counted(&self.meter, self.site);
        let request = ActiveRequest::new(&self.meter, self.site, route);
        // Of two nested layers the outer one counts the request.
        let outcome = if request.is_within_its_route() { OutcomeOnDrop::Counted } else { OutcomeOnDrop::Cancelled };
        WatchedRequest { request, method: method_index(method), outcome }
    }

    /// Watches a runtime that serves requests, if it is not watched yet, as
    /// [`Watchdog::attach`](crate::Watchdog::attach) does. Its name is tokio's name for it, or else
    /// the first of `{prefix}-1`, `{prefix}-2` ... that no living runtime has.
    ///
    /// Without this call a runtime is watched from its first request on, as `runtime-1`,
    /// `runtime-2` and so on. Returns whether the runtime is watched: it is not if the watchdog has
    /// stopped, or if 63 other names are taken. The latter is logged once, and counted in
    /// [`Coverage::unnamed_runtimes`](crate::Coverage::unnamed_runtimes).
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// watchdog.request_watcher().attach(runtime.handle(), "http");
    /// assert_eq!(&*watchdog.coverage().runtimes[0].name, "http-1");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn attach(&self, runtime: &Handle, prefix: &str) -> bool {
        self.meter.runtimes.find_or_attach_as(runtime, &self.meter, prefix).is_some()
    }
}

impl fmt::Debug for RequestWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestWatcher").field("site", &self.meter.sites.get(self.site)).finish_non_exhaustive()
    }
}

/// A request that is being handled; made by [`RequestWatcher::start`].
///
/// It is counted once: by [`respond`](Self::respond) or [`fail`](Self::fail), or when it is
/// dropped, as cancelled, or as panicked if that happens while [`poll`](Self::poll) unwinds. After
/// `respond` it can be kept for the body of the response, whose polls count for the same route.
///
/// [`RequestWatcher`] has an example.
pub struct WatchedRequest {
    request: ActiveRequest,
    /// The index of the method in [`METHODS`].
    method: u8,
    outcome: OutcomeOnDrop,
}

/// The outcome of a request if it were dropped now.
#[derive(Clone, Copy, PartialEq)]
enum OutcomeOnDrop {
    /// The request would be cancelled.
    Cancelled,
    /// The service is running, so that only a panic can drop the request.
    Panicked,
    /// Nothing would be counted: the request has been counted, or an outer layer counts it.
    Counted,
}

impl WatchedRequest {
    /// Calls the service. The time counts for the route, and is no poll.
    ///
    /// Many services do nothing but make a future in their call. For one that also works there, a
    /// call that blocks is a stall like a poll that does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut request = watchdog.request_watcher().start("GET", Some("/report/{id}"));
    /// let future = request.call(|| async { "a report" });
    /// # drop(future);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn call<R>(&mut self, call: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Call, call)
    }

    /// Polls the response, or its body. The closure must not hold anything over its end: it is one
    /// poll.
    ///
    /// Cost: two readings of the clock.
    ///
    /// ```
    /// use std::{pin::pin, task::Context};
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut request = watchdog.request_watcher().start("GET", Some("/report/{id}"));
    /// let mut context = Context::from_waker(std::task::Waker::noop());
    /// let mut handler = pin!(async { "a report" });
    /// let result = request.poll(|| handler.as_mut().poll(&mut context));
    /// assert!(result.is_ready());
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn poll<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.within(RequestPhase::Poll, poll)
    }

    /// Runs a phase of the request as a frame of its route.
    fn within<R>(&mut self, phase: RequestPhase, run: impl FnOnce() -> R) -> R {
        let before = self.outcome;
        let guard = self.request.enter(phase);
        if before == OutcomeOnDrop::Cancelled {
            // The outcome remains if `run` unwinds.
            self.outcome = OutcomeOnDrop::Panicked;
        }
        let result = run();
        drop(guard);
        self.outcome = before;
        result
    }

    /// Counts the request under the class of the status of its response.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut request = watchdog.request_watcher().start("GET", Some("/report/{id}"));
    /// request.respond(404); // counts as 4xx
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn respond(&mut self, status: u16) {
        self.count(RequestStatus::of_code(status));
    }

    /// Counts the request as one to which the service had no response.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut request = watchdog.request_watcher().start("GET", Some("/report/{id}"));
    /// request.fail(); // counts as error
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn fail(&mut self) {
        self.count(RequestStatus::Error);
    }

    /// Names the request again, by the pattern that a router has matched in the meantime. What was
    /// measured before stays with the earlier name.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let mut request = watchdog.request_watcher().start("GET", None);
    /// request.set_route("/report/{id}");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn set_route(&mut self, route: &str) {
        self.request.confirm(route);
    }

    /// Counts the request as one that a layer could not name, if it has no name and no outer layer
    /// counts it.
    pub(crate) fn count_unnamed(&self) {
        if self.outcome != OutcomeOnDrop::Counted {
            self.request.count_unnamed();
        }
    }

    /// Counts the request, unless that was done before or an outer layer does it.
    fn count(&mut self, status: RequestStatus) {
        if self.outcome != OutcomeOnDrop::Counted {
            self.outcome = OutcomeOnDrop::Counted;
            self.request.count(self.method.into(), status);
        }
    }
}

impl fmt::Debug for WatchedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedRequest").field("method", &METHODS[usize::from(self.method)]).finish_non_exhaustive()
    }
}

impl Drop for WatchedRequest {
    fn drop(&mut self) {
        match self.outcome {
            OutcomeOnDrop::Counted => {}
            OutcomeOnDrop::Cancelled => self.count(RequestStatus::Cancelled),
            OutcomeOnDrop::Panicked => self.count(RequestStatus::Panicked),
        }
    }
}

/// Returns the index of a method in [`METHODS`].
fn method_index(method: &str) -> u8 {
    let known = METHODS[..METHODS.len() - 1].iter().position(|known| *known == method);
    known.unwrap_or(METHODS.len() - 1) as u8
}

//! The routes of requests: their names, the average duration of their first polls, and the number
//! of rejected requests. Routes are looked up only while a runtime is late.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderMap, Request, header::CONTENT_TYPE};

/// The number of names that are distinguished. All others are the route `other`.
pub(crate) const MAX_ROUTES: usize = 500;
/// The number of names that clients may have chosen. They leave space for those of a router.
const MAX_CLAIMED: usize = MAX_ROUTES / 2;
/// The length in bytes of the longest name. A request with a longer one is of the route `other`.
const MAX_NAME: usize = 256;

/// The inverse of the weight that the latest first poll has in the moving average.
const SMOOTHING: u64 = 16;

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Box<str>,
    /// [`SMOOTHING`] times the [exponentially weighted moving average][ewma] of the latest first
    /// polls, in nanoseconds; 0 when there was none.
    ///
    /// [ewma]: https://en.wikipedia.org/wiki/Exponential_smoothing
    first_polls: AtomicU64,
    rejected: AtomicU64,
}

impl Route {
    fn new(name: &str) -> Arc<Route> {
        Arc::new(Route { name: name.into(), first_polls: AtomicU64::new(0), rejected: AtomicU64::new(0) })
    }

    /// Adds a request to the average. `time` is the duration of the service's call and of the first
    /// poll of its future: the time in which a request blocks its worker until it first waits for
    /// something. When two threads add requests at once, one of them may be lost.
    pub(crate) fn record_first_poll(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let average = match self.first_polls.load(Ordering::Relaxed) {
            0 => nanos.saturating_mul(SMOOTHING),
            average => (average - average / SMOOTHING).saturating_add(nanos),
        };
        self.first_polls.store(average, Ordering::Relaxed);
    }

    /// Returns the average duration of the latest first polls. It follows a route that starts to
    /// block, or ceases to, within a few requests. It does not contain the polls of bodies:
    /// thousands of short ones would hide a handler that blocks.
    pub(crate) fn mean_first_poll(&self) -> Duration {
        Duration::from_nanos(self.first_polls.load(Ordering::Relaxed) / SMOOTHING)
    }

    /// Counts a rejected request.
    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// All routes of a [`Shed`](crate::Shed), interned by name.
#[derive(Debug)]
pub(crate) struct Routes {
    named: RwLock<Named>,
    unmatched: Arc<Route>,
    other: Arc<Route>,
}

#[derive(Debug, Default)]
struct Named {
    by_name: HashMap<Box<str>, Arc<Route>>,
    claimed: usize,
}

/// The source of a route's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A router has matched the name, so that their number is bounded.
    Matched,
    /// A client may have chosen the name.
    Claimed,
}

impl Routes {
    pub(crate) fn new() -> Routes {
        Routes { named: RwLock::default(), unmatched: Route::new("unmatched"), other: Route::new("other") }
    }

    /// Returns the route of a request. `given` is the name from the application's function.
    pub(crate) fn of_request<B>(&self, request: &Request<B>, given: Option<&str>) -> Arc<Route> {
        match (given, matched_path(request)) {
            (Some(name), _) => self.intern(name, Origin::Claimed),
            (None, Some(name)) => self.intern(name, Origin::Matched),
            (None, None) if is_grpc(request.headers()) && is_grpc_method(request.uri().path()) => {
                self.intern(request.uri().path(), Origin::Claimed)
            }
            (None, None) => self.unmatched.clone(),
        }
    }

    /// Returns the route with this name, or `other` when there are too many names.
    fn intern(&self, name: &str, origin: Origin) -> Arc<Route> {
        if name.len() > MAX_NAME {
            return self.other.clone();
        }
        // The names of a flood take only the read lock.
        if let Some(route) = self.find(&self.named.read().unwrap_or_else(PoisonError::into_inner), name, origin) {
            return route;
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = self.find(&named, name, origin) {
            return route;
        }
        named.claimed += usize::from(origin == Origin::Claimed);
        let route = Route::new(name);
        named.by_name.insert(name.into(), route.clone());
        route
    }

    /// Returns the route with this name, or `other` when there is no space for it. Returns `None`
    /// when the name has to be added.
    fn find(&self, named: &Named, name: &str, origin: Origin) -> Option<Arc<Route>> {
        if let Some(route) = named.by_name.get(name) {
            return Some(route.clone());
        }
        let is_full = named.by_name.len() >= MAX_ROUTES || origin == Origin::Claimed && named.claimed >= MAX_CLAIMED;
        is_full.then(|| self.other.clone())
    }

    /// Returns whether this is the route `other`, to which all names beyond the limit belong.
    pub(crate) fn is_other(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(route, &self.other)
    }

    /// Returns all routes.
    #[cfg(any(feature = "prometheus", test))]
    pub(crate) fn all(&self) -> Vec<Arc<Route>> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        named.by_name.values().chain([&self.unmatched, &self.other]).cloned().collect()
    }
}

/// Returns the path that axum matched.
#[cfg(feature = "axum")]
fn matched_path<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get::<axum::extract::MatchedPath>().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn matched_path<B>(_: &Request<B>) -> Option<&str> {
    None
}

/// Returns whether the headers are those of a gRPC message.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Returns whether a path has the form `/package.Service/Method`.
fn is_grpc_method(path: &str) -> bool {
    let mut parts = path.split('/');
    let mut next = || parts.next().map(str::is_empty);
    (next(), next(), next(), next()) == (Some(true), Some(false), Some(false), None)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_of_the_latest_requests() {
        let route = Route::new("/");
        let ms = Duration::from_millis;
        let short = Duration::from_micros(10);
        assert_eq!(route.mean_first_poll(), Duration::ZERO);
        route.record_first_poll(ms(40));
        assert_eq!(route.mean_first_poll(), ms(40), "one request is its own average");
        let polls_until = |time, is_so: &dyn Fn(Duration) -> bool| {
            let polls = (1..).find(|_| {
                route.record_first_poll(time);
                is_so(route.mean_first_poll())
            });
            polls.unwrap()
        };
        assert!((16..100).contains(&polls_until(short, &|mean| mean < ms(5))));
        (0..1_000_000).for_each(|_| route.record_first_poll(short));
        let mean = route.mean_first_poll();
        assert!((Duration::from_micros(9)..=short).contains(&mean), "{mean:?}");
        assert!((2..16).contains(&polls_until(ms(20), &|mean| mean >= ms(5))), "after a million short ones");
        route.record_first_poll(Duration::MAX);
        route.record_first_poll(Duration::MAX);
        assert!(route.mean_first_poll() > Duration::ZERO);
    }

    #[test]
    fn a_route_is_named_by_the_best_source() {
        let routes = Routes::new();
        let name = |path: &str, kind: Option<&str>, given: Option<&str>| {
            let mut request = Request::builder().uri(path);
            if let Some(kind) = kind {
                request = request.header(CONTENT_TYPE, kind);
            }
            routes.of_request(&request.body(()).unwrap(), given).name.to_string()
        };
        assert_eq!(name("/orders/7", None, None), "unmatched", "never the raw path");
        assert_eq!(name("/a.Service/Method", Some("application/grpc+proto"), None), "/a.Service/Method");
        assert_eq!(name("/a/b/c", Some("application/grpc"), None), "unmatched");
        assert_eq!(name("/orders/7", None, Some("/orders")), "/orders");
    }

    #[test]
    fn names_from_clients_leave_space() {
        let routes = Routes::new();
        let claimed = (0..MAX_ROUTES).map(|i| routes.intern(&format!("/flood/{i}"), Origin::Claimed));
        let others = claimed.filter(|route| routes.is_other(route)).count();
        assert_eq!(others, MAX_ROUTES - MAX_CLAIMED);
        let matched: Vec<_> =
            (0..MAX_ROUTES).map(|i| routes.intern(&format!("/matched/{i}"), Origin::Matched)).collect();
        assert_eq!(matched.iter().filter(|route| !routes.is_other(route)).count(), MAX_ROUTES - MAX_CLAIMED);
        assert_eq!(routes.all().len(), MAX_ROUTES + 2);
        // A name beyond the limit waits for no other reader.
        let reader = routes.named.read().unwrap();
        assert!(routes.is_other(&routes.intern("/flood/late", Origin::Claimed)));
        drop(reader);
        let empty = Routes::new();
        assert!(empty.is_other(&empty.intern(&"x".repeat(MAX_NAME + 1), Origin::Matched)));
    }
}

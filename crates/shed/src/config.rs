//! The settings of load shedding.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use pollwatch::Watchdog;

use crate::policy::Policy;
use crate::response::Rejection;
use crate::routes::Routes;
use crate::service::ShedLayer;
use crate::watermarks::Watermarks;

/// A function that names the route of a request.
pub(crate) type RouteBy = Arc<dyn Fn(&Parts) -> Option<Cow<'static, str>> + Send + Sync>;

/// The settings of load shedding: when requests are rejected, and which.
///
/// # When
///
/// A runtime is overloaded when a task that is ready to run waits long for its poll. The watchdog
/// measures that with a task of its own, which it wakes each 20 ms while the runtime polls: it waits
/// in the queue that all workers share, then in the queue of one worker, behind all that is there.
/// The delay is that of the whole runtime: a blocked worker beside an idle one causes none.
///
/// Shedding starts when each measurement of [some time](Self::sustain) was above the [high
/// watermark](Self::high): one long poll does not start it. It stops when the delay is below the
/// [low watermark](Self::low). Meanwhile a measured delay decays with a half-life of 500 ms, because
/// rejecting requests makes it vanish, and admitting all at once would bring it back. Requests that
/// are rejected to keep a worker free (below) keep shedding from stopping for two seconds in all.
///
/// # Which requests
///
/// While a runtime is overloaded, its requests are rejected
///
/// - at random, with the probability (delay - high) / high: none at the high watermark, all at twice
///   the high watermark;
/// - if they are of a blocking route while such requests are in their first poll on all workers but
///   one: one worker is kept free for the others. A route is blocking if the latest first polls of
///   its requests took an eighth of the high watermark or longer on average. That is measured only
///   while a runtime is late. What blocks after its first `.await` is not held back by this, and a
///   current-thread runtime has only its delay.
///
/// They are answered `503 Service Unavailable` with `Retry-After`, gRPC requests `UNAVAILABLE` with
/// `grpc-retry-pushback-ms`. Their bodies are not read. Requests for the service's
/// [health](Self::allow_health) and of [allowed](Self::allow) routes are always admitted.
///
/// # Clones
///
/// All clones of a `Shed`, and all layers made of it, share the names of routes, their averages and
/// their counters.
///
/// ```
/// use std::time::Duration;
/// use pollwatch_shed::Shed;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let shed = Shed::new().high(Duration::from_millis(30)).allow("/checkout");
/// let layer = shed.layer(&watchdog);
/// # drop(layer);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing is rejected until a service has the layer"]
pub struct Shed {
    high: Duration,
    low: Option<Duration>,
    sustain: Duration,
    retry_after: Duration,
    pub(crate) allow_health: bool,
    pub(crate) allowed: Vec<Box<str>>,
    pub(crate) route_by: Option<RouteBy>,
    pub(crate) log: bool,
    pub(crate) routes: Arc<Routes>,
}

impl Shed {
    /// 40 ms.
    pub const DEFAULT_HIGH: Duration = Duration::from_millis(40);
    /// 100 ms.
    pub const DEFAULT_SUSTAIN: Duration = Duration::from_millis(100);
    /// One second.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

    /// Returns the default settings.
    pub fn new() -> Shed {
        Shed {
            high: Shed::DEFAULT_HIGH,
            low: None,
            sustain: Shed::DEFAULT_SUSTAIN,
            retry_after: Shed::DEFAULT_RETRY_AFTER,
            allow_health: true,
            allowed: Vec::new(),
            route_by: None,
            log: true,
            routes: Arc::new(Routes::new()),
        }
    }

    /// Sets the high watermark. A longer delay rejects requests, all of them at twice the watermark;
    /// under overload the delay then stays between the two. Defaults to
    /// [`DEFAULT_HIGH`](Self::DEFAULT_HIGH).
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, std::time::Duration};
    /// let shed = Shed::new().high(Duration::from_millis(20));
    /// # drop(shed);
    /// ```
    pub fn high(mut self, delay: Duration) -> Shed {
        self.high = delay;
        self
    }

    /// Sets the low watermark. A shorter delay admits all requests again. Defaults to half the high
    /// watermark, and is never above it.
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, std::time::Duration};
    /// let shed = Shed::new().high(Duration::from_millis(20)).low(Duration::from_millis(5));
    /// # drop(shed);
    /// ```
    pub fn low(mut self, delay: Duration) -> Shed {
        self.low = Some(delay);
        self
    }

    /// Sets the time for which every measured delay has to be above the high watermark until the
    /// first request is rejected. With zero, one long poll is enough. Defaults to
    /// [`DEFAULT_SUSTAIN`](Self::DEFAULT_SUSTAIN).
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, std::time::Duration};
    /// let shed = Shed::new().sustain(Duration::from_millis(500));
    /// # drop(shed);
    /// ```
    pub fn sustain(mut self, time: Duration) -> Shed {
        self.sustain = time;
        self
    }

    /// Sets the value of `Retry-After`, which is rounded up to whole seconds. Defaults to
    /// [`DEFAULT_RETRY_AFTER`](Self::DEFAULT_RETRY_AFTER).
    ///
    /// ```
    /// # use {pollwatch_shed::Shed, std::time::Duration};
    /// let shed = Shed::new().retry_after(Duration::from_secs(5));
    /// # drop(shed);
    /// ```
    pub fn retry_after(mut self, time: Duration) -> Shed {
        self.retry_after = time;
        self
    }

    /// Always admits the requests of a route. `route` is its name as in
    /// `pollwatch_route_shed_total`, or exactly the path of its requests.
    ///
    /// ```
    /// # use pollwatch_shed::Shed;
    /// let shed = Shed::new().allow("/orders/{id}").allow("/ping");
    /// # drop(shed);
    /// ```
    pub fn allow(mut self, route: impl Into<String>) -> Shed {
        self.allowed.push(route.into().into());
        self
    }

    /// Sets whether requests that ask for the service's health are always admitted: the paths
    /// `/health`, `/healthz`, `/livez`, `/readyz` and `/metrics`, and gRPC's `grpc.health.v1.Health`.
    /// They are by default.
    ///
    /// ```
    /// # use pollwatch_shed::Shed;
    /// let shed = Shed::new().allow_health(false);
    /// # drop(shed);
    /// ```
    pub fn allow_health(mut self, allow: bool) -> Shed {
        self.allow_health = allow;
        self
    }

    /// Names routes by a function of the request's head. Without it, and where it returns `None`, a
    /// route is named by the path that axum matched (feature `axum`), or by the path of a gRPC
    /// request, and is `unmatched` otherwise. 500 routes are distinguished; the rest is `other`.
    /// Names from this function and from gRPC paths get half of them at most, because clients may
    /// choose them.
    ///
    /// The function runs on the worker, once for each request while a runtime is late. A panic in it
    /// is caught, and stands for `None`.
    ///
    /// ```
    /// # use pollwatch_shed::Shed;
    /// let shed = Shed::new().route_by(|request| match request.uri.path().split('/').nth(1)? {
    ///     "orders" => Some("/orders".into()),
    ///     _ => None,
    /// });
    /// # drop(shed);
    /// ```
    pub fn route_by(mut self, name: impl Fn(&Parts) -> Option<Cow<'static, str>> + Send + Sync + 'static) -> Shed {
        self.route_by = Some(Arc::new(name));
        self
    }

    /// Sets whether the start and the stop of shedding are logged as `tracing` events (target
    /// `pollwatch::shed`). They are by default. For each runtime and layer, 5 starts are logged at
    /// once, then one each 10 s.
    ///
    /// ```
    /// # use pollwatch_shed::Shed;
    /// let shed = Shed::new().log(false);
    /// # drop(shed);
    /// ```
    pub fn log(mut self, log: bool) -> Shed {
        self.log = log;
        self
    }

    /// Returns the layer, which rejects requests by what this watchdog measures. Each call starts a
    /// thread, which ends with the last service that has the layer: clone the layer for a second
    /// router. The layer does not keep the watchdog running. When the watchdog has stopped, nothing
    /// is rejected.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use pollwatch_shed::Shed;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let app = Router::new().route("/report/{id}", get(|| async { "a report" }));
    /// // The layer that is added last is the outermost: rejected requests are counted by
    /// // `watchdog.layer()`, with their status.
    /// let app = app.layer(Shed::new().layer(&watchdog)).layer(watchdog.layer());
    /// # drop::<Router>(app);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn layer(&self, watchdog: &Watchdog) -> ShedLayer {
        ShedLayer::new(Policy::new(self, watchdog))
    }

    /// Returns a collector of `pollwatch_route_shed_total`, the number of rejected requests by
    /// route, for all layers made of this `Shed` and its clones.
    ///
    /// ```
    /// use pollwatch::Watchdog;
    /// use pollwatch_shed::Shed;
    ///
    /// let shed = Shed::new();
    /// // With `listen`, it is part of the watchdog's `/metrics`.
    /// let watchdog = Watchdog::builder().collector(shed.collector()).start()?;
    /// let layer = shed.layer(&watchdog);
    /// # drop(layer);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn collector(&self) -> crate::Collector {
        crate::Collector::new(self.routes.clone())
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        let low = self.low.unwrap_or(self.high / 2).min(self.high);
        Watermarks { high: self.high, low, sustain: self.sustain }
    }

    pub(crate) fn rejection(&self) -> Rejection {
        Rejection::new(self.retry_after)
    }
}

impl Default for Shed {
    fn default() -> Shed {
        Shed::new()
    }
}

impl fmt::Debug for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shed")
            .field("watermarks", &self.watermarks())
            .field("retry_after", &self.retry_after)
            .field("allow_health", &self.allow_health)
            .field("allowed", &self.allowed)
            .field("route_by", &self.route_by.is_some())
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn watermarks_make_sense() {
        let ms = Duration::from_millis;
        let watermarks = |shed: Shed| (shed.watermarks().high, shed.watermarks().low, shed.watermarks().sustain);
        assert_eq!(watermarks(Shed::default()), (ms(40), ms(20), ms(100)));
        let odd = Shed::new().high(ms(10)).low(ms(30)).sustain(Duration::ZERO);
        assert_eq!(watermarks(odd), (ms(10), ms(10), Duration::ZERO));
        assert_eq!(watermarks(Shed::new().high(Duration::MAX)).0, Duration::MAX);
    }
}

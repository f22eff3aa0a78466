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
/// # When requests are rejected
///
/// A runtime is overloaded when its schedule delay is long: the time that a task which is ready to
/// run waits for its poll. The watchdog measures the delay with a probe, a task of its own that it
/// wakes each 20 ms while the runtime polls. The probe waits in the queue that all workers share,
/// then in the queue of one worker, behind all other tasks there. The delay is one of the whole
/// runtime: a blocked worker beside an idle one causes none.
///
/// Shedding starts when all delays that are measured in [some time](Self::sustain) are above the
/// [high watermark](Self::high), so that one long poll does not start it. It stops when the delay
/// is below the [low watermark](Self::low). Rejecting requests makes the delay vanish at once, and
/// admitting all of them again would bring it back. While requests are rejected, a measured delay
/// therefore decays with a half-life of 500 ms. Requests that are rejected to keep a worker free
/// (see below) keep the delay from decaying below the high watermark, for the first two seconds of
/// shedding.
///
/// A runtime is *late* from the first delay above the high watermark on, until a shorter one is
/// measured and shedding has stopped.
///
/// # Which requests are rejected
///
/// While a runtime is overloaded, the layer rejects
///
/// - requests at random, with the probability (delay - high) / high: none at the high watermark,
///   all at twice the high watermark;
/// - requests of blocking routes while such requests are in their first poll on all workers but
///   one. This keeps one worker free for all other requests.
///
/// A route is a blocking one if the first polls of its latest requests took an eighth of the high
/// watermark or longer on average. The layer measures this only while a runtime is late. It does
/// not notice a request that blocks after its first `.await`. On a current-thread runtime no worker
/// can be kept free, and one request of a blocking route is admitted at a time.
///
/// Rejected requests are answered `503 Service Unavailable` with `Retry-After`, and gRPC requests
/// `UNAVAILABLE` with `grpc-retry-pushback-ms`. Their bodies are not read. Requests for the
/// service's [health](Self::allow_health) and of [allowed](Self::allow) routes are always admitted.
///
/// # Clones and layers
///
/// All clones of a `Shed`, and all layers made of it, share the names of routes, their averages and
/// their counters. Layers of the same watchdog with the same watermarks and the same setting of
/// [`log`](Self::log), also those of another `Shed`, share the detection of overload and the limit
/// of blocking requests. A request that passes two such layers is measured and counted once. Layers
/// with other watermarks decide about it on their own.
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
    /// The default high watermark, 40 ms.
    pub const DEFAULT_HIGH: Duration = Duration::from_millis(40);
    /// The default of [`sustain`](Self::sustain), 100 ms.
    pub const DEFAULT_SUSTAIN: Duration = Duration::from_millis(100);
    /// The default of [`retry_after`](Self::retry_after), one second.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

    /// Returns the default settings.
    ///
    /// ```
    /// # use pollwatch_shed::Shed;
    /// let shed = Shed::new();
    /// # drop(shed);
    /// ```
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

    /// Sets the high watermark. Longer delays reject requests, all of them at twice the watermark.
    /// Under overload the delay stays between the two. Defaults to
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

    /// Sets the low watermark. Shorter delays admit all requests again. Defaults to half the high
    /// watermark. A value above the high watermark counts as the high watermark.
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

    /// Sets the time for which all measured delays have to be above the high watermark until the
    /// first request is rejected. If it is zero, one long poll starts shedding. Defaults to
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

    /// Always admits the requests of a route. `route` is the route's name, as in the label of
    /// `pollwatch_route_shed_total`, or the exact path of its requests.
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

    /// Sets whether requests for the service's health are always admitted: those for the paths
    /// `/health`, `/healthz`, `/livez`, `/readyz` and `/metrics`, and for gRPC's service
    /// `grpc.health.v1.Health`. Defaults to `true`.
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

    /// Names routes by a function of the request's head.
    ///
    /// Without the function, and where it returns `None`, a route has the path that axum matched
    /// (feature `axum`) as its name, or the path of a gRPC request. All other requests are of the
    /// route `unmatched`. At most 500 names are distinguished, and all others are the route
    /// `other`. At most 250 of them come from this function and from gRPC paths, because clients
    /// may choose those.
    ///
    /// Each layer calls the function on the worker, once for each request while a runtime is late.
    /// A panic in the function is caught, and counts as `None`.
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

    /// Sets whether the first rejection and the stop of shedding are logged as `tracing` events
    /// (target `pollwatch::shed`). Defaults to `true`. The log is rate-limited: for each runtime,
    /// at most 5 such pairs in a row and then one each 10 s.
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

    /// Returns a layer that rejects requests by the delays that this watchdog measures.
    ///
    /// The first layer of the process starts a thread, which serves all layers. It ends when the
    /// last layer and the last of their services are dropped. The layer does not keep the watchdog
    /// running, and rejects nothing when the watchdog has stopped.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use pollwatch_shed::Shed;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let app = Router::new().route("/report/{id}", get(|| async { "a report" }));
    /// // The layer that is added last is the outermost. There, the watchdog counts rejected
    /// // requests with their status.
    /// let app = app.layer(Shed::new().layer(&watchdog)).layer(watchdog.layer());
    /// # drop::<Router>(app);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn layer(&self, watchdog: &Watchdog) -> ShedLayer {
        ShedLayer::new(Policy::new(self, watchdog))
    }

    /// Returns a collector of `pollwatch_route_shed_total`: the number of requests that all layers
    /// of this `Shed` and its clones have rejected, by route.
    ///
    /// ```
    /// use pollwatch::Watchdog;
    /// use pollwatch_shed::Shed;
    ///
    /// let shed = Shed::new();
    /// // With `WatchdogBuilder::listen`, the metric is part of the watchdog's `/metrics`.
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

//! Requests of web frameworks that have no tower layers.
#![cfg(feature = "tower")]

use super::Watchdog;
use crate::measure::entry::watched_request::RequestWatcher;

impl Watchdog {
    /// Returns a watcher of requests, for the middleware of a web framework that has no tower
    /// layers, or not those of `http` 1. The crate `pollwatch-actix` is built on it.
    ///
    /// The watcher does not keep the watchdog running. The site of polls that only it measures is
    /// the location of the caller.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let requests = watchdog.request_watcher();
    /// let mut request = requests.start("GET", Some("/report/{id}"));
    /// let report = request.poll(|| "a report"); // measured, and a stall if it blocks
    /// request.respond(200);
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[track_caller]
    pub fn request_watcher(&self) -> RequestWatcher {
        RequestWatcher::new(&self.state.meter)
    }
}

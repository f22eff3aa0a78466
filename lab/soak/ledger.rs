//! The expected counts. The load counts its own requests, polls and tasks, and compares the numbers
//! with pollwatch's.

use std::collections::BTreeMap;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use pollwatch::Watchdog;
use pollwatch::snapshot::{RuntimeSnapshot, Snapshot};
use tokio::task::JoinHandle;

/// The counts of the futures that were made at one site on one runtime.
#[derive(Debug, Default)]
pub(crate) struct Site {
    polls: AtomicU64,
    spawned: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    panicked: AtomicU64,
}

type Requests = BTreeMap<(&'static str, &'static str, &'static str), u64>;

/// Everything that the load counts.
#[derive(Default)]
pub(crate) struct Ledger {
    sites: Mutex<BTreeMap<(&'static str, String), Arc<Site>>>,
    requests: Mutex<Requests>,
    /// Panics that the `on_stall` callback raised.
    pub(crate) callback_panics: AtomicU64,
    /// The number of times that each fault happened. It is printed, but compared with nothing.
    pub(crate) faults: Mutex<BTreeMap<&'static str, u64>>,
    /// The ids of the stalls that `on_stall` was called with.
    pub(crate) reported: Mutex<std::collections::BTreeSet<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn site(&self, runtime: &'static str, location: &Location<'_>) -> Arc<Site> {
        lock(&self.sites).entry((runtime, location.to_string())).or_default().clone()
    }

    /// Spawns a task on the current runtime, which is called `runtime`, and counts it.
    #[track_caller]
    pub(crate) fn spawn<F>(&self, watchdog: &Watchdog, runtime: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let site = self.site(runtime, Location::caller());
        site.spawned.fetch_add(1, Relaxed);
        watchdog.spawn(Counted { future: Box::pin(future), site, outcome: Outcome::Cancelled })
    }

    /// Watches a future that will be polled on `runtime`, and counts it.
    #[track_caller]
    pub(crate) fn watch<F: Future>(
        &self,
        watchdog: &Watchdog,
        runtime: &'static str,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let site = self.site(runtime, Location::caller());
        watchdog.watch(Counted { future: Box::pin(future), site, outcome: Outcome::Cancelled })
    }

    /// Starts counting a request that has reached its handler.
    pub(crate) fn visit(self: &Arc<Self>, route: &'static str, method: &'static str) -> Visit {
        Visit { ledger: self.clone(), route, method, status: None }
    }

    pub(crate) fn count(&self, fault: &'static str) {
        *lock(&self.faults).entry(fault).or_default() += 1;
    }

    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.faults).clone()
    }

    pub(crate) fn record_report(&self, id: u64) {
        lock(&self.reported).insert(id);
    }

    /// Returns every count next to pollwatch's.
    pub(crate) fn compare(&self, snapshot: &Snapshot) -> Vec<Line> {
        let mut lines = Vec::new();
        for ((runtime, location), site) in &*lock(&self.sites) {
            let counted = snapshot.sites.iter().find(|s| &*s.runtime == *runtime && s.site.to_string() == *location);
            let counted = |read: fn(&pollwatch::snapshot::SiteSnapshot) -> u64| counted.map_or(0, read);
            let [polls, spawned, completed, cancelled, panicked] =
                [&site.polls, &site.spawned, &site.completed, &site.cancelled, &site.panicked].map(|n| n.load(Relaxed));
            let mut line = |what: &str, expected, tolerance, counted| {
                lines.push(Line { what: format!("{what} of {runtime} at {location}"), expected, tolerance, counted });
            };
            // tokio polls a task once more that is aborted while it waits, but does not poll its
            // future.
            let tolerance = if cfg!(tokio_unstable) && spawned > 0 { cancelled } else { 0 };
            line("polls", polls, tolerance, counted(|s| s.polls));
            line("tasks spawned", spawned, 0, counted(|s| s.spawned));
            line("tasks terminated", spawned, 0, counted(|s| s.terminated));
            line("completed", completed, 0, counted(|s| s.completed));
            line("cancelled", cancelled, 0, counted(|s| s.cancelled));
            line("panicked", panicked, 0, counted(|s| s.panicked));
        }
        let mut of_routes = lock(&self.requests).clone();
        for route in &snapshot.routes {
            for requests in &route.requests {
                let (method, status) = (requests.method, requests.status.as_str());
                let known = of_routes.keys().find(|key| key.0 == &*route.route && (key.1, key.2) == (method, status));
                let expected = known.copied().and_then(|key| of_routes.remove(&key)).unwrap_or(0);
                let what = format!("requests {method} {}, {status}", route.route);
                lines.push(Line { what, expected, tolerance: 0, counted: requests.count });
            }
        }
        for ((route, method, status), expected) in of_routes {
            lines.push(Line {
                what: format!("requests {method} {route}, {status}"),
                expected,
                tolerance: 0,
                counted: 0,
            });
        }
        for runtime in &snapshot.runtimes {
            let of_sites = snapshot.sites.iter().filter(|s| s.runtime == runtime.name).map(|s| s.polls).sum();
            let what = format!("polls of {}: all sites, and its histogram", runtime.name);
            lines.push(Line { what, expected: of_sites, tolerance: 0, counted: runtime.polls.count });
        }
        for site in snapshot.sites.iter().filter(|s| s.spawned > 0 && s.site.location().is_some()) {
            let what = format!("tasks of {} at {} that have not ended", site.runtime, site.site);
            // The task of the service itself is still running.
            let tolerance = u64::from(&*site.runtime == crate::run::SERVICE && site.spawned == 1);
            lines.push(Line { what, expected: 0, tolerance, counted: site.spawned - site.terminated });
        }
        lines
    }

    /// Compares the calls of `on_stall`.
    pub(crate) fn compare_reports(&self, snapshot: &Snapshot) -> Vec<Line> {
        let panics = self.callback_panics.load(Relaxed);
        let what = "panics of on_stall".to_owned();
        let panics = Line { what, expected: panics, tolerance: 0, counted: snapshot.watchdog.callback_panics };
        let of_runtime =
            |r: &RuntimeSnapshot| r.stalls.iter().map(|c| c.stalls.count).sum::<u64>() + r.root_stalls.count;
        let stalls = snapshot.runtimes.iter().map(of_runtime).sum();
        let reported = lock(&self.reported).len() as u64;
        let what = "stalls, passed to on_stall or lost".to_owned();
        let stalls = Line { what, expected: reported, tolerance: snapshot.watchdog.reports_lost, counted: stalls };
        vec![panics, stalls]
    }
}

/// One count of the load next to pollwatch's.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) expected: u64,
    /// The allowed excess of pollwatch's count.
    pub(crate) tolerance: u64,
    pub(crate) counted: u64,
}

impl Line {
    pub(crate) fn agrees(&self) -> bool {
        (self.expected..=self.expected + self.tolerance).contains(&self.counted)
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Cancelled,
    Completed,
    Panicked,
}

/// A future that counts its own polls and its outcome.
struct Counted<F> {
    future: Pin<Box<F>>,
    site: Arc<Site>,
    outcome: Outcome,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.site.polls.fetch_add(1, Relaxed);
        // The outcome stays this one if the poll unwinds.
        self.outcome = Outcome::Panicked;
        let result = self.future.as_mut().poll(cx);
        self.outcome = if result.is_ready() { Outcome::Completed } else { Outcome::Cancelled };
        result
    }
}

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        let counter = match self.outcome {
            Outcome::Cancelled => &self.site.cancelled,
            Outcome::Completed => &self.site.completed,
            Outcome::Panicked => &self.site.panicked,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// A request in its handler. Its outcome is counted when this is dropped.
pub(crate) struct Visit {
    ledger: Arc<Ledger>,
    route: &'static str,
    method: &'static str,
    status: Option<&'static str>,
}

impl Visit {
    pub(crate) fn answer(mut self, status: &'static str) {
        self.status = Some(status);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let lost = if std::thread::panicking() { "panicked" } else { "cancelled" };
        let key = (self.route, self.method, self.status.unwrap_or(lost));
        *lock(&self.ledger.requests).entry(key).or_default() += 1;
    }
}

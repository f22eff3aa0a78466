//! The counters of one thread by route. Each counter has one writer, like those of sites.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::primitives::route::RouteId;
use crate::model::labels::RequestStatus;
use crate::model::time::Nanos;
#[cfg(feature = "tower")]
use crate::sync::add_single_writer as add;

/// The number of routes whose counters are allocated at a time.
const CHUNK: usize = 32;

/// The values of the label `method`. Methods that are not listed count as the last.
pub(crate) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// The upper bounds of the histogram of a route's polls.
pub(crate) const ROUTE_BOUNDS: [Nanos; 8] = [
    Nanos(500_000),
    Nanos(1_000_000),
    Nanos(2_500_000),
    Nanos(5_000_000),
    Nanos(10_000_000),
    Nanos(25_000_000),
    Nanos(100_000_000),
    Nanos(1_000_000_000),
];

/// The requests of one route on one thread.
#[derive(Debug)]
struct Requests {
    /// The requests by method and status.
    by_outcome: [AtomicU64; METHODS.len() * RequestStatus::ALL.len()],
    /// The requests that were answered, and that a layer could not name.
    unnamed: AtomicU64,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { by_outcome: std::array::from_fn(|_| AtomicU64::new(0)), unnamed: AtomicU64::new(0) }
    }
}

/// The polls by duration: one counter for each of [`ROUTE_BOUNDS`], and one for longer polls.
type Durations = [AtomicU64; ROUTE_BOUNDS.len() + 1];

/// The counters of one route on one thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct RouteCounters {
    polls: AtomicU64,
    /// The sum of all polls, in nanoseconds.
    busy: AtomicU64,
    /// The longest poll, in nanoseconds.
    max: AtomicU64,
    requests: OnceLock<Box<Requests>>,
    durations: OnceLock<Box<Durations>>,
    /// The sum of the delays of the polls in which the route's requests were worked on, in
    /// nanoseconds; 0 where delays are not tracked.
    delay: AtomicU64,
}

#[cfg(feature = "tower")]
impl RouteCounters {
    /// Counts one poll, also by its duration if `has_histogram` is set. Only the owning thread
    /// calls this and the other writing methods.
    #[inline]
    pub(crate) fn poll(&self, duration: Nanos, has_histogram: bool) {
        add(&self.polls, 1);
        self.part(duration);
        if has_histogram {
            let durations = self.durations.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
            add(&durations[ROUTE_BOUNDS.partition_point(|bound| *bound < duration)], 1);
        }
    }

    /// Counts the time of a call, which is a part of a poll.
    #[inline]
    pub(crate) fn part(&self, duration: Nanos) {
        add(&self.busy, duration.0);
        if duration.0 > self.max.load(Ordering::Relaxed) {
            self.max.store(duration.0, Ordering::Relaxed);
        }
    }

    /// Counts the delay of a poll in which a request was worked on.
    #[cfg(all(tokio_unstable, feature = "delays"))]
    #[inline]
    pub(crate) fn delay(&self, delay: Nanos) {
        add(&self.delay, delay.0);
    }

    /// Counts one request. `method` is an index of [`METHODS`].
    #[inline]
    pub(crate) fn request(&self, method: usize, status: RequestStatus) {
        let requests = self.requests.get_or_init(Box::default);
        add(&requests.by_outcome[method * RequestStatus::ALL.len() + status as usize], 1);
    }

    /// Counts one request as one that a layer could not name.
    pub(crate) fn unnamed_request(&self) {
        add(&self.requests.get_or_init(Box::default).unnamed, 1);
    }
}

/// The counters of one route, summed over threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteTotals {
    pub(crate) polls: u64,
    /// The sum of all polls.
    pub(crate) busy: Nanos,
    /// The longest poll.
    pub(crate) max: Nanos,
    /// The sum of the delays of the polls in which requests were worked on.
    pub(crate) delay: Nanos,
    requests: Vec<u64>,
    /// The requests that were answered, and that a layer could not name.
    pub(crate) unnamed_requests: u64,
    /// The polls by [`ROUTE_BOUNDS`]; empty where there is no histogram.
    durations: Vec<u64>,
}

impl RouteTotals {
    fn add(&mut self, counters: &RouteCounters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.polls += read(&counters.polls);
        self.busy += Nanos(read(&counters.busy));
        self.max = self.max.max(Nanos(read(&counters.max)));
        self.delay += Nanos(read(&counters.delay));
        let merge = |sums: &mut Vec<u64>, counters: Option<&[AtomicU64]>| {
            let Some(counters) = counters else { return };
            sums.resize(counters.len(), 0);
            sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += read(counter));
        };
        if let Some(requests) = counters.requests.get() {
            merge(&mut self.requests, Some(&requests.by_outcome));
            self.unnamed_requests += read(&requests.unnamed);
        }
        merge(&mut self.durations, counters.durations.get().map(|durations| &durations[..]));
    }

    /// Returns the requests by method and status, except where there were none.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, RequestStatus, u64)> {
        let some = self.requests.iter().enumerate().filter(|(_, count)| **count > 0);
        some.map(|(i, count)| {
            (METHODS[i / RequestStatus::ALL.len()], RequestStatus::ALL[i % RequestStatus::ALL.len()], *count)
        })
    }

    /// Returns how many polls took at most each of [`ROUTE_BOUNDS`], and how many polls there were;
    /// `None` where there is no histogram.
    pub(crate) fn durations(&self) -> Option<(Vec<u64>, u64)> {
        let (_, bounded) = self.durations.split_last()?;
        let mut sum = 0;
        let cumulative = bounded.iter().map(|count| {
            sum += count;
            sum
        });
        Some((cumulative.collect(), self.durations.iter().sum()))
    }
}

/// The counters of all routes on one thread, allocated when the thread meets a route.
#[derive(Debug)]
pub(crate) struct ThreadRouteCounters(Box<[OnceLock<Box<[RouteCounters; CHUNK]>>]>);

impl ThreadRouteCounters {
    pub(crate) fn new(capacity: usize) -> ThreadRouteCounters {
        ThreadRouteCounters((0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect())
    }

    /// Returns the counters of a route, and makes them if they are new; `None` for an id beyond the
    /// capacity. Only the owning thread calls this.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn get_or_create(&self, route: RouteId) -> Option<&RouteCounters> {
        let chunk = self.0.get(route.index() / CHUNK)?;
        let chunk = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| RouteCounters::default())));
        Some(&chunk[route.index() % CHUNK])
    }

    /// Calls `f` with the polls of each route, and the time that they took. Any thread may call
    /// this.
    pub(crate) fn for_each_busy(&self, mut f: impl FnMut(RouteId, u64, Nanos)) {
        for (i, chunk) in self.0.iter().enumerate() {
            for (j, counters) in chunk.get().into_iter().flat_map(|chunk| chunk.iter()).enumerate() {
                let (polls, busy) = (&counters.polls, &counters.busy);
                let (polls, busy) = (polls.load(Ordering::Relaxed), Nanos(busy.load(Ordering::Relaxed)));
                if let Some(route) = RouteId::from_bits((i * CHUNK + j + 1) as u16).filter(|_| busy > Nanos::ZERO) {
                    f(route, polls, busy);
                }
            }
        }
    }

    /// Adds the counters to `sums`. Any thread may call this.
    pub(crate) fn add_to(&self, sums: &mut HashMap<RouteId, RouteTotals>) {
        for (i, chunk) in self.0.iter().enumerate() {
            for (j, counters) in chunk.get().into_iter().flat_map(|chunk| chunk.iter()).enumerate() {
                let is_used = counters.polls.load(Ordering::Relaxed) > 0 || counters.requests.get().is_some();
                if let Some(route) = RouteId::from_bits((i * CHUNK + j + 1) as u16).filter(|_| is_used) {
                    sums.entry(route).or_default().add(counters);
                }
            }
        }
    }
}

#[cfg(all(test, feature = "tower", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn sums_over_threads() {
        let mut sums = HashMap::new();
        let route = RouteId::from_bits(40).unwrap();
        for nanos in [400_000, 3_000_000] {
            let thread = ThreadRouteCounters::new(100);
            let counters = thread.get_or_create(route).unwrap();
            counters.poll(Nanos(nanos), true);
            counters.request(2, RequestStatus::of_code(204));
            counters.request(9, RequestStatus::Cancelled);
            thread.add_to(&mut sums);
        }
        assert_eq!(sums.len(), 1, "only the route that was counted");
        let totals = &sums[&route];
        assert_eq!((totals.polls, totals.busy, totals.max), (2, Nanos(3_400_000), Nanos(3_000_000)));
        assert_eq!(
            totals.requests().collect::<Vec<_>>(),
            [("POST", RequestStatus::Success, 2), ("other", RequestStatus::Cancelled, 2)]
        );
        assert_eq!(totals.durations(), Some((vec![1, 1, 1, 2, 2, 2, 2, 2], 2)));
    }

    #[test]
    fn the_counters_of_a_route_are_one_cache_line() {
        assert!(size_of::<usize>() != 8 || size_of::<RouteCounters>() == 64);
    }
}

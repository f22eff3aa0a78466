//! What one thread counts of each route. Each counter has one writer, like those of sites.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::primitives::route::RouteId;
use crate::sync::add_single_writer as add;

const CHUNK: usize = 32;

/// The values of the label `method`. Methods that are not listed count as the last.
pub(crate) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// The outcome of a request, an index of [`STATUSES`]: the class of its status code, or the reason why
/// it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u8);

/// The values of the label `status`.
pub(crate) const STATUSES: [&str; 8] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled", "panicked"];

#[cfg_attr(not(feature = "tower"), allow(dead_code))]
impl Status {
    /// The service returned an error instead of a response.
    pub(crate) const ERROR: Status = Status(5);
    /// The request was dropped before there was a response: the client disconnected, or a time limit
    /// passed.
    pub(crate) const CANCELLED: Status = Status(6);
    /// The service panicked.
    pub(crate) const PANICKED: Status = Status(7);

    /// Returns the class of a status code. A code of no class counts as an error of the server.
    pub(crate) fn of_code(code: u16) -> Status {
        Status(match code / 100 {
            class @ 1..=5 => class as u8 - 1,
            _ => 4,
        })
    }
}

/// The upper bounds of the histogram of a route's polls, in nanoseconds.
pub(crate) const BOUNDS: [u64; 8] =
    [500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 100_000_000, 1_000_000_000];

/// The requests by method and status.
type Requests = [AtomicU64; METHODS.len() * STATUSES.len()];
/// The polls by duration: one for each of [`BOUNDS`], and one for longer polls.
type Durations = [AtomicU64; BOUNDS.len() + 1];

/// The counters of one route on one thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Cell {
    polls: AtomicU64,
    busy: AtomicU64,
    max: AtomicU64,
    requests: OnceLock<Box<Requests>>,
    durations: OnceLock<Box<Durations>>,
}

#[cfg_attr(not(feature = "tower"), allow(dead_code))]
impl Cell {
    /// Counts one poll. Only the owning thread calls this and the other writing methods.
    #[inline]
    pub(crate) fn poll(&self, nanos: u64, histogram: bool) {
        add(&self.polls, 1);
        self.part(nanos);
        if histogram {
            let durations = self.durations.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
            add(&durations[BOUNDS.partition_point(|bound| *bound < nanos)], 1);
        }
    }

    /// Counts the time of a call, which is a part of a poll.
    #[inline]
    pub(crate) fn part(&self, nanos: u64) {
        add(&self.busy, nanos);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.store(nanos, Ordering::Relaxed);
        }
    }

    /// Counts one request. `method` is an index of [`METHODS`].
    #[inline]
    pub(crate) fn request(&self, method: usize, status: Status) {
        add(&self.counts()[method * STATUSES.len() + status.0 as usize], 1);
    }

    fn counts(&self) -> &Requests {
        self.requests.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }
}

/// The sum of the counters of all threads; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) polls: u64,
    pub(crate) busy: u64,
    pub(crate) max: u64,
    requests: Vec<u64>,
    /// The polls by [`BOUNDS`]; empty where they are not kept.
    durations: Vec<u64>,
}

impl Totals {
    fn add(&mut self, cell: &Cell) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.polls += read(&cell.polls);
        self.busy += read(&cell.busy);
        self.max = self.max.max(read(&cell.max));
        let merge = |sums: &mut Vec<u64>, counters: Option<&[AtomicU64]>| {
            let Some(counters) = counters else { return };
            sums.resize(counters.len(), 0);
            sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += read(counter));
        };
        merge(&mut self.requests, cell.requests.get().map(|requests| &requests[..]));
        merge(&mut self.durations, cell.durations.get().map(|durations| &durations[..]));
    }

    /// Returns the requests by method and status, except where there were none.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let some = self.requests.iter().enumerate().filter(|(_, count)| **count > 0);
        some.map(|(i, count)| (METHODS[i / STATUSES.len()], STATUSES[i % STATUSES.len()], *count))
    }

    /// Returns how many polls took at most each of [`BOUNDS`], and how many polls there were; `None`
    /// where that is not kept.
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

/// The counters of all routes on one thread, made as the thread meets them.
#[derive(Debug)]
pub(crate) struct RouteCounters(Box<[OnceLock<Box<[Cell; CHUNK]>>]>);

impl RouteCounters {
    pub(crate) fn new(capacity: usize) -> RouteCounters {
        RouteCounters((0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect())
    }

    /// Returns the counters of a route, and makes them. Only the owning thread calls this.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    #[inline]
    pub(crate) fn cell(&self, route: RouteId) -> Option<&Cell> {
        let chunk = self.0.get(route.index() / CHUNK)?;
        let cells = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| Cell::default())));
        Some(&cells[route.index() % CHUNK])
    }

    /// Adds the counters to `sums`. Any thread may call this.
    pub(crate) fn add_to(&self, sums: &mut HashMap<RouteId, Totals>) {
        for (i, chunk) in self.0.iter().enumerate() {
            for (j, cell) in chunk.get().into_iter().flat_map(|cells| cells.iter()).enumerate() {
                let is_used = cell.polls.load(Ordering::Relaxed) > 0 || cell.requests.get().is_some();
                if let Some(route) = RouteId::from_bits((i * CHUNK + j + 1) as u16).filter(|_| is_used) {
                    sums.entry(route).or_default().add(cell);
                }
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn sums_over_threads() {
        let mut sums = HashMap::new();
        let route = RouteId::from_bits(40).unwrap();
        for nanos in [400_000, 3_000_000] {
            let tally = RouteCounters::new(100);
            let cell = tally.cell(route).unwrap();
            cell.poll(nanos, true);
            cell.request(2, Status::of_code(204));
            cell.request(9, Status::CANCELLED);
            tally.add_to(&mut sums);
        }
        assert_eq!(sums.len(), 1, "only what was met");
        let totals = &sums[&route];
        assert_eq!((totals.polls, totals.busy, totals.max), (2, 3_400_000, 3_000_000));
        assert_eq!(totals.requests().collect::<Vec<_>>(), [("POST", "2xx", 2), ("other", "cancelled", 2)]);
        assert_eq!(totals.durations(), Some((vec![1, 1, 1, 2, 2, 2, 2, 2], 2)));
    }

    #[test]
    fn a_cell_is_one_cache_line() {
        assert!(size_of::<usize>() != 8 || size_of::<Cell>() == 64);
    }

    #[test]
    fn a_status_is_a_class() {
        let class = |code| STATUSES[Status::of_code(code).0 as usize];
        assert_eq!([100, 204, 304, 404, 599, 999, 0].map(class), ["1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]);
        assert_eq!([Status::ERROR, Status::CANCELLED, Status::PANICKED].map(|s| STATUSES[s.0 as usize]), STATUSES[5..]);
    }
}

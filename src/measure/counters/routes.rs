//! What one thread counts of each route: one writer, like the cells of sites.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::primitives::route::RouteId;
use crate::sync::add_single_writer as add;

const CHUNK: usize = 32;

/// The methods told apart: the label's values. Any other is the last.
pub(crate) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// How a request ended, as the label `status` says it: the class of its status, or why it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u8);

/// The label's values.
pub(crate) const STATUSES: [&str; 8] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "cancelled", "panicked"];

#[cfg_attr(not(feature = "tower"), allow(dead_code))]
impl Status {
    /// The service returned an error instead of a response.
    pub(crate) const ERROR: Status = Status(5);
    /// The request was dropped before there was a response: the client went away, or a time limit passed.
    pub(crate) const CANCELLED: Status = Status(6);
    /// The service panicked.
    pub(crate) const PANICKED: Status = Status(7);

    /// Of a status code; what is none of the five classes is the server's error.
    pub(crate) fn of_code(code: u16) -> Status {
        Status(match code / 100 {
            class @ 1..=5 => class as u8 - 1,
            _ => 4,
        })
    }
}

/// Upper bounds of the durations of a route's polls, in nanoseconds.
pub(crate) const BOUNDS: [u64; 8] =
    [500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 100_000_000, 1_000_000_000];

/// By method and status; the last are those that were turned away, by which the cell would outgrow its cache line.
type Requests = [AtomicU64; METHODS.len() * STATUSES.len() + 1];
/// See [`Requests`].
const SHED: usize = METHODS.len() * STATUSES.len();
/// The latest request is this part of the mean of the latest ones.
const RECENT: u64 = 16;
type Durations = [AtomicU64; BOUNDS.len() + 1];

/// What is counted of one route on one thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Cell {
    polls: AtomicU64,
    busy: AtomicU64,
    max: AtomicU64,
    /// Sixteen times the mean of what the latest requests did at once.
    recent: AtomicU64,
    requests: OnceLock<Box<Requests>>,
    durations: OnceLock<Box<Durations>>,
}

#[cfg_attr(not(feature = "tower"), allow(dead_code))]
impl Cell {
    /// Counts one poll. This and the other writing methods are for the owning thread only.
    #[inline]
    pub(crate) fn poll(&self, nanos: u64, histogram: bool) {
        add(&self.polls, 1);
        self.part(nanos);
        if histogram {
            let durations = self.durations.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
            add(&durations[BOUNDS.partition_point(|bound| *bound < nanos)], 1);
        }
    }

    /// Counts the time of what is no poll, but a part of one.
    #[inline]
    pub(crate) fn part(&self, nanos: u64) {
        add(&self.busy, nanos);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.store(nanos, Ordering::Relaxed);
        }
    }

    /// Notes how long a request took that has been polled once, its call included: all that it does unless it waits for something.
    #[inline]
    pub(crate) fn first_poll(&self, nanos: u64) {
        // The first one is the mean; from there on each takes its part.
        let recent = self.recent.load(Ordering::Relaxed);
        let recent =
            if recent == 0 { nanos.saturating_mul(RECENT) } else { (recent - recent / RECENT).saturating_add(nanos) };
        self.recent.store(recent, Ordering::Relaxed);
    }

    /// Counts one request; `method` is an index of [`METHODS`].
    #[inline]
    pub(crate) fn request(&self, method: usize, status: Status) {
        add(&self.counts()[method * STATUSES.len() + status.0 as usize], 1);
    }

    fn counts(&self) -> &Requests {
        self.requests.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }

    /// The mean of the latest first polls, in nanoseconds: a route that begins to block is known within some requests, however many
    /// quick ones it has had, and so is one that has ceased to. Frames of bodies, of which a request may have thousands, do not
    /// hide what it does.
    pub(crate) fn recent_mean(&self) -> u64 {
        self.recent.load(Ordering::Relaxed) / RECENT
    }

    /// Counts one request that was turned away.
    pub(crate) fn shed(&self) {
        add(&self.counts()[SHED], 1);
    }
}

/// The sum of cells; times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) polls: u64,
    pub(crate) busy: u64,
    pub(crate) max: u64,
    pub(crate) shed: u64,
    requests: Vec<u64>,
    /// Of polls, by [`BOUNDS`]; empty where they are not kept.
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
        if let Some(counts) = cell.requests.get() {
            merge(&mut self.requests, Some(&counts[..SHED]));
            self.shed += read(&counts[SHED]);
        }
        merge(&mut self.durations, cell.durations.get().map(|durations| &durations[..]));
    }

    /// Requests by method and status, those that there are.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let some = self.requests.iter().enumerate().filter(|(_, count)| **count > 0);
        some.map(|(i, count)| (METHODS[i / STATUSES.len()], STATUSES[i % STATUSES.len()], *count))
    }

    /// How many polls took at most each of [`BOUNDS`], and how many there were; `None` where that is not kept.
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

/// The counters of one thread, made as routes are met.
#[derive(Debug)]
pub(crate) struct RouteCounters(Box<[OnceLock<Box<[Cell; CHUNK]>>]>);

impl RouteCounters {
    pub(crate) fn new(capacity: usize) -> RouteCounters {
        RouteCounters((0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect())
    }

    /// The route's cell; made by the owning thread, which is the only one to call this.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    #[inline]
    pub(crate) fn cell(&self, route: RouteId) -> Option<&Cell> {
        let chunk = self.0.get(route.index() / CHUNK)?;
        let cells = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| Cell::default())));
        Some(&cells[route.index() % CHUNK])
    }

    /// Adds what is counted here to `sums`; any thread.
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
        assert_eq!((totals.polls, totals.busy, totals.max, totals.shed), (2, 3_400_000, 3_000_000, 0));
        assert_eq!(totals.requests().collect::<Vec<_>>(), [("POST", "2xx", 2), ("other", "cancelled", 2)]);
        assert_eq!(totals.durations(), Some((vec![1, 1, 1, 2, 2, 2, 2, 2], 2)));
    }

    #[test]
    fn turned_away_requests_are_in_no_other_count() {
        let (tally, mut sums, route) = (RouteCounters::new(10), HashMap::new(), RouteId::from_bits(1).unwrap());
        tally.cell(route).unwrap().shed();
        tally.add_to(&mut sums);
        assert_eq!((sums[&route].shed, sums[&route].requests().count()), (1, 0));
        assert!(size_of::<usize>() != 8 || size_of::<Cell>() == 64, "one cache line");
    }

    #[test]
    fn the_mean_is_of_the_latest_requests() {
        let cell = Cell::default();
        assert_eq!(cell.recent_mean(), 0);
        cell.first_poll(40_000_000);
        assert_eq!(cell.recent_mean(), 40_000_000, "one request is its own mean");
        let polls_until = |nanos, is_so: &dyn Fn(u64) -> bool| {
            let polls = (1..).find(|_| {
                cell.first_poll(nanos);
                is_so(cell.recent_mean())
            });
            polls.unwrap()
        };
        assert!((16..100).contains(&polls_until(10_000, &|mean| mean < 5_000_000)));
        (0..1_000_000).for_each(|_| cell.first_poll(10_000));
        assert!((9_000..=10_000).contains(&cell.recent_mean()), "{}", cell.recent_mean());
        assert!((2..16).contains(&polls_until(20_000_000, &|mean| mean >= 5_000_000)), "a million quick ones before");
        cell.first_poll(u64::MAX);
        cell.first_poll(u64::MAX);
        assert!(cell.recent_mean() > 0);
    }

    #[test]
    fn a_status_is_a_class() {
        let class = |code| STATUSES[Status::of_code(code).0 as usize];
        assert_eq!([100, 204, 304, 404, 599, 999, 0].map(class), ["1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]);
        assert_eq!([Status::ERROR, Status::CANCELLED, Status::PANICKED].map(|s| STATUSES[s.0 as usize]), STATUSES[5..]);
    }
}

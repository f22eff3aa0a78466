//! Runs of a runtime that is late although every poll is shorter than the threshold: whether that
//! is reported, with the sites and the route that used the workers.
//!
//! Many tasks are woken at once, each for one poll of 6 ms. Between the floods the runtime has
//! little to do, or nothing. Each poll records its start and end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{LateReason, LateRuntime, Watchdog};
use test_support::spawn_measured;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ground_truth::{MS, SHORT, Span, at_wall, now};
use super::poll_recorder::lock;
use super::requests::request;
use super::statements::{MissedBars, Score};

/// The tasks of a flood for each worker.
const TASKS: usize = 300;
/// The duration of each poll. It sleeps, so that other processes hardly make it longer.
const POLL: Duration = Duration::from_millis(6);
/// A probe that waits for this many thresholds is late.
const LATE_THRESHOLDS: u64 = 4;
/// The time without a flood.
const CALM: Duration = Duration::from_millis(400);
/// The time for which a report may follow a flood.
const REPORTED_WITHIN: Duration = Duration::from_millis(300);
/// The route of the tasks that are requests.
const ROUTE: &str = "/render";

/// The users of the workers: the first is the busiest.
const USERS: usize = 3;

/// One poll of a flood, with the number of its user.
struct UserPoll {
    user: usize,
    span: Span,
}

/// A flood, as its tasks have recorded it.
struct Flood {
    span: Span,
    polls: Vec<UserPoll>,
    /// The names of the sites, by user.
    sites: [String; USERS],
    /// The longest time by which a ticker of 5 ms was late.
    ticker: u64,
}

impl Flood {
    /// Returns the share of the workers' time that a user had within a span.
    fn share(&self, user: usize, within: Span, workers: usize) -> f64 {
        let busy: u64 = self.polls.iter().filter(|poll| poll.user == user).map(|poll| poll.span.overlap(within)).sum();
        busy as f64 / (within.nanos().max(1) * workers as u64) as f64
    }
}

/// The figures of a run, which are a row of the table.
#[derive(Debug, Default)]
pub(crate) struct LateFigures {
    /// The floods of which no poll lasted for the threshold. The wrong ones have no report whose
    /// reason is busy workers.
    pub(crate) floods: Score,
    /// Further floods, of which the machine made a poll longer: a stall may explain these.
    pub(crate) disturbed: usize,
    pub(crate) reports: usize,
    /// The reports outside of a flood.
    pub(crate) without_cause: usize,
    /// The reports whose sites are wrong, or whose route is, and those of an undisturbed flood that
    /// give another reason than busy workers.
    pub(crate) users: Score,
    /// The largest difference between a reported share and the true one, in parts of 100.
    pub(crate) share_error: f64,
    /// The shortest time by which a ticker was late in a flood.
    pub(crate) ticker: u64,
    pub(crate) faults: Vec<String>,
}

/// The most floods that are run until one is undisturbed, and until there is a report.
const ATTEMPTS: usize = 6;
const ATTEMPTS_WITHOUT_REPORT: usize = 20;

/// Runs floods for `time`, on a runtime with this many workers, and at least until one is
/// undisturbed, if the machine is not too busy for that.
pub(crate) fn run(workers: usize, threshold: Duration, time: Duration) -> LateFigures {
    now();
    let watchdog = Watchdog::builder().threshold(threshold).log(false).start().expect("starts");
    let runtime = watchdog.runtime("main").worker_threads(workers).enable_all().build().expect("builds");
    let (mut figures, end) = (LateFigures { ticker: u64::MAX, ..LateFigures::default() }, Instant::now() + time);
    let mut known = Vec::new();
    let is_short_of = |figures: &LateFigures| {
        let attempts = if figures.users.of == 0 { ATTEMPTS_WITHOUT_REPORT } else { ATTEMPTS };
        figures.floods.of == 0 && figures.disturbed < attempts
    };
    while Instant::now() < end || is_short_of(&figures) {
        for is_idle in [true, false] {
            let start = now();
            have_little_to_do(&watchdog, &runtime, is_idle);
            figures.evaluate_calm(&new_reports(&watchdog, &mut known), Span { start, end: now() });
        }
        let flood = flood(&watchdog, &runtime, workers);
        std::thread::sleep(REPORTED_WITHIN);
        figures.evaluate_flood(&flood, &new_reports(&watchdog, &mut known), threshold);
    }
    figures
}

/// Returns the reports that are not among those that are known.
fn new_reports(watchdog: &Watchdog, known: &mut Vec<u64>) -> Vec<LateRuntime> {
    let mut new = watchdog.late_runtimes();
    new.retain(|late| !known.contains(&at_wall(late.reported_at)));
    known.extend(new.iter().map(|late| at_wall(late.reported_at)));
    new
}

fn have_little_to_do(watchdog: &Watchdog, runtime: &Runtime, is_idle: bool) {
    if is_idle {
        return std::thread::sleep(CALM);
    }
    let end = Instant::now() + CALM;
    while Instant::now() < end {
        let timer = async { tokio::time::sleep(Duration::from_millis(3)).await };
        runtime.block_on(spawn_measured(watchdog, runtime.handle(), timer).0).expect("no panic");
    }
}

/// Wakes many tasks at once, and waits until all are polled.
fn flood(watchdog: &Watchdog, runtime: &Runtime, workers: usize) -> Flood {
    let handle = runtime.handle();
    let (polls, ticks): (Arc<Mutex<Vec<UserPoll>>>, _) = (Arc::default(), Arc::new(AtomicBool::new(true)));
    let (wake, woken) = watch::channel(false);
    let (mut tasks, mut sites) = (Vec::new(), [const { String::new() }; USERS]);
    for number in 0..TASKS * workers {
        let (mut woken, polls) = (woken.clone(), polls.clone());
        let poll_shortly = |user: usize| async move {
            woken.wait_for(|is_woken| *is_woken).await.expect("the flood lasts");
            let start = now();
            std::thread::sleep(POLL);
            lock(&polls).push(UserPoll { user, span: Span { start, end: now() } });
        };
        let user = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2][number % 10];
        let (task, site) = match user {
            0 => spawn_measured(watchdog, handle, poll_shortly(0)),
            1 => spawn_measured(watchdog, handle, poll_shortly(1)),
            _ => spawn_measured(watchdog, handle, request(watchdog.clone(), ROUTE, poll_shortly(2))),
        };
        sites[user] = site;
        tasks.push(task);
    }
    let ticking = ticks.clone();
    let ticker = runtime.spawn(async move {
        let (mut latest, mut longest) = (now(), 0);
        while ticking.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let tick = now();
            longest = longest.max(tick.saturating_sub(latest));
            latest = tick;
        }
        longest
    });
    let start = now();
    wake.send_replace(true);
    tasks.into_iter().for_each(|task| runtime.block_on(task).expect("no panic"));
    ticks.store(false, Ordering::Relaxed);
    let ticker = runtime.block_on(ticker).expect("no panic");
    let polls = std::mem::take(&mut *lock(&polls));
    Flood { span: Span { start, end: now() }, polls, sites, ticker }
}

impl LateFigures {
    /// Counts the reports of a time without a flood.
    fn evaluate_calm(&mut self, reports: &[LateRuntime], span: Span) {
        self.reports += reports.len();
        // A machine without a free CPU makes any runtime late, and the report says that.
        for late in reports.iter().filter(|late| late.reason != LateReason::NoCpu) {
            self.without_cause += 1;
            self.faults.push(format!("without cause, in {span:?}: {late}"));
        }
    }

    fn evaluate_flood(&mut self, flood: &Flood, reports: &[LateRuntime], threshold: Duration) {
        self.reports += reports.len();
        let threshold = threshold.as_nanos() as u64;
        let is_long = |poll: &UserPoll| poll.span.nanos() + SHORT >= threshold;
        let is_disturbed = flood.polls.iter().any(is_long);
        if is_disturbed {
            self.disturbed += 1;
        } else {
            let is_found = reports.iter().any(|late| late.reason == LateReason::BusyWorkers);
            self.floods.add(is_found);
            self.ticker = self.ticker.min(flood.ticker);
            if !is_found {
                self.faults.push(format!("not reported: a ticker was {} ms late", flood.ticker / MS));
            }
        }
        // In a disturbed flood the machine may have been the reason.
        for late in reports.iter().filter(|late| !is_disturbed || late.reason != LateReason::NoCpu) {
            self.evaluate_report(flood, late, threshold);
        }
    }

    fn evaluate_report(&mut self, flood: &Flood, late: &LateRuntime, threshold: u64) {
        let reported_at = at_wall(late.reported_at);
        let observed = Span { start: reported_at.saturating_sub(late.observed.as_nanos() as u64), end: reported_at };
        if flood.span.overlap(observed) == 0 || late.delay.as_nanos() as u64 + MS < LATE_THRESHOLDS * threshold {
            self.without_cause += 1;
            return self.faults.push(format!("without cause, beside a flood of {:?}: {late}", flood.span));
        }
        let mut is_right = late.reason == LateReason::BusyWorkers;
        for (user, site) in flood.sites.iter().enumerate() {
            let share = flood.share(user, observed, late.workers);
            let of_site = late.sites.iter().find(|usage| usage.site.to_string() == *site).map(|usage| usage.share);
            let of_route = late.routes.iter().find(|usage| &*usage.route == ROUTE).map(|usage| usage.share);
            let reported = if user == 2 { vec![of_site, of_route] } else { vec![of_site] };
            for reported in reported {
                let error = (reported.unwrap_or(0.0) - share).abs();
                self.share_error = self.share_error.max(100.0 * error);
                // A poll of each worker may count twice, as is documented, and the moments of the
                // readings are known to a few milliseconds.
                let allowed = (threshold as f64 + 10.0 * MS as f64) / observed.nanos().max(1) as f64;
                is_right &= error <= allowed + 0.02;
            }
        }
        // None but these are named.
        is_right &= late.routes.len() <= 1;
        self.users.add(is_right);
        if !is_right {
            let shares: Vec<_> = (0..USERS).map(|user| flood.share(user, observed, late.workers)).collect();
            self.faults.push(format!("wrong users, not {shares:?} of {:?}: {late}", flood.sites));
        }
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let LateFigures { floods, users, without_cause, reports, .. } = self;
        let mut bars = MissedBars::default();
        bars.allow(0, *floods, "floods were not reported");
        bars.allow(0, Score { wrong: *without_cause, of: *reports }, "reports have no cause");
        bars.allow(0, *users, "reports name wrong users of the workers");
        bars.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_can_be_missed() {
        let missed = |change: fn(&mut LateFigures)| {
            let mut figures = LateFigures::default();
            change(&mut figures);
            figures.missed_bars().join("\n")
        };
        assert_eq!(missed(|_| ()), "");
        assert!(missed(|figures| figures.floods.add(false)).contains("1 of 1 floods"));
        assert!(missed(|figures| figures.without_cause = 1).contains("no cause"));
        assert!(missed(|figures| figures.users.add(false)).contains("wrong users"));
    }

    #[test]
    fn shares_are_of_the_time_of_all_workers() {
        let poll = |user, start, end| UserPoll { user, span: Span { start, end } };
        let polls = vec![poll(0, 0, 60), poll(0, 0, 100), poll(1, 60, 100)];
        let flood = Flood { span: Span { start: 0, end: 100 }, polls, sites: Default::default(), ticker: 0 };
        let share = |user| flood.share(user, Span { start: 50, end: 100 }, 2);
        assert_eq!([0, 1, 2].map(share), [0.6, 0.4, 0.0]);
    }

    #[test]
    fn a_flood_with_a_long_poll_is_disturbed() {
        let flood = |nanos| Flood {
            span: Span { start: 0, end: 1_000 * MS },
            polls: vec![UserPoll { user: 0, span: Span { start: 0, end: nanos } }],
            sites: Default::default(),
            ticker: 500 * MS,
        };
        let mut figures = LateFigures { ticker: u64::MAX, ..LateFigures::default() };
        figures.evaluate_flood(&flood(10 * MS), &[], Duration::from_millis(10));
        assert_eq!((figures.disturbed, figures.floods.of), (1, 0));
        figures.evaluate_flood(&flood(6 * MS), &[], Duration::from_millis(10));
        assert_eq!((figures.floods.wrong, figures.floods.of, figures.ticker), (1, 1, 500 * MS));
    }
}

//! The tracker against an invented set of threads that poll, whose ground truth is known, scanned
//! at random moments.

use std::collections::HashMap;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{END, MS, T, WORKER};
use super::*;
use crate::model::id::{FrameNumber, RouteId, RuntimeId};

/// One planned poll.
#[derive(Clone, Debug)]
struct Plan {
    gap: Nanos,
    duration: Nanos,
    /// The time after which the poll blocks no worker. If that is after its end, it blocks one all
    /// the time.
    off: Nanos,
    /// The time after which a request in the poll starts, if there is one. It lasts as long as the
    /// poll.
    request: Option<Nanos>,
    /// The slow-poll record of its end is lost.
    lost: bool,
}

/// A time from a range of nanoseconds.
fn time(range: Range<Nanos>) -> impl Strategy<Value = Nanos> + Clone {
    (range.start.0..range.end.0).prop_map(Nanos)
}

fn plan() -> impl Strategy<Value = Plan> {
    let zero = Nanos::ZERO;
    let around = T - Nanos(3)..T + Nanos(3);
    let duration = prop_oneof![time(zero..T), time(around), time(T..2 * T), time(T..40 * T)];
    let off = prop_oneof![4 => Just(Nanos::MAX), 1 => Just(zero), 1 => time(zero..3 * T)];
    let request = prop_oneof![
        2 => Just(None),
        1 => time(zero..T).prop_map(Some),
        1 => time(zero..T / 8).prop_map(Some)
    ];
    let plan = (time(zero..2 * T), duration, off, request, prop::bool::weighted(0.1));
    plan.prop_map(|(gap, duration, off, request, lost)| Plan { gap, duration, off, request, lost })
}

/// A planned scan: the time since the previous one, from reading the slots to draining the slow
/// polls, and from there to asking for the worker; and a thread whose slot changes too fast to be
/// read.
#[derive(Clone, Debug)]
struct ScanPlan {
    step: Nanos,
    drain: Nanos,
    ask: Nanos,
    unread: Option<ThreadNumber>,
}

fn plan_of_scan() -> impl Strategy<Value = ScanPlan> {
    let lag = || prop_oneof![4 => Just(Nanos::ZERO), 1 => time(Nanos::ZERO..T / 2)];
    let unread = prop::option::weighted(0.1, (0..3u64).prop_map(ThreadNumber));
    let plan = (time(Nanos(1)..2 * T), lag(), lag(), unread);
    plan.prop_map(|(step, drain, ask, unread)| ScanPlan { step, drain, ask, unread })
}

/// The ground truth of one poll.
#[derive(Clone, Debug)]
struct Truth {
    poll: Poll,
    end: Nanos,
    plan: Plan,
}

impl Truth {
    fn runs(&self, at: Nanos) -> bool {
        (self.poll.start..self.end).contains(&at)
    }

    fn is_off(&self, at: Nanos) -> bool {
        at >= self.poll.start + self.plan.off
    }

    fn never_off(&self) -> bool {
        !self.is_off(self.end)
    }
}

/// All polls of all threads.
fn world(threads: &[Vec<Plan>]) -> Vec<Truth> {
    let mut all = Vec::new();
    for (thread, plans) in threads.iter().enumerate() {
        let mut now = MS;
        for (number, plan) in plans.iter().enumerate() {
            let start = now + plan.gap;
            now = start + plan.duration;
            let request = plan.request.filter(|offset| *offset < plan.duration).map(|offset| OpenRequest {
                frame: FrameNumber(number as u64),
                route: RouteId::OTHER,
                start: start + offset,
            });
            let poll = Poll {
                key: PollKey { thread: ThreadNumber(thread as u64), number: FrameNumber(number as u64) },
                request,
                // Each thread has a runtime of its own, of which it is the only worker.
                runtime: RuntimeId(thread as u8),
                ..super::tests::poll(0, start)
            };
            all.push(Truth { poll, end: now, plan: plan.clone() });
        }
    }
    all
}

/// The reports of one stall so far.
#[derive(Debug)]
struct Reported {
    key: PollKey,
    started: Option<Nanos>,
    last: Nanos,
    doublings: u32,
    ended: Option<Nanos>,
}

/// The tracker in that world, and its reports so far.
struct Fixture {
    world: Vec<Truth>,
    tracker: Tracker,
    reported: HashMap<StallId, Reported>,
    delivered: Vec<PollKey>,
    last_id: StallId,
}

impl Fixture {
    fn new(threads: &[Vec<Plan>]) -> Fixture {
        let (reported, delivered) = (HashMap::new(), Vec::new());
        Fixture { world: world(threads), tracker: Tracker::new(T), reported, delivered, last_id: StallId(0) }
    }

    fn end(&self) -> Nanos {
        self.world.iter().map(|truth| truth.end).max().unwrap_or_default()
    }

    fn truth(&self, key: PollKey) -> &Truth {
        self.world.iter().find(|truth| truth.poll.key == key).expect("it was polled")
    }

    /// Scans at `now`, and returns what the scan found.
    fn scan(&mut self, now: Nanos, plan_of_scan: &ScanPlan) -> Result<ScannedPolls, TestCaseError> {
        let drained = now + plan_of_scan.drain;
        let mut scan = ScannedPolls::default();
        for truth in &self.world {
            let key = truth.poll.key;
            if plan_of_scan.unread == Some(key.thread) {
                scan.unread = vec![key.thread];
            } else if truth.runs(now) {
                let has_started = |request: &OpenRequest| request.start <= now;
                scan.running.push(Poll { request: truth.poll.request.filter(has_started), ..truth.poll });
            }
            let duration = truth.plan.duration;
            if truth.end <= drained && duration >= T && !truth.plan.lost && !self.delivered.contains(&key) {
                self.delivered.push(key);
                if let Some(request) = truth.poll.request.filter(|request| truth.end - request.start >= T) {
                    let duration = truth.end - request.start;
                    scan.ended_requests.push(EndedRequest { poll: key, request, duration });
                }
                let worker = truth.never_off().then_some(WORKER);
                scan.ended.push(EndedPoll { poll: Poll { request: None, ..truth.poll }, duration, worker, end: END });
            }
        }
        let world = &self.world;
        let state = |poll: &Poll| {
            let truth = world.iter().find(|truth| truth.poll.key == poll.key).expect("the scan found it");
            match drained + plan_of_scan.ask {
                at if !truth.runs(at) => PollState::Finished,
                at if truth.is_off(at) => PollState::OffWorker,
                _ => PollState::OnWorker(WORKER),
            }
        };
        let changes = self.tracker.step(now, &scan, &Pauses::default(), state);
        for change in changes {
            self.take(change)?;
        }
        Ok(scan)
    }

    /// Each stall starts once, under an id of its own, is ongoing only until it ends, and ends
    /// once.
    fn take(&mut self, change: Change) -> Result<(), TestCaseError> {
        match change {
            Change::Started { id, poll, elapsed, .. } | Change::EndedUnseen { id, poll, elapsed, .. } => {
                let over = matches!(change, Change::EndedUnseen { .. });
                let truth = self.truth(poll.key).clone();
                prop_assert!(id > self.last_id, "ids are unique");
                self.last_id = id;
                prop_assert!(
                    self.reported.values().all(|reported| reported.key != poll.key),
                    "reported before: {:?}",
                    truth
                );
                prop_assert!(elapsed >= T && elapsed <= truth.plan.duration, "{:?} of {:?}", elapsed, truth);
                prop_assert!(truth.plan.off > Nanos::ZERO, "it never blocked a worker");
                prop_assert!(!over || elapsed == truth.plan.duration && truth.never_off());
                let ended = over.then_some(elapsed);
                let doublings = (elapsed.0 / T.0).ilog2();
                self.reported.insert(
                    id,
                    Reported { key: poll.key, started: (!over).then_some(elapsed), last: elapsed, doublings, ended },
                );
            }
            Change::ReportDue { id, elapsed } | Change::StillOngoing { id, elapsed } => {
                let reported = self.reported.get_mut(&id).expect("it started");
                prop_assert!(reported.ended.is_none() && elapsed >= reported.last, "{:?} then {:?}", reported, elapsed);
                reported.last = elapsed;
                let doublings = (elapsed.0 / T.0).ilog2();
                prop_assert_eq!(matches!(change, Change::ReportDue { .. }), doublings > reported.doublings);
                reported.doublings = doublings;
            }
            Change::Ended { id, elapsed, .. } => {
                let reported = self.reported.get_mut(&id).expect("it started");
                prop_assert!(reported.ended.replace(elapsed).is_none(), "it ends once");
                prop_assert!(elapsed >= reported.last);
                let key = reported.key;
                let truth = self.truth(key);
                prop_assert!(elapsed <= truth.plan.duration);
                let exact = truth.never_off() && self.delivered.contains(&key);
                prop_assert!(!exact || elapsed == truth.plan.duration, "{:?} of {:?}", elapsed, truth);
            }
            Change::RequestBlocked { id, elapsed, .. } => {
                let truth = self.truth(self.reported.get(&id).expect("it started").key);
                let request = truth.poll.request.expect("there is one");
                prop_assert!(elapsed >= T && elapsed <= truth.end - request.start);
            }
        }
        Ok(())
    }

    /// After all has ended.
    fn close(&self) -> Result<(), TestCaseError> {
        prop_assert!(!self.tracker.has_stalls() && self.tracker.tracked.is_empty());
        prop_assert!(self.reported.values().all(|reported| reported.ended.is_some()), "each ends: {:?}", self.reported);
        for truth in self.world.iter().filter(|truth| truth.plan.duration >= T && truth.never_off() && !truth.plan.lost)
        {
            let reported = self.reported.values().filter(|reported| reported.key == truth.poll.key).count();
            prop_assert_eq!(reported, 1, "each is reported: {:?}", truth);
        }
        Ok(())
    }
}

/// Scans until nothing is left that could be reported.
fn quiet(fixture: &mut Fixture, mut now: Nanos) -> Result<(), TestCaseError> {
    let end = fixture.end();
    let plain = ScanPlan { step: T, drain: Nanos::ZERO, ask: Nanos::ZERO, unread: None };
    for _ in 0..3 {
        now = now.max(end) + T;
        fixture.scan(now, &plain)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn each_stall_is_reported_once_and_nothing_else(
        threads in vec(vec(plan(), 0..8), 1..4),
        scans in vec(plan_of_scan(), 0..60),
    ) {
        let (mut fixture, mut now) = (Fixture::new(&threads), Nanos::ZERO);
        for plan_of_scan in &scans {
            now += plan_of_scan.step;
            fixture.scan(now, plan_of_scan)?;
            // The next scan comes after this one has ended.
            now += plan_of_scan.drain + plan_of_scan.ask;
        }
        quiet(&mut fixture, now)?;
        fixture.close()?;
    }

    /// A watchdog that wakes when it meant to finds each stall while it lasts, at most a quarter of
    /// a threshold late.
    #[test]
    fn scans_at_the_due_moments_are_in_time(threads in vec(vec(plan(), 0..8), 1..4)) {
        let (mut fixture, mut now) = (Fixture::new(&threads), Nanos::ZERO);
        while now <= fixture.end() {
            let scan = fixture.scan(now, &ScanPlan { step: Nanos::ZERO, drain: Nanos::ZERO, ask: Nanos::ZERO, unread: None })?;
            let next = fixture.tracker.next_scan(now, &scan, &Pauses::default());
            prop_assert!((now + T / 4..=now + T).contains(&next));
            now = next;
        }
        quiet(&mut fixture, now)?;
        fixture.close()?;
        for reported in fixture.reported.values() {
            let truth = fixture.truth(reported.key);
            let later = truth.plan.request.filter(|later| *later <= T / LATE_REQUEST_DIVISOR).unwrap_or_default();
            let latest = T + later + T / 4;
            match reported.started {
                Some(elapsed) => prop_assert!(elapsed <= latest, "{:?} late: {:?}", elapsed, truth),
                None => prop_assert!(truth.plan.duration <= latest, "missed: {:?}", truth),
            }
        }
    }
}

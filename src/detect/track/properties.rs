//! The tracker against an invented world of threads that poll, whose ground truth is known, scanned
//! at random moments.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{MS, T};
use super::*;

/// One planned poll.
#[derive(Clone, Debug)]
struct Plan {
    gap: u64,
    nanos: u64,
    /// From when on it blocks no worker; after its end: it blocks one all the time.
    off: u64,
    /// When the request in it begins, if there is one; it lasts as long as the poll.
    request: Option<u64>,
    /// The slow-poll record of its end is lost.
    lost: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let nanos = prop_oneof![0..T, T - 3..T + 3, T..T * 2, T..T * 40];
    let off = prop_oneof![4 => Just(u64::MAX), 1 => Just(0), 1 => 0..T * 3];
    let request = prop_oneof![2 => Just(None), 1 => (0..T).prop_map(Some), 1 => (0..T / 8).prop_map(Some)];
    (0..T * 2, nanos, off, request, prop::bool::weighted(0.1)).prop_map(|(gap, nanos, off, request, lost)| Plan {
        gap,
        nanos,
        off,
        request,
        lost,
    })
}

/// A planned scan: the time since the previous one, from reading the slots to draining the slow
/// polls, and from there to asking for the worker; and a thread whose slot changes too fast to be
/// read.
#[derive(Clone, Debug)]
struct ScanPlan {
    step: u64,
    drain: u64,
    ask: u64,
    unread: Option<u64>,
}

fn plan_of_scan() -> impl Strategy<Value = ScanPlan> {
    let lag = || prop_oneof![4 => Just(0), 1 => 0..T / 2];
    (1..T * 2, lag(), lag(), prop::option::weighted(0.1, 0..3u64)).prop_map(|(step, drain, ask, unread)| ScanPlan {
        step,
        drain,
        ask,
        unread,
    })
}

#[derive(Clone, Debug)]
struct Truth {
    poll: Poll,
    end: u64,
    plan: Plan,
}

impl Truth {
    fn runs(&self, at: u64) -> bool {
        (self.poll.begin..self.end).contains(&at)
    }

    fn is_off(&self, at: u64) -> bool {
        at >= self.poll.begin.saturating_add(self.plan.off)
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
            let begin = now + plan.gap;
            now = begin + plan.nanos;
            let request = plan.request.filter(|offset| *offset < plan.nanos).map(|offset| Request {
                frame: FrameNumber(number as u64),
                route: RouteId::OTHER,
                begin: begin + offset,
            });
            let poll = Poll {
                key: PollKey { thread: thread as u64, number: FrameNumber(number as u64) },
                request,
                ..super::tests::poll(0, begin)
            };
            all.push(Truth { poll, end: now, plan: plan.clone() });
        }
    }
    all
}

/// What was reported of one stall.
#[derive(Debug)]
struct Reported {
    key: PollKey,
    began: Option<u64>,
    last: u64,
    doublings: u32,
    ended: Option<u64>,
}

/// The tracker in that world, and what it has reported.
struct Scene {
    world: Vec<Truth>,
    tracker: Tracker,
    reported: HashMap<u64, Reported>,
    delivered: Vec<PollKey>,
    last_id: u64,
}

impl Scene {
    fn new(threads: &[Vec<Plan>]) -> Scene {
        let (reported, delivered) = (HashMap::new(), Vec::new());
        Scene { world: world(threads), tracker: Tracker::new(T), reported, delivered, last_id: 0 }
    }

    fn end(&self) -> u64 {
        self.world.iter().map(|truth| truth.end).max().unwrap_or(0)
    }

    fn truth(&self, key: PollKey) -> &Truth {
        self.world.iter().find(|truth| truth.poll.key == key).expect("it was polled")
    }

    /// Scans at `now`, and returns what the scan saw.
    fn scan(&mut self, now: u64, plan_of_scan: &ScanPlan) -> Result<Scan, TestCaseError> {
        let drained = now + plan_of_scan.drain;
        let mut scan = Scan::default();
        for truth in &self.world {
            let key = truth.poll.key;
            if plan_of_scan.unread == Some(key.thread) {
                scan.unread = vec![key.thread];
            } else if truth.runs(now) {
                let begun = |request: &Request| request.begin <= now;
                scan.running.push(Poll { request: truth.poll.request.filter(begun), ..truth.poll });
            }
            let nanos = truth.plan.nanos;
            if truth.end <= drained && nanos >= T && !truth.plan.lost && !self.delivered.contains(&key) {
                self.delivered.push(key);
                if let Some(request) = truth.poll.request.filter(|request| truth.end - request.begin >= T) {
                    let nanos = truth.end - request.begin;
                    scan.ended_requests.push(EndedRequest { poll: key, request, nanos });
                }
                let worker = truth.never_off().then_some(0);
                scan.ended.push(EndedPoll { poll: Poll { request: None, ..truth.poll }, nanos, worker });
            }
        }
        let world = &self.world;
        let place = |poll: &Poll| {
            let truth = world.iter().find(|truth| truth.poll.key == poll.key).expect("it was seen");
            match drained + plan_of_scan.ask {
                at if !truth.runs(at) => PollState::Finished,
                at if truth.is_off(at) => PollState::OffWorker,
                _ => PollState::OnWorker(0),
            }
        };
        let changes = self.tracker.step(now, &scan, &Pauses::default(), place);
        for change in changes {
            self.take(change)?;
        }
        Ok(scan)
    }

    /// Each stall begins once, under an id of its own, is ongoing only until it ends, and ends
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
                prop_assert!(elapsed >= T && elapsed <= truth.plan.nanos, "{} of {:?}", elapsed, truth);
                prop_assert!(truth.plan.off > 0, "it never blocked a worker");
                prop_assert!(!over || elapsed == truth.plan.nanos && truth.never_off());
                let ended = over.then_some(elapsed);
                let doublings = (elapsed / T).ilog2();
                self.reported.insert(
                    id,
                    Reported { key: poll.key, began: (!over).then_some(elapsed), last: elapsed, doublings, ended },
                );
            }
            Change::Continued { id, elapsed } | Change::Unchanged { id, elapsed } => {
                let reported = self.reported.get_mut(&id).expect("it began");
                prop_assert!(reported.ended.is_none() && elapsed >= reported.last, "{:?} then {}", reported, elapsed);
                reported.last = elapsed;
                let doublings = (elapsed / T).ilog2();
                prop_assert_eq!(matches!(change, Change::Continued { .. }), doublings > reported.doublings);
                reported.doublings = doublings;
            }
            Change::Ended { id, elapsed } => {
                let reported = self.reported.get_mut(&id).expect("it began");
                prop_assert!(reported.ended.replace(elapsed).is_none(), "it ends once");
                prop_assert!(elapsed >= reported.last);
                let key = reported.key;
                let truth = self.truth(key);
                prop_assert!(elapsed <= truth.plan.nanos);
                let exact = truth.never_off() && self.delivered.contains(&key);
                prop_assert!(!exact || elapsed == truth.plan.nanos, "{} of {:?}", elapsed, truth);
            }
            Change::Request { id, elapsed, .. } => {
                let truth = self.truth(self.reported.get(&id).expect("it began").key);
                let request = truth.poll.request.expect("there is one");
                prop_assert!(elapsed >= T && elapsed <= truth.end - request.begin);
            }
        }
        Ok(())
    }

    /// After all has ended.
    fn close(&self) -> Result<(), TestCaseError> {
        prop_assert!(!self.tracker.has_stalls() && self.tracker.tracked.is_empty());
        prop_assert!(self.reported.values().all(|reported| reported.ended.is_some()), "each ends: {:?}", self.reported);
        for truth in self.world.iter().filter(|truth| truth.plan.nanos >= T && truth.never_off() && !truth.plan.lost) {
            let reported = self.reported.values().filter(|reported| reported.key == truth.poll.key).count();
            prop_assert_eq!(reported, 1, "each is reported: {:?}", truth);
        }
        Ok(())
    }
}

/// Scans until nothing is left that could be reported.
fn quiet(scene: &mut Scene, mut now: u64) -> Result<(), TestCaseError> {
    let end = scene.end();
    let plain = ScanPlan { step: T, drain: 0, ask: 0, unread: None };
    for _ in 0..3 {
        now = now.max(end) + T;
        scene.scan(now, &plain)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn each_stall_is_reported_once_and_nothing_else(
        threads in vec(vec(plan(), 0..8), 1..4),
        glances in vec(plan_of_scan(), 0..60),
    ) {
        let (mut scene, mut now) = (Scene::new(&threads), 0);
        for plan_of_scan in &glances {
            now += plan_of_scan.step;
            scene.scan(now, plan_of_scan)?;
            // The next scan comes after this one has ended.
            now += plan_of_scan.drain + plan_of_scan.ask;
        }
        quiet(&mut scene, now)?;
        scene.close()?;
    }

    /// A watchdog that wakes when it meant to finds each stall while it lasts, at most a quarter of
    /// a threshold late.
    #[test]
    fn scans_at_the_due_moments_are_in_time(threads in vec(vec(plan(), 0..8), 1..4)) {
        let (mut scene, mut now) = (Scene::new(&threads), 0);
        while now <= scene.end() {
            let scan = scene.scan(now, &ScanPlan { step: 0, drain: 0, ask: 0, unread: None })?;
            let next = scene.tracker.next_scan(now, &scan, &Pauses::default());
            prop_assert!((now + T / 4..=now + T).contains(&next));
            now = next;
        }
        quiet(&mut scene, now)?;
        scene.close()?;
        for reported in scene.reported.values() {
            let truth = scene.truth(reported.key);
            let later = truth.plan.request.filter(|later| *later <= T / LATE_REQUEST).unwrap_or(0);
            let latest = T + later + T / 4;
            match reported.began {
                Some(elapsed) => prop_assert!(elapsed <= latest, "{} late: {:?}", elapsed, truth),
                None => prop_assert!(truth.plan.nanos <= latest, "missed: {:?}", truth),
            }
        }
    }
}

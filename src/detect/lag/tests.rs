use std::sync::Arc;

use super::*;
use crate::detect::track::Poll;
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::runtime::lag::{Lag, LagSource};
use crate::model::id::{FrameNumber, PollKey, ThreadNumber};
use crate::model::lag::ScheduleDelay;

const MS: Nanos = Nanos::from_millis(1);

/// A runtime with a fake probe.
struct Fixture {
    meter: Arc<Meter>,
    runtime: Arc<Runtime>,
    lag: Lag,
    publisher: LagPublisher,
    now: Nanos,
}

impl Fixture {
    fn new() -> Fixture {
        let meter = Meter::of(10 * MS, 10);
        let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
        let lag = LagSource::new(&meter).get("main").unwrap();
        Fixture { meter, runtime, lag, publisher: LagPublisher::default(), now: 10_000 * MS }
    }

    fn step(&mut self, answer: Answer, scan: &ScannedPolls) -> Option<ScheduleDelay> {
        self.step_with_busy(answer, scan, &[])
    }

    /// Publishes the lag while these runtimes have a worker that has not parked.
    fn step_with_busy(&mut self, answer: Answer, scan: &ScannedPolls, busy: &[RuntimeId]) -> Option<ScheduleDelay> {
        self.runtime.probe.pretend(answer);
        self.publisher.probe_sent(&self.runtime);
        self.now += 20 * MS;
        self.publisher.publish(&self.meter, self.now, scan, busy, |_| 1);
        self.lag.read()?.schedule_delay
    }

    /// A poll of the runtime that started at this moment.
    fn poll(&self, number: u64, start: Nanos) -> Poll {
        Poll {
            key: PollKey { thread: ThreadNumber(1), number: FrameNumber(number) },
            start,
            runtime: self.runtime.id,
            site: crate::model::id::SiteId::OTHER,
            watched: None,
            request: None,
            parent_route: None,
            task: TaskBits::NONE,
            allowed_since: None,
            account: None,
            is_root: false,
        }
    }

    fn is_late(&self) -> bool {
        self.publisher.late().next().is_some()
    }
}

#[test]
fn answers_are_published() {
    let mut fixture = Fixture::new();
    let delay = fixture.step(Answer::After(60 * MS), &ScannedPolls::default()).unwrap();
    assert!(delay.delay.as_millis().abs_diff(60) <= 1 && !delay.is_lower_bound, "{delay:?}");
    assert_eq!(fixture.lag.read().unwrap().blocked_workers, 1);
    // A withdrawn probe says nothing: the latest answer stays until it expires.
    assert_eq!(fixture.step(Answer::Withdrawn, &ScannedPolls::default()), Some(delay));
}

#[test]
fn a_wait_counts_by_the_polls_that_started_meanwhile() {
    let mut fixture = Fixture::new();
    let sent = fixture.meter.clock.now();
    let mut scan = ScannedPolls::default();
    let poll = |number, after: Nanos| fixture.poll(number, fixture.meter.clock.nanos(sent) + after);
    let polls = [poll(1, Nanos::ZERO), poll(2, 10 * MS), poll(3, 30 * MS)];
    scan.running.push(polls[0]);
    assert_eq!(fixture.step(Answer::Waiting(sent), &scan), None, "it may be the next");
    scan.running.push(polls[1]);
    assert_eq!(fixture.step(Answer::Waiting(sent), &scan), None, "a short wait is not published");
    scan.running.push(polls[2]);
    let delay = fixture.step(Answer::Waiting(sent), &scan).unwrap();
    assert!(delay.is_lower_bound && delay.delay.as_millis().abs_diff(30) <= 1, "{delay:?}");
}

#[test]
fn a_late_runtime_is_probed_for_a_while() {
    let mut fixture = Fixture::new();
    fixture.step(Answer::After(MS / 2), &ScannedPolls::default());
    assert!(!fixture.is_late());
    let busy = [fixture.runtime.id];
    fixture.step_with_busy(Answer::After(60 * MS), &ScannedPolls::default(), &busy);
    for _ in 0..190 {
        fixture.step(Answer::After(Nanos::ZERO), &ScannedPolls::default());
        assert!(fixture.is_late());
    }
    for _ in 0..20 {
        fixture.step(Answer::After(Nanos::ZERO), &ScannedPolls::default());
    }
    assert!(!fixture.is_late());
}

/// On a machine without free CPUs, waking an idle worker takes longer than a millisecond.
#[test]
fn probes_of_an_idle_runtime_do_not_renew_themselves() {
    let mut fixture = Fixture::new();
    fixture.step(Answer::After(60 * MS), &ScannedPolls::default());
    assert!(!fixture.is_late(), "no poll was met before");
    let scan = ScannedPolls { running: vec![fixture.poll(1, fixture.now)], ..ScannedPolls::default() };
    fixture.step(Answer::Waiting(fixture.meter.clock.now()), &scan);
    fixture.step(Answer::After(60 * MS), &ScannedPolls::default());
    assert!(fixture.is_late(), "a poll was met since the previous answer");
    for _ in 0..190 {
        fixture.step(Answer::After(2 * MS), &ScannedPolls::default());
        assert!(fixture.is_late());
    }
    for _ in 0..20 {
        fixture.step(Answer::After(2 * MS), &ScannedPolls::default());
    }
    assert!(!fixture.is_late());
}

#[test]
fn nothing_is_published_without_a_reader() {
    let mut fixture = Fixture::new();
    fixture.step(Answer::After(60 * MS), &ScannedPolls::default());
    LagPublisher::clear(&fixture.meter);
    assert_eq!(fixture.lag.read(), None);
    fixture.lag = LagSource::new(&fixture.meter).get("other").unwrap();
    fixture.step(Answer::After(60 * MS), &ScannedPolls::default());
    fixture.lag = LagSource::new(&fixture.meter).get("main").unwrap();
    assert_eq!(fixture.lag.read(), None);
}

#[test]
fn an_answer_is_not_published_to_a_later_reader() {
    let mut fixture = Fixture::new();
    fixture.runtime.probe.pretend(Answer::After(60 * MS));
    fixture.publisher.probe_sent(&fixture.runtime);
    // The reader leaves, while the lag of another runtime has one.
    fixture.lag = LagSource::new(&fixture.meter).get("other").unwrap();
    fixture.publisher.publish(&fixture.meter, fixture.now, &ScannedPolls::default(), &[], |_| 0);
    let later = LagSource::new(&fixture.meter).get("main").unwrap();
    fixture.publisher.publish(&fixture.meter, fixture.now, &ScannedPolls::default(), &[], |_| 0);
    assert_eq!(later.read().unwrap().schedule_delay, None);
}

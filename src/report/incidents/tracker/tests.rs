use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn blocked(runtime: &str, age: Duration) -> IncidentCondition {
    let reason = format!("{runtime} is blocked for {age:?}");
    let (kind, runtime) = (IncidentKind::WorkersBlocked, runtime.into());
    IncidentCondition { kind, runtime, age, confirmed_age: None, reason, stall: None }
}

/// A step of which all the time counts.
fn whole(elapsed: Duration) -> StepTime {
    StepTime { elapsed, observed: elapsed }
}

/// Steps once a second while a condition lasts. Returns the numbers of the steps and their changes.
fn changes(tracker: &mut IncidentTracker, steps: u32) -> Vec<(u32, Vec<IncidentChange>)> {
    let step = |second: u32| (second, tracker.step(whole(SECOND), vec![blocked("main", second * SECOND)]));
    (1..=steps).map(step).filter(|(_, changes)| !changes.is_empty()).collect()
}

fn due(rules: &[usize]) -> impl Fn(&IncidentChange) -> bool {
    move |change| matches!(change, IncidentChange::Due { rules: found, .. } if found == rules)
}

#[test]
fn each_action_is_due_once_and_never_too_early() {
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![3 * SECOND, 8 * SECOND, 3 * SECOND]);
    let changes = changes(&mut tracker, 20);
    let steps: Vec<_> = changes.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [3, 8], "after 3 s and 8 s");
    let (first, second) = (&changes[0].1, &changes[1].1);
    assert!(matches!(first[0], IncidentChange::Started { id: 1, .. }), "{first:?}");
    assert!(first.len() == 2 && due(&[0, 2])(&first[1]), "{first:?}");
    assert!(second.len() == 1 && due(&[1])(&second[0]), "{second:?}");
    assert_eq!((tracker.recent().len(), tracker.recent()[0].duration), (1, 20 * SECOND));
    assert_eq!(tracker.step(whole(SECOND), vec![]), [IncidentChange::Ended { id: 1 }]);
    assert_eq!(tracker.recent()[0].phase, Phase::Resolved);
    assert!(!tracker.has_conditions());
}

#[test]
fn without_an_action_the_limit_of_health_counts() {
    let mut tracker = IncidentTracker::new(5 * SECOND, Vec::new());
    let changes = changes(&mut tracker, 20);
    assert!(matches!(&changes[..], [(5, only)] if only.len() == 1), "{changes:?}");
    let key = ConditionKey { runtime: "main".into(), kind: IncidentKind::WorkersBlocked };
    assert_eq!(tracker.counts(), [IncidentCount { key, count: 1, is_ongoing: true }]);
}

/// After SIGCONT, a poll that was running has lasted as long as the process was stopped.
#[test]
fn time_in_which_the_process_was_stopped_does_not_count() {
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![5 * SECOND]);
    assert_eq!(tracker.step(whole(SECOND), vec![blocked("main", 100 * SECOND)]), []);
    let stopped = StepTime { elapsed: 100 * SECOND, observed: Duration::ZERO };
    assert_eq!(tracker.step(stopped, vec![blocked("main", 200 * SECOND)]), []);
    assert_eq!(tracker.next_due(), Some(4 * SECOND), "the condition lasts, and has been observed for a second");
    assert_eq!(tracker.step(whole(SECOND), vec![]), []);
    assert_eq!(tracker.next_due(), None);
}

/// The workers of a busy runtime may be blocked at each step, by another poll each time.
#[test]
fn short_conditions_in_a_row_are_no_incident() {
    let mut tracker = IncidentTracker::new(5 * SECOND, Vec::new());
    for _ in 0..100 {
        assert_eq!(tracker.step(whole(SECOND), vec![blocked("main", SECOND / 2)]), []);
        assert_eq!(tracker.step(whole(SECOND), vec![blocked("main", SECOND / 3)]), []);
    }
}

/// All workers are blocked for 150 ms again and again, and a step comes each 50 ms: when a block is
/// over, the next one is 40 ms old at the next step.
#[test]
fn a_block_that_follows_another_one_at_once_is_another_condition() {
    let millis = Duration::from_millis;
    let mut tracker = IncidentTracker::new(millis(200), Vec::new());
    for _ in 0..20 {
        for age in [40, 90, 140] {
            assert_eq!(tracker.step(whole(millis(50)), vec![blocked("main", millis(age))]), []);
        }
    }
    // The machine delays each step by 150 ms, of which 50 ms count.
    let late = StepTime { elapsed: millis(200), observed: millis(100) };
    for _ in 0..20 {
        assert_eq!(tracker.step(late, vec![blocked("main", millis(110))]), []);
    }
    // An age that is an estimate may fall a little, of a block that lasts.
    tracker.step(whole(millis(50)), Vec::new());
    let ages = [40, 75, 140, 175, 240];
    let changes: Vec<_> = ages.map(|age| tracker.step(whole(millis(50)), vec![blocked("main", millis(age))])).concat();
    assert!(matches!(changes[..], [IncidentChange::Started { .. }]), "{changes:?}");
}

/// Two of four workers have to be blocked. Three are, since 10, 8 and 6 s, and then the longest
/// block ends.
/// On a busy machine the first step may read its conditions long after it has read the clock.
#[test]
fn no_condition_is_older_than_its_age() {
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![6 * SECOND]);
    assert_eq!(tracker.step(whole(4 * SECOND), vec![blocked("main", 4 * SECOND)]), []);
    let started = tracker.step(whole(4 * SECOND), vec![blocked("main", 5 * SECOND)]);
    assert!(matches!(&started[..], [IncidentChange::Started { id: 1, .. }]), "{started:?}");
    assert_eq!(tracker.recent()[0].duration, 5 * SECOND);
    assert_eq!(tracker.next_due(), Some(SECOND));
}

#[test]
fn a_condition_whose_age_falls_is_not_over() {
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![12 * SECOND]);
    for second in 1..=8 {
        tracker.step(whole(SECOND), vec![blocked("main", second * SECOND)]);
    }
    assert_eq!(tracker.step(whole(SECOND), vec![blocked("main", 7 * SECOND)]), []);
    let condition = blocked("main", 7 * SECOND);
    assert_eq!(tracker.observed(&condition, Instant::now()), Some(9 * SECOND));
    assert_eq!(tracker.step(whole(2 * SECOND), vec![blocked("main", 9 * SECOND)]), []);
    let changes = tracker.step(whole(SECOND), vec![blocked("main", 10 * SECOND)]);
    assert!(changes.len() == 1 && due(&[0])(&changes[0]), "{changes:?}");
    assert_eq!((tracker.recent().len(), tracker.recent()[0].duration), (1, 12 * SECOND));
    // One that has started after the latest step is another one.
    let later = Instant::now() + SECOND;
    assert_eq!(tracker.observed(&blocked("main", SECOND / 2), later), None);
    assert_eq!(tracker.observed(&blocked("main", SECOND), later), None, "it has started just after it");
    assert_eq!(tracker.observed(&blocked("main", 2 * SECOND), later), Some(12 * SECOND));
}

#[test]
fn another_condition_of_the_same_runtime_is_another_incident() {
    let mut tracker = IncidentTracker::new(2 * SECOND, vec![2 * SECOND]);
    tracker.step(whole(SECOND), vec![blocked("main", SECOND)]);
    tracker.step(whole(2 * SECOND), vec![blocked("main", 3 * SECOND), blocked("other", SECOND)]);
    let changes = tracker.step(whole(SECOND), vec![blocked("other", 2 * SECOND), blocked("main", SECOND / 2)]);
    assert_eq!(changes[0], IncidentChange::Ended { id: 1 });
    assert!(matches!(changes[1], IncidentChange::Started { id: 2, .. }) && due(&[0])(&changes[2]), "{changes:?}");
    assert_eq!(changes.len(), 3);
    assert_eq!(tracker.next_due(), Some(3 * SECOND / 2), "main has to wait again");
}

#[test]
fn the_number_of_kept_incidents_is_bounded() {
    let mut tracker = IncidentTracker::new(3 * SECOND / 2, Vec::new());
    let always = |seconds| blocked("always", seconds * SECOND);
    tracker.step(whole(SECOND), vec![always(1)]);
    tracker.step(whole(SECOND), vec![always(2)]);
    for round in 0..2 * MAX_RECENT as u32 {
        tracker.step(whole(SECOND), vec![always(2 * round + 3), blocked("main", SECOND / 2)]);
        tracker.step(whole(SECOND), vec![always(2 * round + 4), blocked("main", 3 * SECOND / 2)]);
    }
    let recent = tracker.recent();
    assert_eq!((recent.len(), recent[0].id, recent.last().unwrap().id), (MAX_RECENT, 1, 2 * MAX_RECENT as u64 + 1));
    assert!(recent[0].phase == Phase::Ongoing, "the ongoing one stays");
}

/// Many runtimes may be blocked at once, by one lock for example.
#[test]
fn each_incident_that_is_ongoing_is_kept_until_its_end() {
    const COUNT: usize = MAX_RECENT + 8;
    let mut tracker = IncidentTracker::new(SECOND, vec![2 * SECOND]);
    let all = |seconds| (0..COUNT).map(|n| blocked(&format!("runtime-{n}"), seconds * SECOND)).collect::<Vec<_>>();
    tracker.step(whole(SECOND), all(1));
    assert_eq!(tracker.step(whole(SECOND), all(2)).iter().filter(|change| due(&[0])(change)).count(), COUNT);
    assert_eq!(tracker.recent().len(), COUNT);
    tracker.step(whole(SECOND), vec![blocked("other", SECOND)]);
    assert!(tracker.counts().iter().all(|count| count.is_ongoing == (&*count.key.runtime == "other")));
    assert_eq!(tracker.recent().len(), MAX_RECENT);
}

/// The readings that find a condition may be rare. It may be over when its duration, counted on,
/// exceeds the limit.
#[test]
fn an_action_waits_until_a_reading_has_found_the_condition_after_its_time() {
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![3 * SECOND]);
    let of = |age: u32, confirmed: u32| {
        let confirmed_age = Some(confirmed * SECOND);
        IncidentCondition { confirmed_age, kind: IncidentKind::DriverUnattended, ..blocked("main", age * SECOND) }
    };
    for age in 1..=4 {
        assert_eq!(tracker.step(whole(SECOND), vec![of(age, 1)]), [], "found at 1 s, and not after that");
        assert_eq!(tracker.awaits_confirmation(), age >= 3, "{age}");
    }
    let changes = tracker.step(whole(SECOND), vec![of(5, 4)]);
    assert!(matches!(changes[0], IncidentChange::Started { .. }) && due(&[0])(&changes[1]), "{changes:?}");
    assert!(!tracker.awaits_confirmation());
    // The other one was over without a reading after its time.
    let mut tracker = IncidentTracker::new(5 * SECOND, vec![3 * SECOND]);
    (1..=4).for_each(|age| drop(tracker.step(whole(SECOND), vec![of(age, 1)])));
    assert_eq!(tracker.step(whole(SECOND), vec![]), []);
}

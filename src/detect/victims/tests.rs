use super::*;

const RUNTIME: RuntimeId = RuntimeId(1);
const THREAD: ThreadNumber = ThreadNumber(1);

fn group(site: u32) -> VictimGroupKey {
    VictimGroupKey::new(None, SiteId(site))
}

/// Returns a tracker with stalls of the thread, from and to these moments.
fn tracker(stalls: &[(u64, u64)]) -> VictimTracker {
    let mut tracker = VictimTracker::default();
    for (index, (start, end)) in stalls.iter().enumerate() {
        let id = StallId(index as u64 + 1);
        tracker.start(StartedSpan { id, thread: THREAD, runtime: RUNTIME, start: Nanos(*start) });
        tracker.end(id, Nanos(end - start), None);
    }
    tracker
}

fn poll(woken: u64, start: u64) -> DelayedStart {
    DelayedStart { thread: THREAD, runtime: RUNTIME, group: group(1), woken: Nanos(woken), start: Nanos(start) }
}

/// Returns the number of victims and the time that they waited, by stall.
fn victims(tracker: &mut VictimTracker) -> Vec<(u64, u64, u64)> {
    let changed = tracker.take_changed(Nanos(1_000)).into_iter();
    changed.map(|(id, victims)| (id.0, victims.total.tasks, victims.total.waited.0)).collect()
}

#[test]
fn a_task_that_was_woken_during_the_stall_waited_until_its_end() {
    let mut tracker = tracker(&[(100, 400)]);
    tracker.add(&poll(150, 410));
    tracker.add(&poll(50, 500));
    assert_eq!(victims(&mut tracker), [(1, 2, 250 + 300)]);
    assert_eq!(victims(&mut tracker), [], "reported once");
    tracker.add(&poll(399, 600));
    assert_eq!(victims(&mut tracker), [(1, 3, 551)]);
}

#[test]
fn a_wait_behind_two_stalls_has_a_part_in_each() {
    let mut tracker = tracker(&[(100, 200), (250, 300)]);
    tracker.add(&poll(120, 310));
    assert_eq!(victims(&mut tracker), [(1, 1, 80), (2, 1, 50)]);
}

#[test]
fn others_did_not_wait_behind_the_stall() {
    let mut tracker = tracker(&[(100, 400)]);
    tracker.add(&poll(400, 500));
    tracker.add(&poll(10, 90));
    tracker.add(&DelayedStart { thread: ThreadNumber(2), ..poll(150, 410) });
    tracker.add(&DelayedStart { runtime: RuntimeId(2), ..poll(150, 410) });
    assert_eq!(victims(&mut tracker), []);
}

#[test]
fn an_ongoing_stall_has_no_victims_yet() {
    let mut tracker = VictimTracker::default();
    tracker.start(StartedSpan { id: StallId(1), thread: THREAD, runtime: RUNTIME, start: Nanos(100) });
    tracker.add(&poll(150, 410));
    assert_eq!(victims(&mut tracker), []);
}

/// Tasks of one route are one group, however many sites they have.
#[test]
fn victims_are_grouped_by_route_or_else_by_site() {
    let mut tracker = tracker(&[(100, 400)]);
    let route = RouteId::from_bits(1);
    for site in 0..100 {
        tracker.add(&DelayedStart { group: VictimGroupKey::new(route, SiteId(site)), ..poll(300, 410) });
    }
    tracker.add(&DelayedStart { group: VictimGroupKey::new(RouteId::from_bits(2), SiteId(1)), ..poll(300, 410) });
    tracker.add(&poll(200, 410));
    tracker.add(&poll(250, 410));
    let [(_, victims)] = &tracker.take_changed(Nanos(1_000))[..] else { panic!("one stall") };
    let mut groups: Vec<_> = victims.groups.iter().map(|(key, count)| (*key, count.tasks, count.waited.0)).collect();
    groups.sort();
    let of_route = |bits| VictimGroupKey::Route(RouteId::from_bits(bits).unwrap());
    let expected = [(of_route(1), 100, 10_000), (of_route(2), 1, 100), (VictimGroupKey::Site(SiteId(1)), 2, 350)];
    assert_eq!((groups, victims.total.tasks), (expected.to_vec(), 103));
}

#[test]
fn groups_and_stalls_are_bounded() {
    let mut tracker = tracker(&[(100, 400)]);
    for site in 0..100 {
        tracker.add(&DelayedStart { group: group(site), ..poll(300, 410) });
    }
    let [(_, victims)] = &tracker.take_changed(Nanos(1_000))[..] else { panic!("one stall") };
    assert_eq!((victims.total.tasks, victims.groups.len()), (100, MAX_GROUPS));
    for id in 2..2 * MAX_STALLS as u64 {
        let started = StartedSpan { id: StallId(id), thread: THREAD, runtime: RUNTIME, start: Nanos(1) };
        tracker.start(started);
        tracker.end(StallId(id), Nanos(1), None);
    }
    assert_eq!((tracker.threads[&THREAD].len(), tracker.ongoing.len()), (MAX_STALLS, 0));
    tracker.take_changed(TRACKED_FOR + Nanos(2));
    assert!(tracker.threads.is_empty(), "after a minute");
}

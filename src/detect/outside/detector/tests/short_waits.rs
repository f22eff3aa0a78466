//! A worker in many short waits, and one that computes.

use super::*;

/// A loop of waits of half a threshold, each followed by a moment of CPU time.
#[test]
fn a_worker_in_many_short_waits_is_observed_once_no_short_polls_explain_it() {
    let mut world = World::computing();
    world.scan();
    let mut scans = 0;
    let mut wait = |world: &mut World| {
        scans += 1;
        world.inspector.blocked_in = Some(BlockedIn { digest: scans / 2, ..WAIT });
        if scans % 2 == 0 {
            world.cpu += Nanos(20_000);
        }
    };
    // 61 ticks of four polls each, all in one location, are no longer than this.
    assert_eq!(started(&world.run(MAX_POLLS * THRESHOLD, &mut wait)), [Certainty::Suspected]);
    let changes = world.run(50 * THRESHOLD, &mut wait);
    assert_eq!(started(&changes), [Certainty::Observed], "{changes:?}");
    let ends = changes.iter().filter(|change| matches!(change, WorkerChange::Ended { .. })).count();
    assert_eq!(ends, 1, "the suspected one: {changes:?}");
    world.published += 1;
    assert!(matches!(world.run(INTERVAL, &mut wait)[..], [WorkerChange::Ended { .. }]));
}

/// The same, but the thread computes.
#[test]
fn a_worker_that_computes_for_long_stays_suspected() {
    let mut world = World::computing();
    world.scan();
    assert_eq!(started(&world.run_busy(400 * THRESHOLD)), [Certainty::Suspected]);
}

/// The same, but the thread waits for a CPU half of the time: its polls may have been short.
#[test]
fn waits_for_a_cpu_are_no_part_of_a_long_poll() {
    let mut world = World::computing();
    world.scan();
    let changes = world.run((MAX_POLLS + 100) * THRESHOLD, |world| {
        world.cpu += Nanos(20_000);
        let is_suspected = world.now > 1_000 * MS + 50 * THRESHOLD;
        world.inspector.run_delay += if is_suspected { INTERVAL / 2 } else { Nanos::ZERO };
    });
    assert_eq!(started(&changes), [Certainty::Suspected]);
}

/// A kernel without scheduler statistics reports no run delays. Then the thread may have waited for
/// a CPU all the time, and polls may have been short.
#[test]
fn waits_of_unknown_kind_are_no_part_of_a_long_poll() {
    let long = (MAX_POLLS + 100) * THRESHOLD;
    let is_suspected_at = 1_000 * MS + 50 * THRESHOLD;
    for [can_read_first, can_read_later] in [[false, false], [false, true], [true, false]] {
        let mut world = World::computing();
        world.inspector.can_read_run_delay = can_read_first;
        world.scan();
        let changes = world.run(long, |world| {
            world.cpu += Nanos(20_000);
            if world.now > is_suspected_at {
                world.inspector.can_read_run_delay = can_read_later;
            }
        });
        assert_eq!(started(&changes), [Certainty::Suspected]);
    }
}

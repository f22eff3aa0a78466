//! Workers that may have been handed on, or have been.

use super::*;

#[test]
fn a_worker_that_may_have_been_handed_on_is_suspected_later() {
    for (is_owner, in_syscall) in [(false, true), (true, false)] {
        let mut world = World::waiting();
        (world.inspector.is_owner, world.inspector.blocked_in) = (is_owner, Some(BlockedIn { in_syscall, ..WAIT }));
        world.scan();
        assert_eq!(world.run(2 * THRESHOLD - INTERVAL, |_| ()), []);
        assert_eq!(started(&world.run(INTERVAL, |_| ())), [Certainty::Suspected]);
        assert_eq!(started(&world.run(2 * THRESHOLD, |_| ())), []);
        // The evidence is complete: the next report is of an observed stall.
        (world.inspector.is_owner, world.inspector.blocked_in) = (true, Some(WAIT));
        let changes = world.run(4 * THRESHOLD, |_| ());
        let expected: &[Certainty] = if in_syscall { &[Certainty::Observed] } else { &[] };
        assert_eq!(started(&changes), expected);
        assert_eq!(matches!(changes[0], WorkerChange::Ended { .. }), in_syscall, "{changes:?}");
    }
}

#[test]
fn figures_published_meanwhile_are_another_threads() {
    let mut world = World::waiting();
    world.inspector.is_owner = false;
    world.scan();
    assert_eq!(started(&world.run(3 * THRESHOLD, |_| ())), [Certainty::Suspected]);
    world.published += 1;
    assert!(matches!(world.run(INTERVAL, |_| ())[..], [WorkerChange::Ended { .. }]));
    world.inspector.is_owner = true;
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), [], "whatever it does now");
    assert_eq!(world.run_busy(100 * THRESHOLD), []);
    world.period.event += 2;
    assert_eq!(started(&world.run(2 * THRESHOLD, |_| ())), [Certainty::Observed], "it is a worker again");
}

#[test]
fn a_thread_that_is_back_in_the_pool_is_no_worker() {
    let mut world = World::waiting();
    world.inspector.blocked_in = Some(BlockedIn { is_shallow: true, ..WAIT });
    assert_eq!(world.run(100 * THRESHOLD, |_| ()), []);
    assert_eq!(world.inspector.inspections, 1, "asked once");
}

/// A call of `block_in_place` is visible on the stack, or the thread is in no worker's loop.
#[test]
fn the_stack_of_a_thread_that_left_its_worker_is_no_suspicion() {
    for (role, inspected) in [(StackRole::HandedOn, 40), (StackRole::NotInLoop, 2)] {
        let mut world = World::waiting();
        (world.inspector.is_owner, world.inspector.stack_role) = (false, Some(role));
        assert_eq!(world.run(10 * THRESHOLD, |_| ()), [], "{role:?}");
        assert!(world.inspector.inspections <= inspected, "{role:?}: {}", world.inspector.inspections);
    }
    // No thread has taken the worker over.
    let mut world = World::waiting();
    world.inspector.stack_role = Some(StackRole::HandedOn);
    world.scan();
    assert_eq!(started(&world.run(THRESHOLD, |_| ())), [Certainty::Observed]);
}

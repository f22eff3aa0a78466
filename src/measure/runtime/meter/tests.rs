use super::*;
use crate::measure::thread::slow_polls::SlowPoll;
use crate::model::id::FrameNumber;

#[test]
#[cfg(unix)]
fn a_forked_child_takes_no_lock() {
    let meter = Meter::of(Nanos(1), 10);
    let thread = meter.register_thread().unwrap();
    let held = lock(&meter.retired);
    assert!(!meter.is_forked());
    let ended = crate::util::in_a_fork(|| {
        meter.retire_thread(&thread);
        meter.is_forked()
    });
    assert_eq!(ended, Some(true));
    drop(held);
}

#[test]
fn what_is_alive_is_summed_over_threads() {
    let meter = Meter::of(Nanos(1), 10);
    let count = |site, events: &[(SiteEvent, u64)], exits: bool| {
        let thread = meter.register_thread().unwrap();
        let index = thread.counters.create(RuntimeId(1), site).unwrap();
        for (event, n) in events {
            (0..*n).for_each(|_| thread.counters.get(index).unwrap().event(*event));
        }
        if exits {
            meter.retire_thread(&thread);
        }
    };
    count(SiteId(1), &[(SiteEvent::Spawned, 5)], false);
    count(SiteId(1), &[(SiteEvent::Spawned, 2), (SiteEvent::Terminated, 3)], true);
    count(SiteId(1), &[(SiteEvent::Terminated, 1)], false);
    count(SiteId(2), &[(SiteEvent::Terminated, 4), (SiteEvent::Panicked, 1)], false);
    count(SiteId::OTHER, &[(SiteEvent::Spawned, 9)], false);
    assert_eq!(meter.alive(), HashMap::from([((RuntimeId(1), SiteId(1)), 3)]));
    count(SiteId(1), &[(SiteEvent::Terminated, 9)], true);
    assert_eq!(meter.alive()[&(RuntimeId(1), SiteId(1))], 0, "never less than none");
}

/// A child that is forked while another thread counts has that lock locked for ever.
#[test]
#[cfg(unix)]
fn a_forked_child_counts_no_allowed_blocking() {
    let meter = Meter::of(Nanos(1), 10);
    let held = lock(&meter.allowed);
    let ended = crate::util::in_a_fork(|| {
        meter.count_allowed("in a child", Nanos(1));
        true
    });
    assert_eq!(ended, Some(true));
    drop(held);
    meter.count_allowed("in the parent", Nanos(2));
    assert_eq!(meter.allowed(), BTreeMap::from([("in the parent", Nanos(2))]));
}

/// The states of threads that have ended are kept only up to a limit.
#[test]
fn each_poll_that_an_ended_thread_loses_is_counted() {
    const LEFT: u64 = 5;
    let meter = Meter::of(Nanos(1), 10);
    for _ in 0..=MAX_DEPARTED {
        let thread = meter.register_thread().unwrap();
        (0..LEFT).for_each(|_| thread.slow_polls.push(SlowPoll::of_words(FrameNumber(1), 2, 3, 5, None)));
        meter.retire_thread(&thread);
    }
    assert_eq!(meter.lost_polls(), LEFT, "one thread too many");
    assert_eq!(meter.take_departed().len(), MAX_DEPARTED);
}

/// The state of a thread is made before the list is locked.
#[test]
fn a_thread_that_registers_while_the_clock_is_replaced_reads_the_new_one() {
    let meter = Meter::of(Nanos(1), 10);
    let state = Arc::new(ThreadState::new(&meter, meter.next_thread_number()));
    meter.clock.give_up_counter();
    meter.list_thread(state.clone()).unwrap();
    assert!(meter.clock.elapsed_since(state.now()) < Nanos::from_secs(3600));
    assert!(state.now().is_of_same_source(meter.clock.now()));
}

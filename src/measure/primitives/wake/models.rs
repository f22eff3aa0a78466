//! Loom models of the flag.
//!
//! loom does not know the process-wide barrier. The barrier makes each running thread execute a
//! fence at some moment between the watchdog's two steps. The models have a fence in the poll
//! instead, between its store and its load, where it matters. That the kernel's barrier is as
//! strong is what membarrier(2) promises; it is not proven here.

use super::*;
use crate::measure::thread::slot::Slot;
use crate::sync::fence;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Does what `ThreadState::push` does. Returns whether it had to wake the watchdog.
fn poll(slot: &Slot, flag: &Flag, watchdog: &thread::Thread) -> bool {
    slot.push(1, 1, 1, None);
    fence(Ordering::SeqCst);
    let wakes = flag.is_up() && flag.take();
    if wakes {
        watchdog.unpark();
    }
    wakes
}

/// A watchdog that sleeps through a poll would sleep for ever. loom reports that as a deadlock.
#[test]
fn no_poll_is_slept_through() {
    let ways = std::sync::Arc::new([const { AtomicU32::new(0) }; 2]);
    let met = ways.clone();
    loom::model(move || {
        let shared = Arc::new((Slot::new(), Flag::new()));
        let theirs = shared.clone();
        let watchdog = thread::current();
        let worker = thread::spawn(move || poll(&theirs.0, &theirs.1, &watchdog));
        let (slot, flag) = &*shared;
        flag.sleep(|| fence(Ordering::SeqCst), || slot.version() == 0, |()| thread::park());
        assert_ne!(slot.version(), 0, "it wakes because a poll was published");
        assert!(!flag.is_up());
        let woken = worker.join().unwrap();
        met[usize::from(woken)].fetch_add(1, Relaxed);
    });
    assert!(ways.iter().all(|way| way.load(Relaxed) > 0), "seen in time, and woken: {ways:?}");
}

/// When two polls start at once, one of them wakes the watchdog.
#[test]
fn one_of_two_polls_wakes_the_watchdog() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new(([Slot::new(), Slot::new()], Flag::new()));
        let workers = [0, 1].map(|i| {
            let (theirs, watchdog) = (shared.clone(), thread::current());
            thread::spawn(move || poll(&theirs.0[i], &theirs.1, &watchdog))
        });
        let (slots, flag) = &*shared;
        flag.sleep(|| fence(Ordering::SeqCst), || slots.iter().all(|slot| slot.version() == 0), |()| thread::park());
        assert!(slots.iter().any(|slot| slot.version() != 0));
        let woken = workers.map(|worker| worker.join().unwrap());
        assert!(woken.iter().filter(|woken| **woken).count() <= 1, "only the thread that lowers the flag wakes it");
    });
}

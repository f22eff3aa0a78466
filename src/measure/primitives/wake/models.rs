//! The process-wide barrier is a call that loom does not know. It makes each thread that runs carry
//! out a fence at some moment between the watchdog's two steps; the models have a fence in the poll
//! instead, at the one place where it matters: between its store and its load. That the kernel's
//! barrier is as good as that is what membarrier(2) promises, and is not proven here.

use super::*;
use crate::measure::thread::slot::Slot;
use crate::sync::fence;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// As `ThreadState::push`. Whether the watchdog had to be woken.
fn poll(slot: &Slot, flag: &Flag, watchdog: &thread::Thread) -> bool {
    slot.push(1, 1, 1, None);
    fence(Ordering::SeqCst);
    let wakes = flag.is_up() && flag.take();
    if wakes {
        watchdog.unpark();
    }
    wakes
}

/// A watchdog that sleeps through a poll would sleep for ever: loom tells of that as a deadlock.
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
        assert_ne!(slot.version(), 0, "it wakes because there is something to see");
        assert!(!flag.is_up());
        let woken = worker.join().unwrap();
        met[usize::from(woken)].fetch_add(1, Relaxed);
    });
    assert!(ways.iter().all(|way| way.load(Relaxed) > 0), "seen in time, and woken: {ways:?}");
}

/// Two polls begin at once: one of them wakes it.
#[test]
fn one_of_two_polls_wakes_it() {
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
        assert!(woken.iter().filter(|woken| **woken).count() <= 1, "whoever lowers the flag wakes it");
    });
}

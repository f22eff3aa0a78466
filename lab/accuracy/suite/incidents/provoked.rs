//! What the injections do to a runtime, with their own record of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use test_support::{Gate, TIMEOUT, spawn_measured};
use tokio::runtime::Handle;

use super::super::ground_truth::{Span, now};
use super::injections::TestedRuntime;

/// The interval of the timer that shows whether the driver is attended.
const TICK: Duration = Duration::from_millis(10);
/// The time for which blocking tasks may wait for a worker.
const START: Duration = Duration::from_secs(2);

/// A task that waits for a timer again and again. It is not polled while nobody attends the driver.
pub(super) struct Ticker {
    stop: Arc<AtomicBool>,
    ticked: Receiver<u64>,
}

impl Ticker {
    pub(super) fn start(runtime: &Handle) -> Ticker {
        let (stop, (tick, ticked)) = (Arc::new(AtomicBool::new(false)), channel());
        let is_stopped = stop.clone();
        runtime.spawn(async move {
            while !is_stopped.load(Ordering::Relaxed) && tick.send(now()).is_ok() {
                tokio::time::sleep(TICK).await;
            }
        });
        Ticker { stop, ticked }
    }

    /// Waits for a tick after the moment `at`. Wakes a worker for it now and then, which then finds
    /// the driver free.
    pub(super) fn await_attended(&self, runtime: &Handle, at: u64) -> Vec<u64> {
        let (start, mut ticks) = (Instant::now(), Vec::new());
        // The first tick may follow from the wake alone.
        while ticks.iter().filter(|tick| **tick > at).count() < 3 && start.elapsed() < START {
            ticks.extend(self.ticked.recv_timeout(TICK * 2).map_err(|_| drop(runtime.spawn(async {}))));
        }
        ticks
    }

    /// Stops the ticker. Returns the times without a tick, of which `earlier` are some, within a
    /// span: the longest first.
    pub(super) fn stop(self, earlier: Vec<u64>, within: Span) -> Vec<Span> {
        self.stop.store(true, Ordering::Relaxed);
        // The channel is closed when the task has ended.
        let ticks: Vec<u64> = earlier.into_iter().chain(self.ticked.iter()).collect();
        gaps(&ticks, within)
    }
}

/// Returns the times between two ticks within a span, the longest first.
fn gaps(ticks: &[u64], within: Span) -> Vec<Span> {
    let inside = ticks.iter().copied().filter(|tick| (within.start..within.end).contains(tick));
    let edges: Vec<u64> = [within.start].into_iter().chain(inside).chain([within.end]).collect();
    let mut gaps: Vec<_> = edges.windows(2).map(|pair| Span { start: pair[0], end: pair[1] }).collect();
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.nanos()));
    gaps
}

/// Tasks that block a worker each.
pub(super) struct BlockedWorkers {
    gate: Gate,
    started: Receiver<u64>,
    ended: Receiver<u64>,
    count: usize,
}

impl BlockedWorkers {
    /// Spawns tasks that block when `delay` has passed on a timer of the runtime.
    pub(super) fn spawn(runtime: &TestedRuntime, count: usize, delay: Option<Duration>) -> BlockedWorkers {
        let (gate, (starts, started), (ends, ended)) = (Gate::new(), channel(), channel());
        for _ in 0..count {
            let (key, starts, ends) = (gate.key(), starts.clone(), ends.clone());
            let blocks = async move {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                let _ = starts.send(now());
                key.pass();
                let _ = ends.send(now());
            };
            spawn_measured(&runtime.watchdog, runtime.runtime.handle(), blocks);
        }
        BlockedWorkers { gate, started, ended, count }
    }

    /// Waits until all block, and returns since when. Wakes a worker now and then, since a task may
    /// wait behind another one that blocks already.
    pub(super) fn wait_blocked(&self, runtime: &Handle) -> Option<Vec<u64>> {
        let (start, mut all) = (Instant::now(), Vec::new());
        while all.len() < self.count {
            match self.started.recv_timeout(TICK) {
                Ok(at) => all.push(at),
                Err(_) if start.elapsed() > START => return None,
                Err(_) => drop(runtime.spawn(async {})),
            }
        }
        Some(all)
    }

    /// Ends the blocks. Returns the moment until which all of them lasted.
    pub(super) fn end(self) -> u64 {
        let end = now();
        self.gate.open();
        for _ in 0..self.count {
            let _ = self.ended.recv_timeout(TIMEOUT);
        }
        end
    }
}

/// The start of a deadlock, by one participant or by both.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeadlockStart {
    /// The moment at which a worker was blocked, by a participant that waits for the other one to
    /// start. Zero for a thread of no runtime.
    pub(super) entered: u64,
    pub(super) waits: u64,
}

/// Two locks, each held by a participant of a deadlock that waits for the other one.
pub(super) struct Deadlocked {
    mutexes: Arc<[parking_lot::Mutex<()>; 2]>,
    started: Receiver<DeadlockStart>,
    ended: Receiver<u64>,
}

impl Deadlocked {
    /// Lets two tasks wait for each other, or a task and a thread of no runtime.
    pub(super) fn spawn(runtime: &TestedRuntime) -> Deadlocked {
        let (mutexes, both) = (Arc::new([(), ()].map(parking_lot::Mutex::new)), Arc::new(Barrier::new(2)));
        let ((starts, started), (ends, ended)) = (channel(), channel());
        for first in [0, 1] {
            let (mutexes, both) = (mutexes.clone(), both.clone());
            let (starts, ends) = (starts.clone(), ends.clone());
            let is_no_worker = first == 1 && runtime.workers == 1;
            let participate = move || {
                let entered = if is_no_worker { 0 } else { now() };
                locks_both(
                    &mutexes,
                    first,
                    &both,
                    || starts.send(DeadlockStart { entered, waits: now() }).is_ok(),
                    &ends,
                )
            };
            if is_no_worker {
                std::thread::Builder::new().name("participant".into()).spawn(participate).expect("starts");
            } else {
                spawn_measured(&runtime.watchdog, runtime.runtime.handle(), async move { participate() });
            }
        }
        Deadlocked { mutexes, started, ended }
    }

    /// Waits until both wait for each other, and returns since when. A worker is woken now and
    /// then, as for blocked workers.
    pub(super) fn wait_blocked(&self, runtime: &Handle) -> DeadlockStart {
        let (start, mut latest, mut count) = (Instant::now(), DeadlockStart::default(), 0);
        while count < 2 {
            match self.started.recv_timeout(TICK) {
                Ok(DeadlockStart { entered, waits }) => {
                    latest.entered = latest.entered.max(entered);
                    latest.waits = latest.waits.max(waits);
                    count += 1;
                }
                Err(_) => drop(runtime.spawn(async {})),
            }
            assert!(start.elapsed() < TIMEOUT, "a participant finds no worker");
        }
        latest
    }

    /// Ends the deadlock, and returns the moment until which it lasted.
    pub(super) fn end(self) -> u64 {
        let end = now();
        // SAFETY: the mutex protects nothing. It is locked on behalf of the participant that locked
        // it first, which waits for the other one and forgets its guard.
        unsafe { self.mutexes[1].force_unlock() };
        for _ in 0..2 {
            let _ = self.ended.recv_timeout(TIMEOUT);
        }
        end
    }
}

/// Locks the mutex `first`, and then the other one, which the other participant holds.
#[inline(never)]
fn locks_both(
    mutexes: &[parking_lot::Mutex<()>; 2],
    first: usize,
    both: &Barrier,
    waits: impl FnOnce() -> bool,
    ends: &Sender<u64>,
) {
    let held = mutexes[first].lock();
    both.wait();
    waits();
    let other = mutexes[1 - first].lock();
    let _ = ends.send(now());
    if first == 1 {
        // It was unlocked to end the deadlock, and the other participant has locked it since.
        std::mem::forget(held);
    }
    drop(other);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_a_tick_is_found() {
        let gap = |ticks: &[u64]| gaps(ticks, Span { start: 10, end: 50 })[0];
        assert_eq!(gap(&[]), Span { start: 10, end: 50 });
        assert_eq!(gap(&[5, 15, 25, 60]), Span { start: 25, end: 50 });
        assert_eq!(gap(&[5, 40]), Span { start: 10, end: 40 });
    }
}

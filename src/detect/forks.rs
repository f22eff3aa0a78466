//! The forks of this process: those in progress, and the latest that have ended.
//!
//! A fork holds the lock of the process' memory map, and makes memory write-protected as it copies
//! the page tables. Until it ends, any other thread that writes to such memory waits for it, the
//! watchdog thread too. So the watchdog oversleeps as if the whole process were stopped. Only the
//! thread that forks knows better: it records the start and the end of the fork, in handlers of
//! `pthread_atfork`. They take no lock, allocate nothing and wait for nothing.
//!
//! The watchdog may run again before the handler after the fork does. So a fork counts as soon as
//! it has started, and until now if its end is not recorded.
//!
//! `posix_spawn`, which most of `std::process::Command` uses, copies no page tables, and calls no
//! handlers.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Once, OnceLock};
use std::time::Instant;

use pollwatch_stack::Tid;

use crate::model::time::Nanos;

/// The number of forks that are remembered.
const MAX_FORKS: usize = 16;

/// A fork in a seqlock whose version is its start. The thread that forks writes it.
///
/// More threads than there are slots may fork at once, and two of them then write to one slot. One
/// of the two forks is lost then.
struct ForkSlot {
    /// The moment of the start; 0 while the slot is empty or being written.
    start: AtomicU64,
    /// The moment of the end; 0 while the fork is in progress.
    end: AtomicU64,
    tid: AtomicI32,
}

/// A fork as it is read. Moments are counted from [`Epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fork {
    start: Nanos,
    /// `None` while the fork is in progress.
    end: Option<Nanos>,
    tid: Tid,
}

impl ForkSlot {
    const fn empty() -> ForkSlot {
        ForkSlot { start: AtomicU64::new(0), end: AtomicU64::new(0), tid: AtomicI32::new(0) }
    }

    fn write_start(&self, start: Nanos, tid: Tid) {
        self.start.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.end.store(0, Ordering::Relaxed);
        self.tid.store(tid.as_raw(), Ordering::Relaxed);
        self.start.store(start.0, Ordering::Release);
    }

    /// Records the end of the fork that has this start, unless another one has replaced it.
    fn write_end(&self, start: Nanos, end: Nanos) {
        if self.start.load(Ordering::Relaxed) == start.0 {
            self.end.store(end.0, Ordering::Release);
        }
    }

    fn read(&self) -> Option<Fork> {
        let start = self.start.load(Ordering::Acquire);
        let (end, tid) = (self.end.load(Ordering::Relaxed), self.tid.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_consistent = start != 0 && self.start.load(Ordering::Relaxed) == start;
        let end = (end != 0).then_some(Nanos(end));
        is_consistent.then_some(Fork { start: Nanos(start), end, tid: Tid::from_raw(tid) })
    }
}

impl Fork {
    /// Returns how much of `from..to` the fork took.
    fn within(&self, from: Nanos, to: Nanos) -> Nanos {
        self.end.unwrap_or(to).min(to).saturating_sub(self.start.max(from))
    }
}

/// The latest forks, each in the slot that was the oldest one's.
static FORKS: [ForkSlot; MAX_FORKS] = [const { ForkSlot::empty() }; MAX_FORKS];

/// The number of forks so far.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The moment from which others are counted. It is set before any handler runs.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// A fork that this thread has started.
#[derive(Clone, Copy)]
struct OwnFork {
    slot: usize,
    start: Nanos,
}

thread_local! {
    static OWN: Cell<Option<OwnFork>> = const { Cell::new(None) };
}

/// Returns the current moment, which is not 0; `None` before forks are recorded.
fn now() -> Option<Nanos> {
    EPOCH.get().map(|epoch| Nanos::from(epoch.elapsed()).max(Nanos(1)))
}

/// Installs the handlers. Calls after the first do nothing.
pub(crate) fn record_from_now_on() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        EPOCH.get_or_init(Instant::now);
        #[cfg(target_os = "linux")]
        // SAFETY: the handlers are functions of this library, which call nothing that may not be
        // called around a fork. Without them (no memory) forks are not recorded.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
        }
    });
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn before_fork() {
    let Some((start, tid)) = now().zip(Tid::current()) else { return };
    let slot = COUNT.fetch_add(1, Ordering::Relaxed) % MAX_FORKS;
    FORKS[slot].write_start(start, tid);
    let _ = OWN.try_with(|own| own.set(Some(OwnFork { slot, start })));
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn after_fork() {
    let Ok(Some(own)) = OWN.try_with(Cell::take) else { return };
    if let Some(end) = now() {
        FORKS[own.slot].write_end(own.start, end);
    }
}

/// The child has none of its parent's forks, and those in progress would never end in it.
#[cfg(target_os = "linux")]
unsafe extern "C" fn in_child() {
    let _ = OWN.try_with(Cell::take);
    FORKS.iter().for_each(|slot| slot.start.store(0, Ordering::Relaxed));
}

/// A time in the past, by its distances from now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastTime {
    pub(crate) started_ago: Nanos,
    /// Zero for a time that is not over.
    pub(crate) ended_ago: Nanos,
}

/// Returns how much of a time the longest fork took, of those that `is_selected` selects. `None`
/// when there was none.
fn longest(time: PastTime, is_selected: impl Fn(&Fork) -> bool) -> Option<Nanos> {
    let now = now()?;
    let (from, to) = (now.saturating_sub(time.started_ago), now.saturating_sub(time.ended_ago));
    let forks = FORKS.iter().filter_map(ForkSlot::read).filter(is_selected);
    forks.map(|fork| fork.within(from, to)).max().filter(|time| *time > Nanos::ZERO)
}

/// Returns how much of the time from `length` ago until now the longest fork took. `None` when
/// there was none.
pub(crate) fn longest_within(length: Nanos) -> Option<Nanos> {
    longest(PastTime { started_ago: length, ended_ago: Nanos::ZERO }, |_| true)
}

/// Returns how much of a time the longest fork of a thread took. `None` when there was none.
pub(crate) fn longest_of(tid: Tid, time: PastTime) -> Option<Nanos> {
    longest(time, |fork| fork.tid == tid)
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn since(start: Instant) -> PastTime {
        PastTime { started_ago: Nanos::from(start.elapsed()), ended_ago: Nanos::ZERO }
    }

    fn fork(in_child: impl FnOnce() -> bool) -> bool {
        crate::util::in_a_fork(in_child).expect("a child that ends")
    }

    #[test]
    fn a_fork_is_recorded() {
        record_from_now_on();
        let (start, own) = (Instant::now(), Tid::current().unwrap());
        assert!(fork(|| true));
        let time = longest_of(own, since(start)).expect("a fork of this thread");
        assert!(time <= Nanos::from(start.elapsed()), "{time:?}");
        assert!(longest_within(start.elapsed().into()).is_some_and(|longest| longest >= time));
        let after = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(longest_of(own, since(after)), None, "it has ended before");
        let earlier = Nanos::from(start.elapsed()) + Nanos::from_secs(10);
        let before = PastTime { started_ago: earlier + Nanos::from_secs(10), ended_ago: earlier };
        assert_eq!(longest_of(own, before), None, "it has started later");
    }

    /// The watchdog may run before the handler after the fork does.
    #[test]
    fn a_fork_in_progress_counts_until_now() {
        record_from_now_on();
        let own = Tid::current().unwrap();
        let start = Instant::now();
        // SAFETY: the handlers call nothing that may not be called at any time.
        unsafe { before_fork() };
        std::thread::sleep(Duration::from_millis(5));
        let time = longest_of(own, since(start));
        let in_progress = OWN.get();
        let child_has_none = fork(|| longest_within(Nanos::from_secs(60)).is_none());
        // The fork in the test ends before the assertions, also for other tests of this process.
        OWN.set(in_progress);
        // SAFETY: as above.
        unsafe { after_fork() };
        assert!(time.expect("a fork in progress") >= Nanos::from_millis(5), "{time:?}");
        assert!(child_has_none, "a child has no fork in progress");
        let after = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(longest_of(own, since(after)), None, "it has ended");
    }

    #[test]
    fn the_part_of_a_fork_within_a_time() {
        let fork = |start, end| Fork { start: Nanos(start), end, tid: Tid::from_raw(1) };
        let within = |fork: Fork, from, to| fork.within(Nanos(from), Nanos(to)).0;
        assert_eq!(within(fork(10, Some(Nanos(20))), 0, 100), 10);
        assert_eq!(within(fork(10, Some(Nanos(20))), 15, 100), 5);
        assert_eq!(within(fork(10, Some(Nanos(20))), 0, 12), 2);
        assert_eq!(within(fork(10, Some(Nanos(20))), 30, 100), 0);
        assert_eq!(within(fork(10, None), 0, 100), 90);
    }

    #[test]
    fn a_slot_that_another_fork_has_taken_keeps_it() {
        let slot = ForkSlot::empty();
        assert_eq!(slot.read(), None);
        slot.write_start(Nanos(5), Tid::from_raw(1));
        slot.write_start(Nanos(7), Tid::from_raw(2));
        slot.write_end(Nanos(5), Nanos(9));
        assert_eq!(slot.read(), Some(Fork { start: Nanos(7), end: None, tid: Tid::from_raw(2) }));
        slot.write_end(Nanos(7), Nanos(9));
        assert_eq!(slot.read(), Some(Fork { start: Nanos(7), end: Some(Nanos(9)), tid: Tid::from_raw(2) }));
    }
}

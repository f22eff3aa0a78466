//! Liveness of a runtime: whether a thread still drives a runtime that was observed to poll. Pure.
//!
//! A scan may fall between two polls, also where polls follow each other without a gap. The version
//! of the thread's slot then shows that there were some.

use crate::model::id::ThreadNumber;
use crate::model::time::Nanos;

/// No thread drives the runtime once its slot has not changed for this time.
const MAX_UNCHANGED: Nanos = Nanos::from_millis(100);
/// No thread drives the runtime once no scan has met a poll of it for this time: the thread may
/// have turned to another runtime.
const MAX_UNOBSERVED: Nanos = Nanos::from_secs(1);

/// The latest signs that a thread drives one runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeLiveness {
    /// The thread that the runtime was last observed to poll on.
    thread: Option<PollingThread>,
    /// The moment at which that thread's slot was last found changed.
    changed_at: Nanos,
    /// The moment at which a poll of the runtime was last observed.
    observed_at: Nanos,
}

/// A thread and the version of its slot at the latest scan, if it could be read.
#[derive(Clone, Copy, Debug)]
struct PollingThread {
    number: ThreadNumber,
    slot_version: Option<u64>,
}

impl RuntimeLiveness {
    /// The state at the moment `now`, with the thread of a running poll, if there is one.
    pub(crate) fn new(now: Nanos, thread: Option<ThreadNumber>) -> RuntimeLiveness {
        let thread = thread.map(|number| PollingThread { number, slot_version: None });
        RuntimeLiveness { thread, changed_at: now, observed_at: now }
    }

    /// Takes in a scan: the thread of a running poll, and the versions of slots. Returns whether a
    /// thread drives the runtime.
    pub(crate) fn observe(
        &mut self,
        now: Nanos,
        poll: Option<ThreadNumber>,
        slot_version: impl Fn(ThreadNumber) -> Option<u64>,
    ) -> bool {
        if let Some(number) = poll {
            let thread = Some(PollingThread { number, slot_version: slot_version(number) });
            *self = RuntimeLiveness { thread, changed_at: now, observed_at: now };
            return true;
        }
        if let Some(thread) = &mut self.thread {
            let version = slot_version(thread.number);
            // A thread that has exited does not drive the runtime.
            if version.is_some() && version != thread.slot_version {
                self.changed_at = now;
            }
            thread.slot_version = version;
        }
        now.saturating_sub(self.changed_at) < MAX_UNCHANGED && now.saturating_sub(self.observed_at) < MAX_UNOBSERVED
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: Nanos = Nanos::from_millis(1);
    const THREAD: ThreadNumber = ThreadNumber(7);

    fn driven() -> RuntimeLiveness {
        RuntimeLiveness::new(Nanos::ZERO, Some(THREAD))
    }

    #[test]
    fn between_two_polls_it_is_driven() {
        let mut runtime = driven();
        for i in 1..1_000 {
            // Only each tenth scan meets a poll; the slot has changed at each second one.
            let poll = (i % 10 == 0).then_some(THREAD);
            assert!(runtime.observe(i * 20 * MS, poll, |thread| (thread == THREAD).then_some(i / 2)), "{i}");
        }
    }

    #[test]
    fn a_thread_that_does_nothing_drives_nothing() {
        let mut runtime = driven();
        assert!(runtime.observe(20 * MS, Some(THREAD), |_| Some(1)));
        // The poll's end is a change, the last one.
        assert!(runtime.observe(40 * MS, None, |_| Some(2)));
        assert!(runtime.observe(139 * MS, None, |_| Some(2)));
        assert!(!runtime.observe(140 * MS, None, |_| Some(2)));
    }

    #[test]
    fn a_thread_that_exited_or_polls_others_drives_nothing() {
        let mut exited = driven();
        assert!(exited.observe(20 * MS, Some(THREAD), |_| Some(1)));
        assert!(exited.observe(40 * MS, None, |_| None) && !exited.observe(120 * MS, None, |_| None));
        let mut others = driven();
        let ends = (1..).find(|i| !others.observe(i * 20 * MS, None, |_| Some(*i)));
        assert_eq!(ends, Some(50));
        let mut never = RuntimeLiveness::new(Nanos::ZERO, None);
        assert!(!never.observe(100 * MS, None, |_| Some(1)), "it was never observed to poll");
    }
}

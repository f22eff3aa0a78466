//! Liveness of a runtime: whether a thread still drives a runtime that was observed to poll. Pure.
//!
//! A scan may fall between two polls, also where they follow each other without a pause. The state
//! of the thread's slot then shows that there were some.

/// After this time without a change, no thread drives the runtime.
const STILL: u64 = 100_000_000;
/// A thread may go on with something else: after this time without a poll of the runtime, no thread
/// drives it.
const UNSEEN: u64 = 1_000_000_000;

/// What is kept of one runtime from one scan to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeLiveness {
    /// The thread that the runtime was last observed to poll on, with the state of its slot.
    thread: Option<(u64, Option<u64>)>,
    moved: u64,
    seen: u64,
}

impl RuntimeLiveness {
    /// Starts at `now`, with the thread of a poll, if there is one.
    pub(crate) fn new(now: u64, thread: Option<u64>) -> RuntimeLiveness {
        RuntimeLiveness { thread: thread.map(|thread| (thread, None)), moved: now, seen: now }
    }

    /// Takes in a scan: the thread of a running poll, and the states of slots. Returns whether a
    /// thread drives the runtime.
    pub(crate) fn observe(&mut self, now: u64, poll: Option<u64>, state: impl Fn(u64) -> Option<u64>) -> bool {
        if let Some(thread) = poll {
            *self = RuntimeLiveness { thread: Some((thread, state(thread))), moved: now, seen: now };
            return true;
        }
        if let Some((thread, before)) = &mut self.thread {
            let now_at = state(*thread);
            // A thread that is gone does not drive it.
            if now_at.is_some() && now_at != *before {
                self.moved = now;
            }
            *before = now_at;
        }
        now.saturating_sub(self.moved) < STILL && now.saturating_sub(self.seen) < UNSEEN
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn between_two_polls_it_is_driven() {
        let mut runtime = RuntimeLiveness::new(0, Some(7));
        for i in 1..1_000 {
            // A poll is seen at each tenth scan only; the slot has moved at each second one.
            let poll = (i % 10 == 0).then_some(7);
            assert!(runtime.observe(i * 20 * MS, poll, |thread| (thread == 7).then_some(i / 2)), "{i}");
        }
    }

    #[test]
    fn a_thread_that_does_nothing_drives_nothing() {
        let mut runtime = RuntimeLiveness::new(0, Some(7));
        assert!(runtime.observe(20 * MS, Some(7), |_| Some(1)));
        // The poll's end is a change, the last one.
        assert!(runtime.observe(40 * MS, None, |_| Some(2)));
        assert!(runtime.observe(139 * MS, None, |_| Some(2)));
        assert!(!runtime.observe(140 * MS, None, |_| Some(2)));
    }

    #[test]
    fn nor_does_one_that_is_gone_or_polls_others() {
        let mut gone = RuntimeLiveness::new(0, Some(7));
        assert!(gone.observe(20 * MS, Some(7), |_| Some(1)));
        assert!(gone.observe(40 * MS, None, |_| None) && !gone.observe(120 * MS, None, |_| None));
        let mut others = RuntimeLiveness::new(0, Some(7));
        let ends = (1..).find(|i| !others.observe(i * 20 * MS, None, |_| Some(*i)));
        assert_eq!(ends, Some(50));
        assert!(!RuntimeLiveness::new(0, None).observe(100 * MS, None, |_| Some(1)), "never seen to poll");
    }
}

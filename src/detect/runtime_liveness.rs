//! Whether a runtime that was seen to poll is still driven by a thread. Pure: what was seen and times in, yes or no out.
//!
//! Between two polls there is none to be seen, also where they follow each other without a pause: only the slot of the thread
//! tells that there were some.

/// After this long without a sign of life, nobody drives it.
const STILL: u64 = 100_000_000;
/// The thread may have gone on with something else: without a poll of its own in this time, nobody drives it.
const UNSEEN: u64 = 1_000_000_000;

/// What is kept of one runtime from one look to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeLiveness {
    /// The thread that it was last seen to poll on, with the state of its slot.
    thread: Option<(u64, Option<u64>)>,
    moved: u64,
    seen: u64,
}

impl RuntimeLiveness {
    /// From `now` on, with a poll on this thread, if there is one.
    pub(crate) fn new(now: u64, thread: Option<u64>) -> RuntimeLiveness {
        RuntimeLiveness { thread: thread.map(|thread| (thread, None)), moved: now, seen: now }
    }

    /// Takes in a look: the thread of a poll that was seen, and the states of slots. Whether it is still driven.
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
            // A poll is seen at each tenth look only; the slot has moved at each second one.
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

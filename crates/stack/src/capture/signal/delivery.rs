//! The cases in which the signal does not arrive: a later handler that does not chain to this one,
//! and threads that block the signal.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SIGNAL;
use crate::{CaptureError, Tid, procfs};

/// The number of unanswered requests in a row after which a handler that was installed later counts
/// as one that does not call the earlier one.
const MAX_UNANSWERED: u32 = 3;
/// The number of times in a row that a thread is found to block the signal, after which it counts
/// as one that blocks it for good. Any thread blocks it for a moment (in another handler, while it
/// starts a thread).
const SIGNAL_BLOCKED: u32 = 2;
/// The most threads that are remembered as blocking the signal.
const MAX_REMEMBERED: usize = 4096;

/// True while a later handler is installed that does not call this crate's.
static REPLACED: AtomicBool = AtomicBool::new(false);
/// True once a thread was found to block the signal for good.
static BLOCKED: AtomicBool = AtomicBool::new(false);

pub(in crate::capture) const IS_REPLACED: &str = "a handler of SIGURG that was installed later does not call pollwatch's, which copies the stack of a running thread";
pub(in crate::capture) const IS_BLOCKED: &str =
    "some threads block SIGURG, whose handler copies the stack of a running thread";

/// Returns why the signal does not reach some threads; `None` as long as it reaches all.
pub(in crate::capture) fn degradation() -> Option<&'static str> {
    if REPLACED.load(Ordering::Relaxed) {
        return Some(IS_REPLACED);
    }
    BLOCKED.load(Ordering::Relaxed).then_some(IS_BLOCKED)
}

/// The results of earlier requests.
#[derive(Default)]
pub(super) struct Delivery {
    /// A later handler, and how many requests in a row were not answered since it was installed.
    unanswered: Option<(usize, u32)>,
    /// The number of times in a row that each of these threads was found to block the signal.
    signal_blocked: HashMap<Tid, u32>,
}

impl Delivery {
    /// Returns whether a request to a thread would not be answered. `later` is the handler that has
    /// replaced this crate's, if any.
    pub(super) fn is_futile(&mut self, tid: Tid, later: Option<usize>) -> bool {
        let ends_with = |later| {
            later == libc::SIG_DFL || later == libc::SIG_IGN || self.unanswered == Some((later, MAX_UNANSWERED))
        };
        if later.is_some_and(ends_with) {
            REPLACED.store(true, Ordering::Relaxed);
            return true;
        }
        if self.signal_blocked.get(&tid).is_none_or(|&times| times < SIGNAL_BLOCKED) {
            return false;
        }
        let blocked = has_blocked_signal_pending(tid);
        if !blocked {
            self.signal_blocked.remove(&tid);
        }
        blocked
    }

    /// Records that a request was not answered in time, and returns the reason.
    pub(super) fn record_unanswered(&mut self, tid: Tid, later: Option<usize>) -> CaptureError {
        if has_blocked_signal_pending(tid) {
            if self.signal_blocked.len() >= MAX_REMEMBERED {
                self.signal_blocked.clear();
            }
            let times = self.signal_blocked.entry(tid).or_default();
            *times = (*times + 1).min(SIGNAL_BLOCKED);
            if *times == SIGNAL_BLOCKED {
                BLOCKED.store(true, Ordering::Relaxed);
                return CaptureError::Unavailable;
            }
            return CaptureError::Timeout;
        }
        if let Some(later) = later {
            let before = self.unanswered.filter(|(handler, _)| *handler == later).map_or(0, |(_, times)| times);
            self.unanswered = Some((later, (before + 1).min(MAX_UNANSWERED)));
        }
        CaptureError::Timeout
    }

    /// Records that a request was answered.
    pub(super) fn record_answered(&mut self, tid: Tid) {
        self.unanswered = None;
        self.signal_blocked.remove(&tid);
        REPLACED.store(false, Ordering::Relaxed);
    }
}

/// Returns whether the signal was sent to a thread and is pending because the thread blocks it;
/// false where that cannot be read.
fn has_blocked_signal_pending(tid: Tid) -> bool {
    let mask = procfs::read(tid, "status").and_then(|status| pending_and_blocked(&status));
    mask.is_some_and(|mask| mask >> (SIGNAL - 1) & 1 != 0)
}

/// Returns the signals that are both pending and blocked, from the text of `/proc/.../status`.
fn pending_and_blocked(status: &str) -> Option<u64> {
    let mask = |name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    Some(mask("SigPnd:")? & mask("SigBlk:")?)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_pending_and_blocked() {
        let status = "Name:\tx\nSigPnd:\t0000000000400001\nShdPnd:\t2\nSigBlk:\t0000000000400006\nSigIgn:\t0\n";
        assert_eq!(pending_and_blocked(status), Some(1 << 22));
        assert_eq!(pending_and_blocked("Name:\tx\n"), None);
    }
}

//! The cases in which the signal does not arrive: a later handler that does not chain to this one,
//! and threads that block the signal.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::SIGNAL;
use crate::procfs::ProcessFolder;
use crate::{CaptureError, Tid};

/// The number of unanswered requests in a row after which a handler that was installed later counts
/// as one that does not call the earlier one.
const MAX_UNANSWERED: u32 = 3;
/// The time after which such a handler is tried again. It doubles with each unanswered request.
const MIN_FUTILE_TIME: Duration = Duration::from_secs(10);
const MAX_FUTILE_TIME: Duration = Duration::from_secs(600);
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
    /// The later handler since whose installation requests were not answered.
    unanswered: Option<Unanswered>,
    /// The number of times in a row that each of these threads was found to block the signal.
    signal_blocked: HashMap<Tid, u32>,
}

/// The requests in a row that were not answered since a later handler was installed.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    handler: usize,
    times: u32,
    /// The time for which the handler counts as futile, from `last` on.
    futile_time: Duration,
    /// The moment of the last of these requests.
    last: Instant,
}

impl Unanswered {
    /// Records one more request, which was not answered at a moment.
    fn add(&mut self, now: Instant) {
        if self.times >= MAX_UNANSWERED {
            self.futile_time = (2 * self.futile_time).min(MAX_FUTILE_TIME);
        }
        (self.times, self.last) = ((self.times + 1).min(MAX_UNANSWERED), now);
    }

    /// Returns whether a request is not worth a trial at a moment.
    fn is_futile(&self, now: Instant) -> bool {
        self.times >= MAX_UNANSWERED && now.saturating_duration_since(self.last) < self.futile_time
    }
}

impl Delivery {
    /// Returns whether a request to a thread would not be answered. `later` is the handler that has
    /// replaced this crate's, if any. One that has answered nothing is tried again after a while: a
    /// machine that is overloaded answers late as well.
    pub(super) fn is_futile(&mut self, tid: Tid, later: Option<usize>, now: Instant) -> bool {
        let ends_with = |later| {
            later == libc::SIG_DFL
                || later == libc::SIG_IGN
                || self.unanswered.is_some_and(|unanswered| unanswered.handler == later && unanswered.is_futile(now))
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

    /// Records that a request was not answered in time, and returns the reason. `signal` is the
    /// state of the signal in the thread since then, if it could be read.
    pub(super) fn record_unanswered(
        &mut self,
        tid: Tid,
        later: Option<usize>,
        signal: Option<SignalState>,
        now: Instant,
    ) -> CaptureError {
        if signal.is_some_and(|signal| signal.is_pending && signal.is_blocked) {
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
        // A signal that is still pending has reached no handler yet: the thread is in the kernel,
        // or has no CPU.
        if let Some(handler) = later.filter(|_| signal.is_none_or(|signal| !signal.is_pending)) {
            let new = Unanswered { handler, times: 0, futile_time: MIN_FUTILE_TIME, last: now };
            let mut unanswered = self.unanswered.filter(|known| known.handler == handler).unwrap_or(new);
            unanswered.add(now);
            self.unanswered = Some(unanswered);
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
    SignalState::of(tid).is_some_and(|state| state.is_pending && state.is_blocked)
}

/// Returns whether the signal was sent to a thread and is pending although the thread does not
/// block it: the thread is in the kernel or has no CPU, and will handle it. False where that cannot
/// be read.
pub(super) fn is_pending(tid: Tid) -> bool {
    SignalState::of(tid).is_some_and(|state| state.is_pending && !state.is_blocked)
}

/// Returns whether a thread blocks the signal at this moment; true where that cannot be read.
#[cfg(target_arch = "x86_64")]
pub(in crate::capture) fn is_blocked(tid: Tid) -> bool {
    SignalState::of(tid).is_none_or(|state| state.is_blocked)
}

/// The state of the signal in one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignalState {
    is_pending: bool,
    is_blocked: bool,
}

impl SignalState {
    /// Reads the state; `None` where that is not possible.
    pub(super) fn of(tid: Tid) -> Option<SignalState> {
        SignalState::parse(&ProcessFolder::OWN.read_of(tid, "status")?)
    }

    /// Parses the text of `/proc/.../status`.
    fn parse(status: &str) -> Option<SignalState> {
        let has_signal = |name| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
            let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
            Some(mask >> (SIGNAL - 1) & 1 != 0)
        };
        Some(SignalState { is_pending: has_signal("SigPnd:")?, is_blocked: has_signal("SigBlk:")? })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const OURS_NOT_CALLED: Option<usize> = Some(0x1000);
    const REACHED: Option<SignalState> = Some(SignalState { is_pending: false, is_blocked: false });
    const PENDING: Option<SignalState> = Some(SignalState { is_pending: true, is_blocked: false });

    /// The id is that of no thread.
    fn unanswered(times: u32, signal: Option<SignalState>, now: Instant) -> Delivery {
        let mut delivery = Delivery::default();
        add_unanswered(&mut delivery, times, signal, now);
        delivery
    }

    fn add_unanswered(delivery: &mut Delivery, times: u32, signal: Option<SignalState>, now: Instant) {
        for _ in 0..times {
            let error = delivery.record_unanswered(Tid::from_raw(0), OURS_NOT_CALLED, signal, now);
            assert_eq!(error, CaptureError::Timeout);
        }
    }

    fn is_futile(delivery: &mut Delivery, now: Instant) -> bool {
        delivery.is_futile(Tid::from_raw(0), OURS_NOT_CALLED, now)
    }

    #[test]
    fn a_signal_that_is_still_pending_proves_nothing_about_a_later_handler() {
        let now = Instant::now();
        assert!(!is_futile(&mut unanswered(10 * MAX_UNANSWERED, PENDING, now), now));
        assert!(!is_futile(&mut unanswered(MAX_UNANSWERED - 1, REACHED, now), now));
        assert!(is_futile(&mut unanswered(MAX_UNANSWERED, REACHED, now), now));
    }

    #[test]
    fn a_futile_handler_is_tried_again_less_and_less_often() {
        let mut now = Instant::now();
        let mut delivery = unanswered(MAX_UNANSWERED, REACHED, now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let start = now;
            while is_futile(&mut delivery, now) {
                now += Duration::from_secs(1);
            }
            waits.push(now - start);
            add_unanswered(&mut delivery, 1, REACHED, now);
            assert!(is_futile(&mut delivery, now), "one trial each time");
        }
        assert_eq!((waits[0], waits[9]), (MIN_FUTILE_TIME, MAX_FUTILE_TIME));
        assert!(waits.windows(2).all(|pair| pair[1] == (2 * pair[0]).min(MAX_FUTILE_TIME)), "{waits:?}");
        delivery.record_answered(Tid::from_raw(0));
        assert!(!is_futile(&mut delivery, now));
    }

    #[test]
    fn the_signal_may_be_pending_blocked_or_both() {
        for (pending, blocked) in [("400001", "400006"), ("400000", "ffbf0000"), ("0", "400000"), ("1", "0")] {
            let status = format!("Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t400000\nSigBlk:\t{blocked}\nSigIgn:\t0\n");
            let has = |mask: &str| u64::from_str_radix(mask, 16).unwrap() & 0x40_0000 != 0;
            let expected = SignalState { is_pending: has(pending), is_blocked: has(blocked) };
            assert_eq!(SignalState::parse(&status), Some(expected));
        }
        assert_eq!(SignalState::parse("Name:\tx\n"), None);
    }
}

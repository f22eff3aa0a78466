//! One ongoing stall, from examination to examination: what scans notice of it in between, and when
//! the next examination is due. Pure.

use std::sync::Arc;

use super::classify::{Evidence, classify};
use super::examine::Diagnosis;
use super::identity::StallIdentity;
use super::procfs::{SyscallState, ThreadReading};
use super::time_account::PollReadings;
use crate::measure::thread::ThreadState;
use crate::model::cause::Cause;
use crate::model::time::Nanos;

/// The longest time between two examinations of a stall.
const MAX_INTERVAL: Nanos = Nanos::from_secs(1);
/// A stall whose thread changes all the time is examined again after its duration divided by this,
/// so that a long stall costs no more per second than a short one.
const MIN_INTERVAL_DIVISOR: u64 = 32;

/// An ongoing stall that has been examined.
pub(super) struct OngoingStall {
    pub(super) thread: Arc<ThreadState>,
    pub(super) identity: StallIdentity,
    /// The moment at which the poll started.
    pub(super) start: Nanos,
    /// The baseline of the next examination.
    pub(super) baseline: Option<Nanos>,
    /// The readings of the thread, up to the latest scan.
    pub(super) readings: PollReadings,
    examined: Examined,
    /// The duration of the stall at the latest scan.
    scanned: Nanos,
    /// The duration of the stall at the scan before the one that noticed a change.
    unchanged_until: Option<Nanos>,
}

/// The state of a stall at its latest examination.
struct Examined {
    cause: Cause,
    /// What the thread waited in.
    wait: Option<SyscallState>,
    readings: PollReadings,
    /// The duration of the stall.
    elapsed: Nanos,
}

impl OngoingStall {
    /// Makes a stall that was examined when it had lasted for `elapsed`.
    pub(super) fn new(
        thread: Arc<ThreadState>,
        identity: StallIdentity,
        start: Nanos,
        elapsed: Nanos,
        found: ExaminationSummary,
    ) -> OngoingStall {
        let ExaminationSummary { cause, state, baseline, readings } = found;
        let wait = waiting(state);
        let examined = Examined { cause, wait, readings: readings.clone(), elapsed };
        OngoingStall { thread, identity, start, baseline, readings, examined, scanned: elapsed, unchanged_until: None }
    }

    /// Returns the readings at the latest examination.
    pub(super) fn examined_readings(&self) -> &PollReadings {
        &self.examined.readings
    }

    /// Takes in a reading of the thread, at a scan that found the stall after `elapsed`.
    pub(super) fn scan(&mut self, elapsed: Nanos, reading: Option<&ThreadReading>, threshold: Nanos) {
        let since = std::mem::replace(&mut self.scanned, elapsed);
        let Some(reading) = reading else { return };
        let before = self.readings.clone();
        self.readings.add(reading.times);
        let evidence = Evidence {
            state: reading.state,
            sleeps_in: None,
            shares: self.readings.shares_since(Some(&before)),
            verdict: self.readings.so_far().verdict(elapsed, threshold),
        };
        let cause = classify(evidence);
        let has_moved = match (waiting(reading.state), self.examined.wait) {
            (Some(now), Some(then)) => now != then,
            _ => false,
        };
        if has_moved || cause != self.examined.cause && cause != Cause::Unknown {
            self.unchanged_until.get_or_insert(since);
        }
    }

    /// Returns whether the stall has to be examined again, after `elapsed`.
    pub(super) fn is_examination_due(&self, elapsed: Nanos, threshold: Nanos) -> bool {
        let since = elapsed.saturating_sub(self.examined.elapsed);
        let has_changed = self.unchanged_until.is_some();
        since >= MAX_INTERVAL || has_changed && since >= threshold.max(elapsed / MIN_INTERVAL_DIVISOR)
    }

    /// Takes in a further examination, after `elapsed`. Returns the duration from which on the
    /// thread has done what it found: the middle of the time between the last scan or examination
    /// that found something else and the first that did not.
    pub(super) fn examined(&mut self, elapsed: Nanos, found: ExaminationSummary) -> Nanos {
        let ExaminationSummary { cause, state, baseline, readings } = found;
        self.readings = readings.clone();
        self.baseline = baseline;
        let previous = self.examined.elapsed;
        let from = self.unchanged_until.take().unwrap_or(previous).max(previous);
        self.examined = Examined { cause, wait: waiting(state), readings, elapsed };
        self.scanned = elapsed;
        from + elapsed.saturating_sub(from) / 2
    }
}

/// What an examination leaves for the next one.
pub(super) struct ExaminationSummary {
    pub(super) cause: Cause,
    pub(super) state: Option<SyscallState>,
    pub(super) baseline: Option<Nanos>,
    pub(super) readings: PollReadings,
}

impl ExaminationSummary {
    pub(super) fn of(found: &Diagnosis) -> ExaminationSummary {
        let Diagnosis { cause, state, baseline, .. } = *found;
        ExaminationSummary { cause, state, baseline, readings: found.readings.clone() }
    }
}

/// Returns the state of a thread that waits.
fn waiting(state: Option<SyscallState>) -> Option<SyscallState> {
    state.filter(|state| matches!(state, SyscallState::Waiting { .. }))
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use pollwatch_stack::Address;
    use pollwatch_stack::procfs::SyscallEntry;

    use super::*;
    use crate::detect::time_account::ThreadTimes;
    use crate::measure::runtime::meter::Meter;
    use crate::model::id::{FrameNumber, ThreadNumber};

    const MS: Nanos = Nanos::from_millis(1);
    const T: Nanos = Nanos::from_millis(10);

    fn waits_in(number: i64) -> Option<SyscallState> {
        let call = Some(SyscallEntry { number, first_argument: 7 });
        Some(SyscallState::Waiting { call, sp: Address::default(), ip: Address::default() })
    }

    /// A reading after so many milliseconds, of which the thread computed for `cpu`.
    fn reading(at: u64, cpu: u64, state: Option<SyscallState>) -> ThreadReading {
        let is_runnable = state == Some(SyscallState::Running);
        let times = ThreadTimes { at: at * MS, cpu: cpu * MS, run_delay: Some(Nanos::ZERO), runs: at, is_runnable };
        ThreadReading { times, state }
    }

    fn summary(cause: Cause, reading: &ThreadReading) -> ExaminationSummary {
        let readings = PollReadings::new(Nanos::ZERO, [reading.times]);
        ExaminationSummary { cause, state: reading.state, baseline: None, readings }
    }

    /// A stall that started at zero, and was examined when it had slept for 10 ms.
    fn asleep() -> OngoingStall {
        let meter = Meter::of(Nanos::from_millis(1), 10);
        let thread = Arc::new(ThreadState::new(&meter, ThreadNumber(1)));
        let identity = StallIdentity::Poll(FrameNumber(1));
        let found = summary(Cause::Syscall, &reading(10, 0, waits_in(libc::SYS_nanosleep)));
        OngoingStall::new(thread, identity, Nanos::ZERO, 10 * MS, found)
    }

    /// Scans the stall, and returns whether it has to be examined.
    fn scan(stall: &mut OngoingStall, at: u64, cpu: u64, state: Option<SyscallState>) -> bool {
        stall.scan(at * MS, Some(&reading(at, cpu, state)), T);
        stall.is_examination_due(at * MS, T)
    }

    #[test]
    fn a_wait_that_lasts_is_examined_once_a_second() {
        let mut stall = asleep();
        let due: Vec<u64> =
            (2..150).map(|i| 10 * i).filter(|&at| scan(&mut stall, at, 0, waits_in(libc::SYS_nanosleep))).collect();
        assert_eq!(due[0], 1_010);
    }

    #[test]
    fn another_wait_is_examined_at_once_and_starts_between_two_scans() {
        let mut stall = asleep();
        assert!(!scan(&mut stall, 100, 0, waits_in(libc::SYS_nanosleep)));
        assert!(scan(&mut stall, 110, 0, waits_in(libc::SYS_futex)));
        let found = summary(Cause::Lock, &reading(110, 0, waits_in(libc::SYS_futex)));
        assert_eq!(stall.examined(110 * MS, found), 105 * MS);
        assert!(!scan(&mut stall, 120, 0, waits_in(libc::SYS_futex)));
    }

    #[test]
    fn a_thread_that_computes_after_a_wait_is_examined_at_once() {
        let mut stall = asleep();
        assert!(!scan(&mut stall, 20, 0, waits_in(libc::SYS_nanosleep)));
        assert!(!scan(&mut stall, 30, 0, Some(SyscallState::Running)), "it may wait again in a moment");
        assert!(scan(&mut stall, 40, 9, Some(SyscallState::Running)));
        assert!(!stall.is_examination_due(19 * MS, T), "but not twice within a threshold");
    }

    #[test]
    fn a_long_stall_that_changes_all_the_time_is_examined_less_often() {
        let mut stall = asleep();
        let mut examinations = 0;
        for at in (20..10_000).step_by(10) {
            let state = waits_in(if at % 20 == 0 { libc::SYS_futex } else { libc::SYS_nanosleep });
            if scan(&mut stall, at, 0, state) {
                examinations += 1;
                stall.examined(at * MS, summary(Cause::Lock, &reading(at, 0, state)));
            }
        }
        assert!((20..200).contains(&examinations), "{examinations} in 10 s");
    }
}

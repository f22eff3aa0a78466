//! Decides whether nobody attends the I/O driver of a runtime, and whether the runtime hangs. Pure:
//! readings and moments in, changes out.
//!
//! - **Unattended**: nobody is in the driver, at least one worker is blocked, and all others are
//!   parked, at least one. Where all workers are blocked, no worker is left that could attend the
//!   driver. That is another state, and is not reported here.
//! - **Hung**: nobody is in the driver, and all workers are parked, and none of them lacks a CPU.
//!
//! Each is reported when a later reading has confirmed it; see [`ReadingEvidence`] for how much
//! later.

use crate::detect::pause::Pauses;
use crate::detect::track::without_pauses;
use crate::model::condition::ConditionKind;
use crate::model::id::StallId;
use crate::model::time::Nanos;

/// The time after which a reading confirms another one that is conclusive by itself.
const CONFIRM_AFTER: Nanos = Nanos::from_millis(2);
/// The time after which a state is confirmed although a thread that may be a worker runs, or is
/// ready to: it may be about to enter the driver, or blocked only because it lacks a CPU.
const CONFIRM_RUNNING_AFTER: Nanos = Nanos::from_millis(100);
/// The time after which a runtime with parked workers hangs, and after which the state of a runtime
/// is confirmed of which not all tasks are measured.
pub(crate) const HUNG_AFTER: Nanos = Nanos::from_secs(1);

/// The time without a reading that shows who is in the driver, after which a condition that was
/// reported is no longer known to last.
const KNOWN_FOR: Nanos = Nanos::from_secs(10);

/// A runtime that hangs no longer does once its workers are active for this long. A worker that is
/// woken and kept out of the driver is active only until it parks again. Likewise a driver is no
/// longer unattended once none of the workers has been parked for this long.
const ACTIVE_FOR: Nanos = Nanos::from_millis(100);

/// The strength of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadingEvidence {
    /// The state of each worker is known, and all of them wait.
    Conclusive,
    /// A blocked worker runs, or is ready to. All others wait.
    BlockedRuns,
    /// A thread that may be a worker runs, or is ready to. It may have left the driver just now.
    MayRun,
    /// Like `MayRun`. A worker is ready to run, and has hardly used a CPU since nobody was found in
    /// the driver: it may be on its way there, and lack nothing but a CPU.
    LacksCpu,
    /// The runtime was attached: a worker that seems to be parked may be in a task.
    Partial,
}

impl ReadingEvidence {
    /// Returns whether all workers that are not blocked wait for certain.
    fn others_wait(self) -> bool {
        matches!(self, ReadingEvidence::Conclusive | ReadingEvidence::BlockedRuns)
    }
}

/// The workers of a runtime, by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkerCounts {
    /// Workers in ongoing stalls.
    pub(crate) blocked: usize,
    pub(crate) parked: usize,
    /// All others.
    pub(crate) active: usize,
}

/// The ongoing stall that keeps a driver unattended: the one that started last. Until it did,
/// somebody else was there to attend the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Culprit {
    pub(crate) stall: StallId,
    /// The moment since which no other worker has become blocked; zero where that is not known.
    pub(crate) start: Nanos,
}

/// The presence of a thread in the driver, as a check found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverState {
    /// A thread was in the driver.
    Attended,
    /// No thread was in the driver.
    Unattended,
    /// It could not be read who was in the driver.
    Unknown,
    /// The threads were not read, since that was not due.
    NotRead,
}

/// A reading of one runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeReading {
    /// The moment at which the workers were in their states.
    pub(crate) at: Nanos,
    /// The moment at which the threads had been read. On a busy machine it may be much later.
    pub(crate) read_at: Nanos,
    pub(crate) driver: DriverState,
    /// A sum that changes with everything that tokio publishes of the workers.
    pub(crate) published: u64,
    pub(crate) workers: WorkerCounts,
    pub(crate) culprit: Option<Culprit>,
    pub(crate) evidence: ReadingEvidence,
}

/// A change of a runtime's condition. Durations exclude pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverChange {
    Started { kind: ConditionKind, duration: Nanos, culprit: Option<Culprit> },
    Ongoing { duration: Nanos, culprit: Option<Culprit> },
    Ended { duration: Nanos },
}

/// A time in which nobody was in the driver.
#[derive(Clone, Copy, Debug)]
struct Absence {
    kind: ConditionKind,
    /// The moment since which the state is known to hold.
    since: Nanos,
    /// The moment of the first reading.
    first: Nanos,
    /// The moment since which all readings were of another state.
    active_since: Option<Nanos>,
    /// The moment since which all readings were without a parked worker.
    none_parked_since: Option<Nanos>,
    /// The moment of the latest reading that found nobody in the driver.
    confirmed_at: Nanos,
    published: u64,
    culprit: Option<Culprit>,
    /// The evidence at the latest reading of this state.
    evidence: ReadingEvidence,
    /// The duration at the latest reading.
    duration: Nanos,
    is_reported: bool,
}

/// The watch over the driver of one runtime.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverWatch {
    /// The moment of the latest reading at which a thread was in the driver, or may have been.
    attended_at: Nanos,
    absence: Option<Absence>,
}

impl DriverWatch {
    /// Returns whether nobody was in the driver at the latest reading, so that the next one is due
    /// soon.
    pub(crate) fn is_open(&self) -> bool {
        self.absence.is_some()
    }

    /// Returns the kind of the ongoing condition.
    pub(crate) fn ongoing(&self) -> Option<ConditionKind> {
        self.absence.filter(|absence| absence.is_reported).map(|absence| absence.kind)
    }

    /// Returns the moment from which on a reading may confirm a condition that is not reported yet.
    pub(crate) fn confirmation(&self) -> Option<Nanos> {
        let absence = self.absence.filter(|absence| !absence.is_reported && !absence.lacks_cpu())?;
        Some(absence.first + confirm_after(absence.kind, absence.evidence))
    }

    /// Takes in a reading, and returns what it changes.
    pub(crate) fn step(&mut self, reading: &RuntimeReading, pauses: &Pauses) -> Option<DriverChange> {
        if reading.driver == DriverState::Attended || self.may_be_attended(reading) {
            self.attended_at = reading.read_at;
        }
        match reading.driver {
            DriverState::Attended => self.end(),
            DriverState::Unattended => self.step_unattended(reading, pauses),
            DriverState::Unknown => self.step_unknown(reading, pauses),
            DriverState::NotRead => self.step_unread(reading, pauses),
        }
    }

    /// Returns whether a worker may have been in the driver during the stall that seems to keep it:
    /// one is active, or has published something since the reading before.
    fn may_be_attended(&self, reading: &RuntimeReading) -> bool {
        let stall = |culprit: Option<Culprit>| culprit.map(|culprit| culprit.stall);
        let has_published = |absence: Absence| {
            absence.published != reading.published && stall(absence.culprit) == stall(reading.culprit)
        };
        reading.workers.active > 0 || self.absence.is_some_and(has_published)
    }

    /// Takes in a reading that does not show who is in the driver. The workers still show whether
    /// the state can be the same.
    fn step_unknown(&mut self, reading: &RuntimeReading, pauses: &Pauses) -> Option<DriverChange> {
        let mut absence = self.absence?;
        absence.observe_activity(reading);
        let unknown_for = without_pauses(absence.confirmed_at, reading.at, pauses);
        if !absence.holds(reading, pauses) || unknown_for >= KNOWN_FOR {
            return self.end();
        }
        self.absence = Some(absence);
        None
    }

    /// Takes in a reading of the workers alone. It ends a condition whose cause is over.
    ///
    /// It confirms a condition if no worker has published anything, since then nobody has entered
    /// the driver. A worker that was running may have entered it nevertheless, if it had published
    /// before. A state that is not reported yet is left to the next reading of the threads.
    fn step_unread(&mut self, reading: &RuntimeReading, pauses: &Pauses) -> Option<DriverChange> {
        let absence = self.absence.filter(|absence| absence.is_reported)?;
        let reading = RuntimeReading { evidence: absence.evidence, ..*reading };
        let is_kept_out = absence.evidence.others_wait() && absence.published == reading.published;
        if is_kept_out && kind_of(&reading) == Some(absence.kind) {
            return self.step_unattended(&reading, pauses);
        }
        self.step_unknown(&reading, pauses)
    }

    /// Ends the condition, if there is one: because the driver is attended, or because the runtime
    /// is gone.
    pub(crate) fn end(&mut self) -> Option<DriverChange> {
        let ended = self.absence.take().filter(|absence| absence.is_reported)?;
        Some(DriverChange::Ended { duration: ended.duration })
    }

    fn step_unattended(&mut self, reading: &RuntimeReading, pauses: &Pauses) -> Option<DriverChange> {
        let Some(mut absence) = self.absence.filter(|absence| absence.holds(reading, pauses)) else {
            let change = self.end();
            self.absence = self.begin(reading);
            return change;
        };
        if absence.lacks_cpu() && !absence.is_reported {
            // Until now, a worker may have been on its way.
            (absence.since, absence.first) = (reading.read_at, reading.read_at);
        }
        absence.published = reading.published;
        absence.confirmed_at = reading.at;
        absence.evidence = reading.evidence;
        absence.observe_activity(reading);
        absence.duration = without_pauses(absence.since, reading.at, pauses);
        let change = if absence.is_reported {
            absence.culprit = reading.culprit.or(absence.culprit);
            Some(DriverChange::Ongoing { duration: absence.duration, culprit: absence.culprit })
        } else if !absence.lacks_cpu()
            && without_pauses(absence.first, reading.at, pauses) >= confirm_after(absence.kind, reading.evidence)
        {
            absence.is_reported = true;
            absence.culprit = reading.culprit;
            Some(DriverChange::Started { kind: absence.kind, duration: absence.duration, culprit: reading.culprit })
        } else {
            None
        };
        self.absence = Some(absence);
        change
    }

    /// Returns the absence that a reading starts, if it starts one.
    fn begin(&self, reading: &RuntimeReading) -> Option<Absence> {
        let kind = kind_of(reading)?;
        let is_start_known = |culprit: &Culprit| {
            reading.evidence.others_wait() && culprit.start > Nanos::ZERO && culprit.start >= self.attended_at
        };
        let since = match reading.culprit.filter(is_start_known) {
            // A worker that leaves the driver comes back to it, unless it blocks. All that do not
            // block wait elsewhere, so that the last one that left the driver is blocked.
            Some(culprit) if kind == ConditionKind::DriverUnattended => culprit.start,
            // It is not known for how much longer.
            _ => reading.read_at,
        };
        Some(Absence {
            kind,
            since,
            first: reading.read_at,
            active_since: None,
            none_parked_since: None,
            confirmed_at: reading.at,
            published: reading.published,
            culprit: reading.culprit,
            evidence: reading.evidence,
            duration: Nanos::ZERO,
            is_reported: false,
        })
    }
}

impl Absence {
    /// Returns whether the runtime would hang, but for a worker that is given no CPU.
    fn lacks_cpu(&self) -> bool {
        self.kind == ConditionKind::RuntimeHung && self.evidence == ReadingEvidence::LacksCpu
    }

    /// Records since when the workers are not in the state of this absence, and since when none is
    /// parked.
    fn observe_activity(&mut self, reading: &RuntimeReading) {
        self.active_since = match kind_of(reading) {
            Some(kind) if kind == self.kind => None,
            _ => self.active_since.or(Some(reading.at)),
        };
        self.none_parked_since = match reading.workers.parked {
            0 => self.none_parked_since.or(Some(reading.at)),
            _ => None,
        };
    }

    /// Returns whether the state is the same at a later reading.
    ///
    /// Until it is reported, a worker that has published something since may have been in the
    /// driver. Once it is reported, it lasts until a thread is found in the driver, or what causes
    /// it is over. Workers that are woken meanwhile may be kept out of the driver.
    fn holds(&self, reading: &RuntimeReading, pauses: &Pauses) -> bool {
        let is_same_kind = kind_of(reading) == Some(self.kind);
        let time_since =
            |moment: Option<Nanos>| moment.map_or(Nanos::ZERO, |since| without_pauses(since, reading.at, pauses));
        let is_unpublished = self.published == reading.published;
        match self.kind {
            _ if !self.is_reported => is_same_kind && is_unpublished,
            ConditionKind::BlockingPoolFull => is_same_kind,
            ConditionKind::RuntimeHung => is_same_kind || time_since(self.active_since) < ACTIVE_FOR,
            ConditionKind::DriverUnattended => {
                let is_same_stall = self.culprit.map(|it| it.stall) == reading.culprit.map(|it| it.stall);
                let may_be_free = reading.workers.parked > 0 || time_since(self.none_parked_since) < ACTIVE_FOR;
                (is_same_kind || reading.workers.blocked > 0 && may_be_free) && (is_unpublished || is_same_stall)
            }
        }
    }
}

/// Returns the condition of a runtime with nobody in its driver, if it is one.
fn kind_of(reading: &RuntimeReading) -> Option<ConditionKind> {
    match (reading.workers, reading.evidence) {
        (WorkerCounts { active: 1.., .. } | WorkerCounts { parked: 0, .. }, _) => None,
        (
            WorkerCounts { blocked: 0, .. },
            ReadingEvidence::Conclusive
            | ReadingEvidence::BlockedRuns
            | ReadingEvidence::MayRun
            | ReadingEvidence::LacksCpu,
        ) => Some(ConditionKind::RuntimeHung),
        // A worker of an attached runtime that seems to be parked may be blocked.
        _ => Some(ConditionKind::DriverUnattended),
    }
}

fn confirm_after(kind: ConditionKind, evidence: ReadingEvidence) -> Nanos {
    match (kind, evidence) {
        (ConditionKind::RuntimeHung, _) | (_, ReadingEvidence::Partial) => HUNG_AFTER,
        (_, ReadingEvidence::BlockedRuns | ReadingEvidence::MayRun | ReadingEvidence::LacksCpu) => {
            CONFIRM_RUNNING_AFTER
        }
        (_, ReadingEvidence::Conclusive) => CONFIRM_AFTER,
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

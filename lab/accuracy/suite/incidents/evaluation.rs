//! Matches the incidents that were reported with the conditions that there were.

mod description;

use std::sync::Arc;

use pollwatch::IncidentKind;

use super::super::cpu_monitor::CpuAvailability;
use super::super::ground_truth::{MS, Span};
use super::super::statements::{MissedBars, Score};
use super::{AFTER, POOL_FULL_AFTER};

/// `after` in nanoseconds.
const AFTER_NANOS: u64 = AFTER.as_nanos() as u64;
/// The time between two checks, by which a report may be late, as is documented.
const NOTICED: u64 = AFTER_NANOS / 4;
/// The time for the action, which first takes the threads of the process. A condition must last
/// longer by this to be required, and an action that starts later is late.
const MARGIN: u64 = AFTER_NANOS;
/// The largest difference between two clocks, and between the start of a condition and its record.
const TOLERANCE: u64 = 20 * MS;

/// A condition of a runtime, as the injection itself has recorded it.
#[derive(Clone, Debug)]
pub(crate) struct TrueCondition {
    pub(crate) kind: IncidentKind,
    pub(crate) runtime: Arc<str>,
    pub(crate) span: Span,
    /// True if it was injected. A condition that the machine has caused may be reported.
    pub(crate) is_injected: bool,
}

/// An incident of which a callback was called.
#[derive(Clone, Debug)]
pub(crate) struct ReportedIncident {
    pub(crate) kind: IncidentKind,
    pub(crate) runtime: Arc<str>,
    /// The start of the condition, as reported.
    pub(crate) started_at: u64,
    pub(crate) received: u64,
    /// The moment at which the action started: it first takes the threads of the process.
    pub(crate) acted: u64,
    /// The duration at the end. `None` if no end was reported.
    pub(crate) duration: Option<u64>,
    pub(crate) text: String,
}

/// Returns how long a condition has lasted, at most, when pollwatch finds it. That is documented
/// for hung runtimes and full pools. All drivers are read once a second. A deadlock is found by two
/// searches at least 100 ms apart.
pub(super) fn found_after(kind: IncidentKind) -> u64 {
    match kind {
        IncidentKind::RuntimeHung => 2_000 * MS,
        IncidentKind::BlockingPoolFull => POOL_FULL_AFTER.as_nanos() as u64 + 20 * MS,
        IncidentKind::Deadlock => 600 * MS,
        IncidentKind::DriverUnattended => 120 * MS,
        _ => 20 * MS,
    }
}

/// Returns how long a condition has lasted, at most, when the callback is called. A longer one must
/// be reported.
pub(super) fn must_report(kind: IncidentKind) -> u64 {
    found_after(kind) + AFTER_NANOS + NOTICED + MARGIN
}

impl ReportedIncident {
    /// Returns the end of the condition, as reported.
    fn end(&self) -> Option<u64> {
        Some(self.started_at + self.duration?)
    }
}

impl TrueCondition {
    fn is_required(&self) -> bool {
        self.is_injected && self.span.nanos() >= must_report(self.kind)
    }

    fn may_be_reported(&self) -> bool {
        self.span.nanos() + TOLERANCE >= AFTER_NANOS
    }

    /// Returns true if the report is about this condition, and not early. It may start after the
    /// end by a tolerance.
    fn explains(&self, reported: &ReportedIncident, tolerance: u64) -> bool {
        let may_start = self.span.start.saturating_sub(TOLERANCE)..self.span.end + tolerance;
        self.kind == reported.kind
            && self.runtime == reported.runtime
            && self.may_be_reported()
            && may_start.contains(&reported.started_at)
            && reported.received + TOLERANCE >= self.span.start + AFTER_NANOS
    }

    /// Returns the time from the latest moment at which the condition is found to the latest one at
    /// which the callback is called.
    fn due_within(&self) -> Span {
        let start = self.span.start;
        Span { start: start + found_after(self.kind), end: start + must_report(self.kind) }
    }

    /// Returns true if pollwatch had no CPU when the report was due.
    fn is_excused(&self, cpu: &CpuAvailability) -> bool {
        cpu.delay_within(self.due_within()) >= MARGIN
    }

    /// Returns true if the action started in time.
    fn is_in_time(&self, reported: &ReportedIncident, cpu: &CpuAvailability) -> bool {
        let due = self.due_within();
        let delay = cpu.delay_within(Span { end: reported.acted.max(due.end), ..due });
        reported.acted <= due.end + delay
    }

    /// Returns true if the condition started when it says, or was found until then.
    fn is_start_right(&self, reported: &ReportedIncident, cpu: &CpuAvailability) -> bool {
        let found = self.span.start + found_after(self.kind) + TOLERANCE;
        let delay = cpu.delay_within(Span { start: self.span.start, end: found });
        (self.span.start.saturating_sub(TOLERANCE)..=found + delay).contains(&reported.started_at)
    }

    /// Returns true if the duration is that from when the condition was found to its end. It is
    /// updated at each check, and not while an action is done.
    fn is_duration_right(&self, duration: u64, cpu: &CpuAvailability) -> bool {
        let (length, end) = (self.span.nanos(), self.span.end);
        let unnoticed = found_after(self.kind) + NOTICED + MARGIN + cpu.delay_within(self.span);
        let late = TOLERANCE + NOTICED + cpu.delay_within(Span { start: end, end: end + TOLERANCE + NOTICED });
        (length.saturating_sub(unnoticed)..=length + late).contains(&duration)
    }
}

/// Returns the index of the report of each condition, if it has one. A report that starts shortly
/// after the end of a condition is that of the next one, if there is one.
fn assign(conditions: &[&TrueCondition], reported: &[ReportedIncident], is_used: &mut [bool]) -> Vec<Option<usize>> {
    let mut assigned = vec![None; conditions.len()];
    for tolerance in [0, TOLERANCE] {
        for (condition, found) in conditions.iter().zip(&mut assigned).filter(|(_, found)| found.is_none()) {
            *found = (0..reported.len()).find(|&i| !is_used[i] && condition.explains(&reported[i], tolerance));
            found.iter().for_each(|&found| is_used[found] = true);
        }
    }
    assigned
}

/// The figures of one kind, which are a row of the table.
#[derive(Debug)]
pub(crate) struct ConditionRow {
    pub(crate) kind: IncidentKind,
    /// The injected conditions that last for long enough. The wrong ones were not reported.
    pub(crate) long: Score,
    /// Further ones that were not reported, since pollwatch had no CPU when the report was due.
    pub(crate) excused: usize,
    /// The conditions that last for less than `after`.
    pub(crate) short: usize,
    /// The reports. The wrong ones have no condition, or one that was reported before.
    pub(crate) reports: Score,
    /// The reports of injected conditions. The actions of the wrong ones started later than is
    /// documented.
    pub(crate) in_time: Score,
    /// The same reports. The wrong ones name another start.
    pub(crate) starts: Score,
    /// Those of them whose end was reported. The wrong ones have another duration.
    pub(crate) durations: Score,
    /// The time from `after` after the start of each injected condition to its report, sorted.
    pub(crate) delays: Vec<u64>,
}

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct IncidentFigures {
    pub(crate) rows: Vec<ConditionRow>,
    /// The incidents whose end was not reported.
    pub(crate) not_ended: usize,
    pub(crate) faults: Vec<String>,
}

impl IncidentFigures {
    pub(super) fn new(
        conditions: &[TrueCondition],
        reported: &[ReportedIncident],
        not_ended: Vec<String>,
        cpu: &CpuAvailability,
    ) -> IncidentFigures {
        let mut figures = IncidentFigures { rows: Vec::new(), not_ended: not_ended.len(), faults: not_ended };
        let mut is_used = vec![false; reported.len()];
        for &kind in IncidentKind::ALL {
            let mut row = ConditionRow {
                kind,
                long: Score::default(),
                excused: 0,
                short: 0,
                reports: Score::default(),
                in_time: Score::default(),
                starts: Score::default(),
                durations: Score::default(),
                delays: Vec::new(),
            };
            let mut of_kind: Vec<_> = conditions.iter().filter(|condition| condition.kind == kind).collect();
            of_kind.sort_by_key(|condition| !condition.is_injected);
            let assigned = assign(&of_kind, reported, &mut is_used);
            for (condition, found) in of_kind.into_iter().zip(assigned) {
                row.short += usize::from(condition.is_injected && !condition.may_be_reported());
                if let Some(found) = found.filter(|_| condition.is_injected) {
                    row.evaluate(condition, &reported[found], cpu, &mut figures.faults);
                }
                if !condition.is_required() {
                    continue;
                }
                if found.is_none() && condition.is_excused(cpu) {
                    row.excused += 1;
                    continue;
                }
                row.long.add(found.is_some());
                if found.is_none() {
                    let all = reported.iter().filter(|reported| reported.runtime == condition.runtime);
                    figures.faults.push(description::of_missed(condition, all));
                }
            }
            for (reported, is_used) in reported.iter().zip(&is_used).filter(|(reported, _)| reported.kind == kind) {
                row.reports.add(*is_used);
                if !is_used {
                    let all = conditions.iter().filter(|condition| condition.runtime == reported.runtime);
                    figures.faults.push(description::of_false(reported, all));
                }
            }
            row.delays.sort_unstable();
            figures.rows.push(row);
        }
        figures
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut bars = MissedBars::default();
        for ConditionRow { kind, long, excused, reports, in_time, starts, durations, .. } in &self.rows {
            bars.allow(0, *long, &format!("incidents {kind} were not reported"));
            let found = long.of - long.wrong;
            bars.require(*excused <= found, || {
                format!("{excused} incidents {kind} had no CPU, and only {found} were reported")
            });
            bars.allow(0, *reports, &format!("reports of {kind} have no cause"));
            bars.allow(0, *in_time, &format!("reports of {kind} were late"));
            bars.allow(0, *starts, &format!("reports of {kind} have a wrong start"));
            bars.allow(0, *durations, &format!("incidents {kind} have a wrong duration"));
        }
        bars.require(self.not_ended == 0, || format!("the ends of {} incidents were not reported", self.not_ended));
        bars.into_vec()
    }
}

impl ConditionRow {
    /// Compares the times of a report with those of its injected condition.
    fn evaluate(
        &mut self,
        condition: &TrueCondition,
        reported: &ReportedIncident,
        cpu: &CpuAvailability,
        faults: &mut Vec<String>,
    ) {
        self.delays.push(reported.received.saturating_sub(condition.span.start + AFTER_NANOS));
        let mut check = |score: &mut Score, is_right: bool, fault: &str| {
            score.add(is_right);
            if !is_right {
                faults.push(description::of_wrong(fault, reported, condition));
            }
        };
        check(&mut self.in_time, condition.is_in_time(reported, cpu), "late");
        check(&mut self.starts, condition.is_start_right(reported, cpu), "wrong start");
        if let Some(duration) = reported.duration {
            check(&mut self.durations, condition.is_duration_right(duration, cpu), "wrong duration");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: IncidentKind = IncidentKind::WorkersBlocked;

    fn condition(start: u64, nanos: u64) -> TrueCondition {
        TrueCondition {
            kind: KIND,
            runtime: "main".into(),
            span: Span { start, end: start + nanos },
            is_injected: true,
        }
    }

    fn reported(started_at: u64) -> ReportedIncident {
        let received = started_at + AFTER_NANOS + NOTICED;
        let duration = Some(must_report(KIND) - started_at.min(AFTER_NANOS));
        let text = String::new();
        ReportedIncident { kind: KIND, runtime: "main".into(), started_at, received, acted: received, duration, text }
    }

    fn figures(conditions: &[TrueCondition], reported: &[ReportedIncident]) -> IncidentFigures {
        IncidentFigures::new(conditions, reported, Vec::new(), &CpuAvailability::default())
    }

    fn missed(conditions: &[TrueCondition], reported: &[ReportedIncident]) -> String {
        figures(conditions, reported).missed_bars().join("\n")
    }

    #[test]
    fn right_reports_meet_every_bar() {
        let long = condition(0, must_report(KIND));
        let figures = figures(std::slice::from_ref(&long), &[reported(5 * MS)]);
        assert!(figures.missed_bars().is_empty() && figures.faults.is_empty(), "{figures:?}");
        let row = &figures.rows[0];
        assert_eq!((row.long.of, row.reports.of, row.short), (1, 1, 0));
        assert_eq!(row.delays, [5 * MS + NOTICED]);
        assert_eq!(missed(&[condition(0, AFTER_NANOS / 2)], &[]), "", "it is short");
        assert_eq!(missed(&[condition(0, must_report(KIND) - MS)], &[]), "", "it is near");
        let of_machine = TrueCondition { is_injected: false, ..long };
        assert_eq!(missed(std::slice::from_ref(&of_machine), &[]), "", "it need not be reported");
        assert_eq!(missed(std::slice::from_ref(&of_machine), &[reported(0)]), "", "it may be reported");
        let next = condition(of_machine.span.end, must_report(KIND));
        let of_next = reported(next.span.start + MS);
        assert_eq!(missed(&[of_machine, next.clone()], std::slice::from_ref(&of_next)), "", "it is of the next one");
        let short =
            TrueCondition { span: Span { start: next.span.start - AFTER_NANOS, end: next.span.start }, ..next.clone() };
        assert_eq!(missed(&[short, next], &[of_next]), "", "it is of the next one");
    }

    #[test]
    fn every_bar_can_be_missed() {
        let long = condition(0, must_report(KIND));
        let is_missed = |missed: String, text: &str| assert!(missed.contains(text), "{text}: {missed}");
        is_missed(missed(std::slice::from_ref(&long), &[]), "1 of 1 incidents workers_blocked were not reported");
        for other in [
            ReportedIncident { kind: IncidentKind::RuntimeHung, ..reported(0) },
            ReportedIncident { runtime: "other".into(), ..reported(0) },
            reported(5_000 * MS),
            ReportedIncident { received: AFTER_NANOS / 2, ..reported(0) },
        ] {
            let missed = missed(std::slice::from_ref(&long), &[other]);
            is_missed(missed.clone(), "have no cause");
            is_missed(missed, "were not reported");
        }
        is_missed(missed(std::slice::from_ref(&long), &[reported(0), reported(0)]), "1 of 2 reports");
        is_missed(missed(&[condition(0, AFTER_NANOS / 2)], &[reported(0)]), "1 of 1 reports");
        let changed = |change: fn(&mut ReportedIncident)| {
            let mut reported = reported(0);
            change(&mut reported);
            missed(std::slice::from_ref(&long), &[reported])
        };
        is_missed(
            changed(|reported| reported.acted = must_report(KIND) + MS),
            "1 of 1 reports of workers_blocked were late",
        );
        is_missed(changed(|reported| reported.started_at = found_after(KIND) + TOLERANCE + MS), "a wrong start");
        is_missed(changed(|reported| reported.duration = Some(0)), "a wrong duration");
        is_missed(changed(|reported| reported.duration = Some(2 * must_report(KIND))), "a wrong duration");
        let not_ended =
            IncidentFigures::new(&[], &[], vec!["of main".to_owned()], &CpuAvailability::default()).missed_bars();
        is_missed(not_ended.join("\n"), "the ends of 1");
    }

    #[test]
    fn only_a_time_without_a_cpu_when_the_report_is_due_excuses() {
        let long = condition(AFTER_NANOS, 10 * must_report(KIND));
        let missed = |start: u64, nanos: u64| {
            let cpu = CpuAvailability::paused_during(Span { start, end: start + nanos });
            IncidentFigures::new(std::slice::from_ref(&long), &[], Vec::new(), &cpu).missed_bars().join("\n")
        };
        let due = long.due_within();
        for (start, nanos) in [(0, AFTER_NANOS), (due.start, MARGIN - MS), (due.end, 10 * MARGIN)] {
            assert!(missed(start, nanos).contains("1 of 1 incidents"), "{}", missed(start, nanos));
        }
        // It is excused, but none was reported.
        assert!(missed(due.start, MARGIN).contains("1 incidents workers_blocked had no CPU"));
        let late = ReportedIncident { acted: due.end + MARGIN, ..reported(AFTER_NANOS) };
        let cpu = CpuAvailability::paused_during(Span { start: due.start, end: due.start + MARGIN });
        assert!(long.is_in_time(&late, &cpu) && !long.is_in_time(&late, &CpuAvailability::default()));
    }
}

//! Descriptions of wrong reports: what happened when, what was reported, and the time between them.

use std::cmp::Reverse;
use std::fmt;

use super::super::super::ground_truth::{MS, Span};
use super::{ReportedIncident, TrueCondition};

/// What ended this long before a report, or starts this long after it, is described with it.
const NEAR: u64 = 1_000 * MS;
/// The most conditions that are described with a report: those of its kind, the longest ones.
const MAX_NEAR: usize = 6;

/// Returns the description of a report without cause. `all` are the conditions of its runtime.
pub(super) fn of_false<'a>(reported: &ReportedIncident, all: impl Iterator<Item = &'a TrueCondition>) -> String {
    let mut text = format!("without cause: {reported}");
    let mut near: Vec<_> = all.filter(|condition| is_near(condition.span, reported)).collect();
    let is_other = |condition: &TrueCondition| condition.kind != reported.kind;
    near.sort_by_key(|condition| (is_other(condition), Reverse(condition.span.nanos())));
    near.truncate(MAX_NEAR);
    near.sort_by_key(|condition| condition.span.start);
    if near.is_empty() {
        text += "\n  no condition is near";
    }
    for condition in near {
        text += &format!("\n  near {condition}; {}", Gap { reported, span: condition.span });
    }
    text
}

/// Returns the description of a condition that was not reported. `all` are the reports of its
/// runtime.
pub(super) fn of_missed<'a>(condition: &TrueCondition, all: impl Iterator<Item = &'a ReportedIncident>) -> String {
    let mut text = format!("not reported: {condition}");
    for reported in all.filter(|reported| is_near(condition.span, reported)) {
        text += &format!("\n  near {reported}; {}", Gap { reported, span: condition.span });
    }
    text
}

/// Returns the description of a report with a wrong time.
pub(super) fn of_wrong(fault: &str, reported: &ReportedIncident, condition: &TrueCondition) -> String {
    format!("{fault}: {reported}\n  of {condition}; {}", Gap { reported, span: condition.span })
}

fn is_near(span: Span, reported: &ReportedIncident) -> bool {
    let reported = Span { start: reported.started_at, end: reported.end().unwrap_or(reported.received) };
    span.start <= reported.end + NEAR && reported.start <= span.end + NEAR
}

/// A moment or a duration, in milliseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0 as f64 / MS as f64)
    }
}

impl fmt::Display for TrueCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = if self.is_injected { "injected" } else { "not injected" };
        let Span { start, end } = self.span;
        write!(f, "{} in {:?} ({origin}) from {} to {}", self.kind, self.runtime, Millis(start), Millis(end))?;
        write!(f, ", for {}", Millis(self.span.nanos()))
    }
}

impl fmt::Display for ReportedIncident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?} from {}", self.kind, self.runtime, Millis(self.started_at))?;
        match self.end() {
            Some(end) => write!(f, " to {}", Millis(end))?,
            None => f.write_str(" without an end")?,
        }
        write!(f, ", action at {}, callback at {}: {}", Millis(self.acted), Millis(self.received), self.text)
    }
}

/// The distances of a report from a condition.
struct Gap<'a> {
    reported: &'a ReportedIncident,
    span: Span,
}

impl fmt::Display for Gap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut distance = |name: &str, reported: u64, actual: u64| {
            let side = if reported < actual { "before" } else { "after" };
            write!(f, "{name} {} {side} it, ", Millis(reported.abs_diff(actual)))
        };
        distance("reported start", self.reported.started_at, self.span.start)?;
        if let Some(end) = self.reported.end() {
            distance("reported end", end, self.span.end)?;
        }
        write!(f, "action {} after its start", Millis(self.reported.acted.saturating_sub(self.span.start)))
    }
}

#[cfg(test)]
mod tests {
    use pollwatch::IncidentKind;

    use super::*;

    #[test]
    fn a_wrong_report_is_described_with_its_distance_from_the_conditions_near_it() {
        let condition = |start: u64, end: u64| TrueCondition {
            kind: IncidentKind::DriverUnattended,
            runtime: "main".into(),
            span: Span { start: start * MS, end: end * MS },
            is_injected: true,
        };
        let reported = ReportedIncident {
            kind: IncidentKind::DriverUnattended,
            runtime: "main".into(),
            started_at: 4_900 * MS,
            received: 5_220 * MS,
            acted: 5_210 * MS,
            duration: Some(620 * MS),
            text: "incident #1".into(),
        };
        let all = [condition(5_000, 5_500), condition(20, 40)];
        assert_eq!(
            of_false(&reported, all.iter()),
            "without cause: driver_unattended in \"main\" from 4900.0 ms to 5520.0 ms, action at 5210.0 ms, callback at \
             5220.0 ms: incident #1\n  near driver_unattended in \"main\" (injected) from 5000.0 ms to 5500.0 ms, for \
             500.0 ms; reported start 100.0 ms before it, reported end 20.0 ms after it, action 210.0 ms after its start"
        );
        assert!(of_false(&reported, all[1..].iter()).ends_with("no condition is near"));
        let missed = of_missed(&all[0], [reported].iter());
        assert!(missed.starts_with("not reported: driver_unattended") && missed.contains("start 100.0 ms before it"));
    }
}

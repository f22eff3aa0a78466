//! Which report is of which poll, and how many are right. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use pollwatch::{Cause, Certainty, Phase, Stall};

use super::truth::{Kind, Record, at_wall};

/// A report is false only if its poll fell short of the threshold by this much: the two clocks differ a little.
const SHORT: Duration = Duration::from_micros(100);
/// Moments of the wall clock and of the monotonic one that stand for the same may differ by this much.
const SKEW: Duration = Duration::from_micros(500);

pub(crate) const HEAD: &str = "\
| workers | pool | blocks ≥ 1.25 thresholds + 2 ms | certain | or suspected | computing ≥ 30 | suspected | certain told | wrong | suspected told | wrong | duration off p50 | p99 |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Blocks that stood, and those of them that were told.
    stood: usize,
    stood_certain: usize,
    stood_suspected: usize,
    computed: usize,
    computed_suspected: usize,
    certain: usize,
    pub(crate) certain_wrong: usize,
    suspected: usize,
    suspected_wrong: usize,
    /// By how much the duration of what was certain is off.
    errors: Vec<Duration>,
    pub(crate) faults: Vec<String>,
}

pub(crate) fn judge(threshold: Duration, polls: &[Record], reports: &[Stall]) -> Tally {
    let mut tally = Tally::default();
    // The last report of each stall has its duration; the first, how it was known.
    let mut stalls: BTreeMap<u64, &Stall> = BTreeMap::new();
    for report in reports.iter().filter(|stall| &*stall.runtime == "main") {
        stalls.insert(report.id, report);
    }
    let mut told: Vec<Option<Certainty>> = vec![None; polls.len()];
    for stall in stalls.values() {
        let is_certain = stall.certainty == Certainty::Certain;
        *(if is_certain { &mut tally.certain } else { &mut tally.suspected }) += 1;
        match poll_of(threshold, polls, stall) {
            Some(poll) => {
                if told[poll] != Some(Certainty::Certain) {
                    told[poll] = Some(stall.certainty);
                }
                if let (true, Phase::Resolved, Some((_, inner))) = (is_certain, stall.phase, polls[poll].block) {
                    tally.errors.push(inner.abs_diff(stall.elapsed));
                }
            }
            // Nobody is blamed for what the machine did.
            None if matches!(stall.cause, Cause::Starved | Cause::Paused) => {}
            None => {
                *(if is_certain { &mut tally.certain_wrong } else { &mut tally.suspected_wrong }) += 1;
                tally.faults.push(format!("of no poll on {}: {stall}", stall.thread));
            }
        }
    }
    let long = threshold + threshold / 4 + Duration::from_millis(2);
    for (poll, told) in polls.iter().zip(told) {
        let Some((kind, inner)) = poll.block else { continue };
        if kind.stands() && inner >= long {
            tally.stood += 1;
            match told {
                Some(Certainty::Certain) => tally.stood_certain += 1,
                Some(_) => tally.stood_suspected += 1,
                None => tally.faults.push(format!("not told: {kind:?} for {inner:?} on {}", poll.thread)),
            }
        }
        if kind == Kind::Computes && inner >= threshold * 30 {
            tally.computed += 1;
            tally.computed_suspected += usize::from(told.is_some());
        }
    }
    tally.errors.sort_unstable();
    tally
}

/// The poll that the report is of: on this thread, within its bounds, and long enough. One that handed its worker on is none.
fn poll_of(threshold: Duration, polls: &[Record], stall: &Stall) -> Option<usize> {
    let (begin, end) = (at_wall(stall.began), at_wall(stall.began) + stall.elapsed);
    polls.iter().position(|poll| {
        *poll.thread == *stall.thread
            && poll.begin <= begin + SKEW
            && end <= poll.end + SKEW
            && poll.end - poll.begin + SHORT >= threshold
            && poll.block.is_none_or(|(kind, _)| kind != Kind::InPlace)
    })
}

impl Tally {
    pub(crate) fn row(&self, workers: usize, pool: bool) -> String {
        let share = |part: usize, of: usize| match of {
            0 => "-".to_owned(),
            _ => format!("{:.1}%", 100.0 * part as f64 / of as f64),
        };
        let off = |q: f64| match self.errors.len() {
            0 => "-".to_owned(),
            n => format!("{:.1} ms", self.errors[((n - 1) as f64 * q) as usize].as_secs_f64() * 1e3),
        };
        let cells = [
            workers.to_string(),
            if pool { "busy" } else { "idle" }.to_owned(),
            self.stood.to_string(),
            share(self.stood_certain, self.stood),
            share(self.stood_certain + self.stood_suspected, self.stood),
            self.computed.to_string(),
            share(self.computed_suspected, self.computed),
            self.certain.to_string(),
            self.certain_wrong.to_string(),
            self.suspected.to_string(),
            self.suspected_wrong.to_string(),
            off(0.5),
            off(0.99),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

//! Compares the victims that were reported with the waits that there were.

use std::collections::{BTreeMap, BTreeSet};

use pollwatch::snapshot::Snapshot;
use pollwatch::{Stall, Victims};

use super::super::ground_truth::{MS, Poll, Span};
use super::super::statements::{MissedBars, Score};
use super::waiting::Wait;

/// A wait counts from this part of the threshold on, as is documented.
const MIN_WAIT: u64 = 4;
/// The difference that two clocks may have over a wait.
const CLOCKS: u64 = MS / 10;
/// A wait must be counted only if it was longer than needed by this much. The thread may be
/// preempted between the readings of tokio, which come first, and of the task.
const MARGIN: u64 = 2 * MS;

/// A stall, and the poll that it is about.
pub(super) struct StallAndPoll<'a> {
    pub(super) stall: &'a Stall,
    pub(super) poll: &'a Poll,
}

/// The least and the most of a number that is known within bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bounds {
    least: u64,
    most: u64,
}

impl Bounds {
    fn contains(self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }

    fn add(&mut self, least: u64, most: u64) {
        self.least += least;
        self.most += most;
    }

    /// Returns the distance of a number from these bounds, in parts per million of the upper one.
    fn error_ppm(self, number: u64) -> u64 {
        let distance = number.saturating_sub(self.most).max(self.least.saturating_sub(number));
        (u128::from(distance) * 1_000_000 / u128::from(self.most.max(1))) as u64
    }
}

/// The victims that a stall has: tasks, and their time in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct TrueVictims {
    tasks: Bounds,
    waited: Bounds,
}

/// The figures of a run, which are a row of the table.
#[derive(Debug, Default)]
pub(crate) struct VictimFigures {
    pub(crate) stalls: usize,
    /// The stalls with tasks behind them. The wrong ones have a wrong number of them.
    pub(crate) with_victims: Score,
    /// The victims that were reported. The wrong ones are more than a stall can have of their site
    /// or route.
    pub(crate) victims: Score,
    /// The victims that a stall certainly has of a site or route. The wrong ones are missing there.
    pub(crate) found: Score,
    /// The stalls with victims. The wrong ones have another number of them than their groups.
    pub(crate) sums: Score,
    /// The errors of the time that a stall's victims waited in all, in parts per million, sorted.
    pub(crate) errors: Vec<u64>,
    /// The sites of which the delay of all polls was compared.
    pub(crate) sites: usize,
    /// The largest error of the delay of a site, in parts per million.
    pub(crate) site_error: u64,
    /// The delays that came too fast to be read.
    pub(crate) lost: u64,
    pub(crate) faults: Vec<String>,
}

impl VictimFigures {
    pub(super) fn new(pairs: &[StallAndPoll<'_>], waits: &[Wait], threshold: u64) -> VictimFigures {
        let mut figures = VictimFigures { stalls: pairs.len(), ..VictimFigures::default() };
        pairs.iter().for_each(|pair| figures.evaluate(pair, waits, threshold));
        figures.errors.sort_unstable();
        figures
    }

    fn evaluate(&mut self, pair: &StallAndPoll<'_>, waits: &[Wait], threshold: u64) {
        let mut groups: BTreeMap<&str, TrueVictims> = BTreeMap::new();
        let mut all = TrueVictims::default();
        for wait in waits {
            let Some(behind) = time_behind(wait, pair.poll, threshold) else { continue };
            let is_certain = u64::from(behind.least > 0);
            for victims in [&mut all, groups.entry(&wait.group).or_default()] {
                victims.tasks.add(is_certain, 1);
                victims.waited.add(behind.least, behind.most);
            }
        }
        let reported = pair.stall.victims.as_ref();
        let tasks = reported.map_or(0, |victims| victims.tasks);
        let before = self.faults.len();
        if all.tasks.least > 0 || tasks > 0 {
            self.with_victims.add(all.tasks.contains(tasks));
            if !all.tasks.contains(tasks) {
                self.faults.push(format!("{tasks} victims, not {:?}", all.tasks));
            }
        }
        self.compare_groups(&groups, reported);
        let Some(victims) = reported else { return self.describe(before, pair, &groups) };
        if all.tasks.contains(tasks) {
            let error = all.waited.error_ppm(victims.waited.as_nanos() as u64);
            self.errors.push(error);
            if error > MAX_ERROR_PPM {
                self.faults.push(format!("{:?} are not within {:?}", victims.waited, all.waited));
            }
        }
        self.describe(before, pair, &groups);
    }

    /// Compares the victims of each route and site.
    fn compare_groups(&mut self, groups: &BTreeMap<&str, TrueVictims>, reported: Option<&Victims>) {
        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        let reported_groups = reported.map_or(&[][..], |victims| &victims.groups);
        for group in reported_groups {
            let name = group.route.as_deref().map_or_else(|| site_name(group), str::to_owned);
            *by_name.entry(name).or_default() += group.tasks;
        }
        let names: BTreeSet<&str> = groups.keys().copied().chain(by_name.keys().map(String::as_str)).collect();
        for name in names {
            let of_group = groups.get(name).copied().unwrap_or_default().tasks;
            let tasks = by_name.get(name).copied().unwrap_or(0);
            let (surplus, missing) = (tasks.saturating_sub(of_group.most), of_group.least.saturating_sub(tasks));
            self.victims.wrong += surplus as usize;
            self.found.of += of_group.least as usize;
            self.found.wrong += missing as usize;
            if surplus + missing > 0 {
                self.faults.push(format!("{tasks} victims of {name}, not {of_group:?}"));
            }
        }
        let Some(victims) = reported else { return };
        self.victims.of += victims.tasks as usize;
        let sum = by_name.values().sum::<u64>() + victims.others;
        self.sums.add(sum == victims.tasks);
        if sum != victims.tasks {
            self.faults.push(format!("{sum} victims in groups, and {} in all", victims.tasks));
        }
    }

    /// Adds the stall to the faults of it.
    fn describe(&mut self, before: usize, pair: &StallAndPoll<'_>, groups: &BTreeMap<&str, TrueVictims>) {
        for fault in &mut self.faults[before..] {
            *fault += &format!(": {}\n  {groups:?}\n  {:?}", pair.stall, pair.poll);
        }
    }

    /// Compares the delays of all sites with the waits of their tasks.
    pub(super) fn compare_sites(&mut self, waits: &[Wait], snapshot: &Snapshot) {
        let sites: BTreeSet<&str> = waits.iter().map(|wait| &*wait.site).collect();
        for site in sites {
            let mut waited = Bounds::default();
            for Wait { scheduled, polled, .. } in waits.iter().filter(|wait| &*wait.site == site) {
                waited.add(polled.saturating_sub(scheduled.end), polled.saturating_sub(scheduled.start));
            }
            let reported = snapshot.sites.iter().filter(|snapshot| snapshot.site.to_string() == site);
            let reported: u64 = reported.map(|snapshot| snapshot.delay.as_nanos() as u64).sum();
            let error = waited.error_ppm(reported);
            self.sites += 1;
            self.site_error = self.site_error.max(error);
            if error > MAX_ERROR_PPM {
                self.faults.push(format!("the delay of {site} is {reported}, not within {waited:?}"));
            }
        }
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let VictimFigures { with_victims, victims, found, sums, errors, site_error, lost, .. } = self;
        let mut bars = MissedBars::default();
        bars.allow(0, *victims, "victims are of a wrong stall");
        bars.allow(0, *found, "victims are missing in their group");
        bars.allow(0, *sums, "stalls have another number of victims than their groups");
        bars.allow(0, *with_victims, "stalls have a wrong number of victims");
        let imprecise = errors.iter().filter(|error| **error > MAX_ERROR_PPM).count();
        let imprecise = Score { wrong: imprecise, of: errors.len() };
        bars.allow((errors.len() / 100).max(1), imprecise, "stalls have wrong times of victims");
        bars.require(*site_error <= MAX_ERROR_PPM, || format!("the delay of a site is off by {site_error} ppm"));
        bars.require(*lost == 0, || format!("{lost} delays were lost"));
        bars.into_vec()
    }
}

/// The bar for the errors of times: 2 %. A thread that is preempted when a poll starts makes larger
/// ones, of at most one stall and one in 100.
const MAX_ERROR_PPM: u64 = 20_000;

fn site_name(group: &pollwatch::VictimGroup) -> String {
    group.site.map_or_else(String::new, |site| site.to_string())
}

/// Returns for how long a task waited behind a poll, if it may count: at least, and at most.
fn time_behind(wait: &Wait, poll: &Poll, threshold: u64) -> Option<Bounds> {
    let inner = poll.inner()?;
    // The thread polls the task only when the poll is over.
    let is_behind = wait.thread == poll.thread && wait.polled > inner.end && wait.scheduled.start < poll.outer.end;
    let (longest, shortest) =
        (wait.polled.saturating_sub(wait.scheduled.start), wait.polled.saturating_sub(wait.scheduled.end));
    if !is_behind || longest + CLOCKS < threshold / MIN_WAIT {
        return None;
    }
    let part = |scheduled: u64, poll: Span| poll.end.saturating_sub(poll.start.max(scheduled));
    let most = part(wait.scheduled.start, poll.outer);
    let is_long = shortest >= threshold / MIN_WAIT + MARGIN;
    let least = if is_long { part(wait.scheduled.end, inner) } else { 0 };
    Some(Bounds { least, most })
}

#[cfg(test)]
mod tests {
    use super::super::super::matching::tests::{T, poll};
    use super::*;

    fn wait(scheduled: u64, polled: u64) -> Wait {
        let scheduled = Span { start: scheduled, end: scheduled + MS / 100 };
        Wait { group: "/a".into(), site: "a.rs:1:1".into(), scheduled, polled, thread: poll(0, MS).thread }
    }

    fn behind(wait: &Wait) -> Option<Bounds> {
        time_behind(wait, &poll(20 * MS, 30 * MS), T)
    }

    #[test]
    fn a_wait_counts_behind_the_poll_before_it() {
        let after = 20 * MS + poll(0, 30 * MS).outer.nanos() + MS;
        let all = behind(&wait(0, after)).expect("it waited for all of it");
        assert!(all.least >= 29 * MS && all.most >= all.least && all.most < 32 * MS, "{all:?}");
        let part = behind(&wait(40 * MS, after)).expect("it waited for the rest of it");
        assert!(part.most < all.least, "{part:?}");
        assert_eq!(behind(&wait(40 * MS, 45 * MS)), None, "another poll of the thread was within");
        assert_eq!(behind(&wait(after, after + 20 * MS)), None, "it was woken later");
        assert_eq!(behind(&wait(after - 3 * MS, after - MS)), None, "its wait was short");
        assert_eq!(behind(&Wait { thread: "other".into(), ..wait(0, after) }), None);
    }

    #[test]
    fn the_error_is_the_distance_from_the_bounds() {
        let bounds = Bounds { least: 90, most: 100 };
        assert_eq!([90, 95, 100, 110, 45].map(|number| bounds.error_ppm(number)), [0, 0, 0, 100_000, 450_000]);
    }

    #[test]
    fn every_bar_can_be_missed() {
        let missed = |change: fn(&mut VictimFigures)| {
            let mut figures = VictimFigures::default();
            change(&mut figures);
            figures.missed_bars().join("\n")
        };
        assert_eq!(missed(|_| ()), "");
        for (change, text) in [
            ((|f| f.victims.wrong = 1) as fn(&mut VictimFigures), "wrong stall"),
            (|f| f.found.wrong = 1, "missing in their group"),
            (|f| f.sums.wrong = 1, "than their groups"),
            (|f| f.with_victims.wrong = 1, "wrong number"),
            (|f| f.errors = vec![0, MAX_ERROR_PPM + 1, MAX_ERROR_PPM + 1], "2 of 3 stalls"),
            (|f| f.site_error = MAX_ERROR_PPM + 1, "a site"),
            (|f| f.lost = 1, "lost"),
        ] {
            assert!(missed(change).contains(text), "{text}");
        }
    }
}

//! What the workers of a runtime did between two readings of their counters.

use std::collections::HashMap;
use std::hash::Hash;

use crate::detect::time_account::ThreadTimes;
use crate::measure::primitives::route::RouteId;
use crate::model::id::{SiteId, ThreadNumber};
use crate::model::late_runtime::LateReason;
use crate::model::time::Nanos;
use pollwatch_stack::Tid;

/// The share of the workers' time from which on they are too busy.
const BUSY: f64 = 0.8;
/// The share of the workers' time from which on they lack CPUs.
const WITHOUT_CPU: f64 = 0.5;
/// The most sites, and routes, of a report.
const MAX_USERS: usize = 10;

/// Polls, and the time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PollUsage {
    pub(crate) polls: u64,
    pub(crate) busy: Nanos,
}

impl PollUsage {
    pub(crate) fn add(&mut self, other: PollUsage) {
        self.polls += other.polls;
        self.busy += other.busy;
    }

    fn since(self, earlier: PollUsage) -> PollUsage {
        let polls = self.polls.saturating_sub(earlier.polls);
        PollUsage { polls, busy: self.busy.saturating_sub(earlier.busy) }
    }
}

/// A reading of what the threads of one runtime have done so far.
#[derive(Debug, Default)]
pub(crate) struct UsageReading {
    pub(crate) at: Nanos,
    /// The number of workers.
    pub(crate) workers: usize,
    /// The polls by thread and site, with the time so far of those that are running. Two threads
    /// are not summed up, because one of them may exit.
    pub(crate) sites: HashMap<(ThreadNumber, SiteId), PollUsage>,
    /// The requests by thread and route.
    pub(crate) routes: HashMap<(ThreadNumber, RouteId), PollUsage>,
    /// The times of the threads of the workers, as the kernel counts them.
    pub(crate) threads: HashMap<Tid, ThreadTimes>,
    /// True if the runtime has more threads, which were not read.
    pub(crate) is_cut: bool,
}

/// What the workers of a runtime did for some time. Shares are of the time of all workers.
#[derive(Debug, PartialEq)]
pub(crate) struct RuntimeUsage {
    pub(crate) observed: Nanos,
    pub(crate) workers: usize,
    pub(crate) polling: f64,
    pub(crate) on_cpu: Option<f64>,
    pub(crate) waiting_for_cpu: Option<f64>,
    /// The busiest sites, the busiest first.
    pub(crate) sites: Vec<(SiteId, PollUsage)>,
    /// The busiest routes, the busiest first.
    pub(crate) routes: Vec<(RouteId, PollUsage)>,
}

impl RuntimeUsage {
    /// Returns what happened between two readings.
    pub(crate) fn between(before: &UsageReading, after: &UsageReading) -> RuntimeUsage {
        let observed = after.at.saturating_sub(before.at);
        let workers = after.workers.max(1);
        let time_of_workers = observed.0 as f64 * workers as f64;
        let share = |time: Nanos| if observed > Nanos::ZERO { (time.0 as f64 / time_of_workers).min(1.0) } else { 0.0 };
        let sites = differences(&before.sites, &after.sites);
        let polling = share(sites.iter().map(|(_, usage)| usage.busy).sum());
        // What a thread did before its first reading is not known: it may be old, and have become a
        // worker's since.
        let both: Vec<_> =
            after.threads.iter().filter_map(|(tid, now)| Some((before.threads.get(tid)?, now))).collect();
        let delays: Option<Vec<Nanos>> =
            both.iter().map(|(then, now)| Some(now.run_delay?.saturating_sub(then.run_delay?))).collect();
        let is_known = !both.is_empty() && !after.is_cut;
        let on_cpu = is_known.then(|| both.iter().map(|(then, now)| now.cpu.saturating_sub(then.cpu)).sum());
        let waiting = delays.filter(|_| is_known).map(|delays| delays.into_iter().sum());
        RuntimeUsage {
            observed,
            workers,
            polling,
            on_cpu: on_cpu.map(share),
            waiting_for_cpu: waiting.map(share),
            sites: busiest(sites),
            routes: busiest(differences(&before.routes, &after.routes)),
        }
    }

    /// Returns why the runtime was late.
    pub(crate) fn reason(&self) -> LateReason {
        // A thread without a CPU may be in a poll: then both shares are high.
        if self.waiting_for_cpu.is_some_and(|share| share >= WITHOUT_CPU) {
            LateReason::NoCpu
        } else if self.polling >= BUSY || self.on_cpu.is_some_and(|share| share >= BUSY) {
            LateReason::BusyWorkers
        } else {
            LateReason::Unknown
        }
    }

    /// Returns the share of a time in that of all workers.
    pub(crate) fn share(&self, time: Nanos) -> f64 {
        let all = self.observed.0 as f64 * self.workers as f64;
        if all > 0.0 { (time.0 as f64 / all).min(1.0) } else { 0.0 }
    }
}

/// Returns the differences between two readings, summed over threads.
fn differences<K: Copy + Eq + Hash>(
    before: &HashMap<(ThreadNumber, K), PollUsage>,
    after: &HashMap<(ThreadNumber, K), PollUsage>,
) -> Vec<(K, PollUsage)> {
    let mut sums: HashMap<K, PollUsage> = HashMap::new();
    for (key, usage) in after {
        let usage = usage.since(before.get(key).copied().unwrap_or_default());
        sums.entry(key.1).or_default().add(usage);
    }
    sums.into_iter().filter(|(_, usage)| usage.busy > Nanos::ZERO).collect()
}

/// Returns the busiest, the busiest first.
fn busiest<K: Ord>(mut all: Vec<(K, PollUsage)>) -> Vec<(K, PollUsage)> {
    all.sort_by(|(a, first), (b, second)| second.busy.cmp(&first.busy).then(a.cmp(b)));
    all.truncate(MAX_USERS);
    all
}

//! Runs in which CPUs are short: with four busy threads per core, and under a CPU limit. Polls take
//! long because they are given no CPU, and no task may be blamed for that. A poll that is on a CPU
//! for the threshold is to blame, whatever it waits for besides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::Cause;
use tokio::task::yield_now;

use super::cpu_limit::CpuLimit;
use super::cpu_monitor;
use super::fixture::{Fixture, Outcome};
use super::ground_truth::{Poll, ReportedStall};
use super::guarantee::Guarantee;
use super::kinds::{Job, Kind, Wait};
use super::matching::match_up;
use super::modes::{Mode, run_watched};
use super::rng::Rng;
use super::statements::MissedBars;
use super::unwatched::Unwatched;

#[derive(Debug, Default)]
pub(crate) struct Overload {
    pub(crate) shortage: Shortage,
    pub(crate) polls: u64,
    pub(crate) reports: usize,
    /// Reports that match no poll, or a short one.
    pub(crate) wrong: usize,
    /// Reports of polls that would have been short without their run delay.
    pub(crate) innocent: usize,
    /// The innocent polls whose report blames the task.
    pub(crate) blamed: usize,
    /// Reports of polls that were long without their run delay.
    pub(crate) guilty: usize,
    /// Reports of polls that were on a CPU for the threshold.
    pub(crate) computed: usize,
    /// Those of them whose last report has the cause `cpu`.
    pub(crate) computed_found: usize,
    pub(crate) missed: usize,
    /// The reported causes of innocent and of guilty polls, with their numbers.
    pub(crate) causes: BTreeMap<(&'static str, &'static str), usize>,
    pub(crate) faults: Vec<String>,
}

impl Overload {
    /// Evaluates reports and the recorded polls.
    pub(crate) fn new(guarantee: &Guarantee, polls: &[Poll], reported: &[ReportedStall]) -> Overload {
        let matching = match_up(guarantee, polls, reported);
        let mut overload = Overload {
            reports: reported.len(),
            wrong: matching.wrong.len() + matching.duplicates.len(),
            missed: matching.missed.len(),
            ..Overload::default()
        };
        for i in matching.wrong.iter().chain(&matching.duplicates) {
            overload.faults.push(format!("false: started_at {} {}", reported[*i].started_at, reported[*i].last().text));
        }
        for (report, poll) in matching.pairs {
            let (poll, last) = (&polls[poll], reported[report].last());
            let innocent = poll.is_innocent(guarantee.threshold);
            let who = if innocent { "innocent" } else { "guilty" };
            *overload.causes.entry((who, last.cause.as_str())).or_default() += 1;
            let (waited, cpu, all) = (poll.waited, poll.cpu, poll.outer.nanos());
            let times = || {
                let reports: Vec<_> =
                    reported[report].reports.iter().map(|r| (r.ongoing, r.elapsed, r.cause.as_str())).collect();
                format!("{cpu} on a CPU, waited for {waited}, of {all}: {reports:?} {}", last.text)
            };
            if poll.computed(guarantee.threshold) {
                overload.computed += 1;
                if last.cause == Cause::Cpu {
                    overload.computed_found += 1;
                } else {
                    overload.faults.push(format!("not blamed though it computed: {}", times()));
                }
            }
            if !innocent {
                overload.guilty += 1;
                continue;
            }
            overload.innocent += 1;
            if !matches!(last.cause, Cause::Starved | Cause::Paused) {
                overload.blamed += 1;
                overload.faults.push(format!("blamed though it was given no CPU: {}", times()));
            }
        }
        overload
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut bars = MissedBars::default();
        let mut bar = |wrong: usize, text: &str| bars.require(wrong == 0, || format!("{wrong} {text}"));
        bar(self.wrong, "reports are false");
        bar(self.missed, "long blocks were not reported");
        // The kernel's run delay ends with the last time slice of a thread, which may be waiting
        // again when it is inspected. Of 8,000 such polls one was blamed (docs/accuracy.md).
        let allowed = match self.shortage {
            Shortage::BusyThreads => self.innocent / 1_000,
            // The quota stops the watchdog as well, so that polls start and end between two scans.
            // Of 1,527 such polls none was blamed for computing, and 3 had the cause `unknown`.
            Shortage::CpuLimit => self.innocent / 100,
        };
        let blamed = if self.blamed > 1 + allowed { self.blamed } else { 0 };
        bar(blamed, "were blamed for being given no CPU");
        let unfound = self.computed - self.computed_found;
        let unfound = if unfound > 1 + self.computed / 100 { unfound } else { 0 };
        bar(unfound, "were on a CPU for the threshold, and reported with another cause than cpu");
        bars.into_vec()
    }
}

/// Computes until `time` nanoseconds of CPU time are used.
#[inline(never)]
fn compute_cpu_time(time: u64) {
    let start = cpu_monitor::own_cpu();
    while cpu_monitor::own_cpu() - start < time {
        for _ in 0..500 {
            std::hint::spin_loop();
        }
    }
}

/// Why CPUs are short in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Four busy threads per core.
    #[default]
    BusyThreads,
    /// A quota for this process, of three quarters of a CPU, which one busy thread shares.
    CpuLimit,
}

/// The number of CPUs that the quota allows.
const LIMIT: f64 = 0.75;

/// Runs a mode. An error is a sentence that says why this shortage is not possible here.
pub(crate) fn run(
    mode: Mode,
    shortage: Shortage,
    threshold: Duration,
    time: Duration,
    seed: u64,
) -> Result<Overload, String> {
    let (busy, _limit) = match shortage {
        Shortage::BusyThreads => (busy_threads(), None),
        Shortage::CpuLimit => (1, Some(CpuLimit::set(LIMIT)?)),
    };
    let (guarantee, Outcome { polls, recorded, reported, .. }, _) =
        run_watched(mode, threshold, |fixture| run_load(fixture, busy, time, seed));
    Ok(Overload { shortage, polls, ..Overload::new(&guarantee, &recorded, &reported) })
}

/// Returns the number of busy threads: four per core.
fn busy_threads() -> usize {
    4 * std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs a mode that measures no task.
pub(crate) fn run_unwatched(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Unwatched {
    let (guarantee, outcome, cpu) =
        run_watched(mode, threshold, |fixture| run_load(fixture, busy_threads(), time, seed));
    Unwatched::new(&guarantee, &outcome, &cpu, !mode.uses_pool())
}

fn run_load(fixture: &Arc<Fixture>, busy: usize, time: Duration, seed: u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..busy)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let nanos = fixture.threshold;
    let end = Instant::now() + time;
    let (done, is_done) = mpsc::channel::<()>();
    for i in 0..3 {
        let (mut rng, done) = (Rng::new(seed + i), done.clone());
        fixture.spawn(false, async move {
            let _done = done;
            while Instant::now() < end {
                compute_cpu_time((nanos as f64 * rng.between(0.05, 0.6)) as u64);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    let mut rng = Rng::new(seed + 9);
    fixture.spawn(false, async move {
        let _done = done;
        while Instant::now() < end {
            if rng.below(2) == 0 {
                compute_cpu_time((nanos as f64 * rng.between(1.1, 6.0)) as u64);
            } else {
                let time = Duration::from_nanos((nanos as f64 * rng.between(1.5, 3.0)) as u64);
                Job { kind: Kind::Sleeps, wait: Wait::Itself(time), started: mpsc::channel().0 }.run();
            }
            for _ in 0..3 {
                yield_now().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let _ = is_done.recv();
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().expect("a busy thread does not panic"));
}

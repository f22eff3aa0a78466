//! Four busy threads a core beside the runtime: polls take long because they are given no CPU, and no task may be blamed for that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::Cause;
use tokio::task::yield_now;

use super::cpu_monitor;
use super::fixture::{Outcome, Scene};
use super::ground_truth::{Poll, Told};
use super::guarantee::Promise;
use super::kinds::{Job, Kind, Wait};
use super::matching::match_up;
use super::modes::{Mode, while_it_is_watched};
use super::rng::Draw;
use super::unwatched::Unwatched;

#[derive(Debug, Default)]
pub(crate) struct Overload {
    pub(crate) polls: u64,
    pub(crate) reports: usize,
    /// Reports of polls that were short, or of none.
    pub(crate) wrong: usize,
    /// Reports of polls that would have been short, had they been given a CPU.
    pub(crate) innocent: usize,
    /// Of these, those that are held against the task.
    pub(crate) blamed: usize,
    /// Reports of polls that blocked by themselves.
    pub(crate) guilty: usize,
    pub(crate) missed: usize,
    /// What the innocent, and the guilty, were told as.
    pub(crate) causes: BTreeMap<(&'static str, &'static str), usize>,
    pub(crate) faults: Vec<String>,
}

impl Overload {
    /// Of reports and the polls that they are of, whatever was done beside them.
    pub(crate) fn new(promise: &Promise, polls: &[Poll], told: &[Told]) -> Overload {
        let matching = match_up(promise, polls, told);
        let mut overload = Overload {
            reports: told.len(),
            wrong: matching.wrong.len() + matching.duplicates.len(),
            missed: matching.missed.len(),
            ..Overload::default()
        };
        for i in matching.wrong.iter().chain(&matching.duplicates) {
            overload.faults.push(format!("false: began {} {}", told[*i].began, told[*i].last().text));
        }
        for (report, poll) in matching.pairs {
            let (poll, last) = (&polls[poll], told[report].last());
            let innocent = poll.is_innocent(promise.threshold);
            let who = if innocent { "innocent" } else { "guilty" };
            *overload.causes.entry((who, last.cause.as_str())).or_default() += 1;
            if !innocent {
                overload.guilty += 1;
                continue;
            }
            overload.innocent += 1;
            if !matches!(last.cause, Cause::Starved | Cause::Paused) {
                overload.blamed += 1;
                let (waited, all) = (poll.waited, poll.outer.nanos());
                let reports: Vec<_> = told[report].reports.iter().map(|r| (r.ongoing, r.elapsed)).collect();
                overload
                    .faults
                    .push(format!("blamed though it waited for {waited} of {all}: {reports:?} {}", last.text));
            }
        }
        overload
    }

    /// The bars that are missed, in words.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut bar = |wrong: usize, text: &str| {
            if wrong > 0 {
                missed.push(format!("{wrong} {text}"))
            }
        };
        bar(self.wrong, "reports are false");
        bar(self.missed, "long blocks were not told");
        // What the kernel says that a thread has waited is of the time up to its last turn: at the moment of a look it may be waiting
        // again. Of 8,000 such polls one was blamed; see docs/accuracy.md.
        let blamed = if self.blamed > 1 + self.innocent / 1_000 { self.blamed } else { 0 };
        bar(blamed, "were blamed for being given no CPU");
        missed
    }
}

/// Computes for so much CPU time, however long that takes.
#[inline(never)]
fn works(time: u64) {
    let begin = cpu_monitor::own_cpu();
    while cpu_monitor::own_cpu() - begin < time {
        for _ in 0..500 {
            std::hint::spin_loop();
        }
    }
}

pub(crate) fn run(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Overload {
    let (promise, Outcome { polls, journal, told, .. }, _) =
        while_it_is_watched(mode, threshold, |scene| happens(scene, time, seed));
    Overload { polls, ..Overload::new(&promise, &journal, &told) }
}

/// For a mode that measures no task.
pub(crate) fn run_unwatched(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Unwatched {
    let (promise, outcome, watch) = while_it_is_watched(mode, threshold, |scene| happens(scene, time, seed));
    Unwatched::new(&promise, &outcome, &watch, !mode.uses_pool())
}

fn happens(scene: &Arc<Scene>, time: Duration, seed: u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..4 * cpus)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let nanos = scene.threshold;
    let end = Instant::now() + time;
    let (done, is_done) = mpsc::channel::<()>();
    for i in 0..3 {
        let (mut draw, done) = (Draw::new(seed + i), done.clone());
        scene.spawn(false, async move {
            let _done = done;
            while Instant::now() < end {
                works((nanos as f64 * draw.between(0.05, 0.6)) as u64);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    let mut draw = Draw::new(seed + 9);
    scene.spawn(false, async move {
        let _done = done;
        while Instant::now() < end {
            if draw.below(2) == 0 {
                works((nanos as f64 * draw.between(1.5, 3.0)) as u64);
            } else {
                let time = Duration::from_nanos((nanos as f64 * draw.between(1.5, 3.0)) as u64);
                Job { kind: Kind::Sleeps, wait: Wait::Itself(time), go: mpsc::channel().0 }.run();
            }
            for _ in 0..3 {
                yield_now().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let _ = is_done.recv();
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().expect("it only computes"));
}

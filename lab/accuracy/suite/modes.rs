//! The modes of the suite, and the run of one mode.

use std::sync::Arc;
use std::time::Duration;

use super::background::Background;
use super::cpu_monitor::{CpuAvailability, CpuMonitor};
use super::evaluation::Evaluation;
use super::fixture::{self, Fixture, Outcome};
use super::guarantee::Guarantee;
use super::injector::inject;
use super::unwatched::Unwatched;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    CurrentThread,
    MultiThread(usize),
}

/// The way in which pollwatch measures the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instrumentation {
    /// tokio's task hooks measure every task.
    #[cfg(tokio_unstable)]
    Hooks,
    /// `Watchdog::watch` wraps each task, with `tokio_unstable` on a runtime that pollwatch did not
    /// build.
    Wrapper,
    /// No task is measured. The workers are observed from outside, which pollwatch does only
    /// without `tokio_unstable`.
    #[cfg(not(tokio_unstable))]
    Unwatched {
        /// True if threads of the blocking pool take over workers, and start and end.
        pool: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) instrumentation: Instrumentation,
    pub(crate) flavour: Flavour,
}

const FLAVOURS: [Flavour; 4] =
    [Flavour::CurrentThread, Flavour::MultiThread(1), Flavour::MultiThread(2), Flavour::MultiThread(4)];

/// The instrumentations that measure every task.
#[cfg(tokio_unstable)]
const INSTRUMENTATIONS: &[Instrumentation] = &[Instrumentation::Hooks, Instrumentation::Wrapper];
#[cfg(not(tokio_unstable))]
const INSTRUMENTATIONS: &[Instrumentation] = &[Instrumentation::Wrapper];

/// The instrumentations that measure no task.
#[cfg(tokio_unstable)]
const UNWATCHED: &[Instrumentation] = &[];
#[cfg(not(tokio_unstable))]
const UNWATCHED: &[Instrumentation] =
    &[Instrumentation::Unwatched { pool: false }, Instrumentation::Unwatched { pool: true }];

/// True if tokio's task hooks are compiled in.
pub(crate) const UNSTABLE: bool = cfg!(tokio_unstable);

impl Mode {
    /// Returns the modes that measure every task.
    pub(crate) fn measured() -> impl Iterator<Item = Mode> {
        INSTRUMENTATIONS.iter().flat_map(|&instrumentation| FLAVOURS.map(|flavour| Mode { instrumentation, flavour }))
    }

    /// Returns the modes that measure no task. There are none with `tokio_unstable`.
    pub(crate) fn unwatched() -> impl Iterator<Item = Mode> {
        let flavours = FLAVOURS.into_iter().filter(|flavour| *flavour != Flavour::CurrentThread);
        UNWATCHED
            .iter()
            .flat_map(move |&instrumentation| flavours.clone().map(move |flavour| Mode { instrumentation, flavour }))
    }

    pub(crate) fn name(self) -> String {
        let instrumentation = match self.instrumentation {
            #[cfg(tokio_unstable)]
            Instrumentation::Hooks => "hooks",
            Instrumentation::Wrapper => "wrapper",
            #[cfg(not(tokio_unstable))]
            Instrumentation::Unwatched { pool: false } => "unwatched, pool idle",
            #[cfg(not(tokio_unstable))]
            Instrumentation::Unwatched { pool: true } => "unwatched, pool busy",
        };
        match self.flavour {
            Flavour::CurrentThread => format!("{instrumentation}, current-thread"),
            Flavour::MultiThread(1) => format!("{instrumentation}, 1 worker"),
            Flavour::MultiThread(n) => format!("{instrumentation}, {n} workers"),
        }
    }

    /// Returns true if tokio's task hooks measure the tasks.
    pub(crate) fn has_hooks(self) -> bool {
        match self.instrumentation {
            #[cfg(tokio_unstable)]
            Instrumentation::Hooks => true,
            _ => false,
        }
    }

    /// Returns true if no task is measured.
    pub(crate) fn is_unwatched(self) -> bool {
        match self.instrumentation {
            #[cfg(not(tokio_unstable))]
            Instrumentation::Unwatched { .. } => true,
            _ => false,
        }
    }

    /// Returns true if the load uses the blocking pool.
    pub(crate) fn uses_pool(self) -> bool {
        match self.instrumentation {
            #[cfg(not(tokio_unstable))]
            Instrumentation::Unwatched { pool } => pool,
            _ => true,
        }
    }

    /// Returns true if the load calls `block_in_place`, which needs a multi-thread runtime.
    pub(crate) fn uses_block_in_place(self) -> bool {
        self.uses_pool() && self.flavour != Flavour::CurrentThread
    }

    pub(crate) fn workers(self) -> usize {
        match self.flavour {
            Flavour::CurrentThread => 1,
            Flavour::MultiThread(n) => n,
        }
    }

    pub(crate) fn guarantee(self, threshold: u64) -> Guarantee {
        if self.is_unwatched() { Guarantee::unwatched(threshold) } else { Guarantee::measured(threshold) }
    }
}

/// Runs a mode for some time.
pub(crate) fn run(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Evaluation {
    let (guarantee, outcome, cpu) = run_load(mode, threshold, time, seed);
    let Outcome { polls, counted, recorded, reported, .. } = outcome;
    Evaluation { polls, counted, ..Evaluation::new(&guarantee, &recorded, &reported, &cpu) }
}

/// Runs a mode that measures no task.
pub(crate) fn run_unwatched(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Unwatched {
    let (guarantee, outcome, cpu) = run_load(mode, threshold, time, seed);
    Unwatched::new(&guarantee, &outcome, &cpu, !mode.uses_pool())
}

fn run_load(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> (Guarantee, Outcome, CpuAvailability) {
    run_watched(mode, threshold, |fixture| {
        let background = Background::start(fixture);
        inject(fixture, time, seed);
        background.stop();
    })
}

/// Runs a load in the fixture of a mode. Returns the guarantee of the mode, the outcome, and the
/// record of available CPUs.
pub(crate) fn run_watched(
    mode: Mode,
    threshold: Duration,
    run_load: impl FnOnce(&Arc<Fixture>),
) -> (Guarantee, Outcome, CpuAvailability) {
    let fixture = Fixture::new(mode, threshold);
    // The monitor is started after the threads of the watchdog, which it observes.
    let cpu_monitor = CpuMonitor::start();
    run_load(&fixture);
    let guarantee = mode.guarantee(fixture.threshold);
    let (outcome, mut cpu) = (fixture::end(fixture), cpu_monitor.stop());
    cpu.remember(guarantee.threshold, &outcome.recorded);
    (guarantee, outcome, cpu)
}

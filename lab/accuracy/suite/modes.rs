//! What is run: each mode is one value in a list.

use std::sync::Arc;
use std::time::Duration;

use super::background::Noise;
use super::cpu_monitor::{Sentinel, Watch};
use super::evaluation::Tally;
use super::fixture::{self, Outcome, Scene};
use super::guarantee::Promise;
use super::injector::inject;
use super::unwatched::Unwatched;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    CurrentThread,
    MultiThread(usize),
}

/// How pollwatch sees the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// tokio's task hooks: every task.
    #[cfg_attr(not(tokio_unstable), allow(dead_code))]
    Hooks,
    /// `Watchdog::watch` around each, with `tokio_unstable` on a runtime that pollwatch did not build.
    Wrapper,
    /// Not at all: their workers are looked at from outside, which is done without `tokio_unstable` only.
    #[cfg_attr(tokio_unstable, allow(dead_code))]
    Unwatched {
        /// Threads of the pool take workers over, and come and go.
        pool: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) way: Way,
    pub(crate) flavour: Flavour,
}

const FLAVOURS: [Flavour; 4] =
    [Flavour::CurrentThread, Flavour::MultiThread(1), Flavour::MultiThread(2), Flavour::MultiThread(4)];

#[cfg(tokio_unstable)]
const WAYS: &[Way] = &[Way::Hooks, Way::Wrapper];
#[cfg(not(tokio_unstable))]
const WAYS: &[Way] = &[Way::Wrapper];

/// Whether tokio's task hooks are compiled in.
pub(crate) const UNSTABLE: bool = cfg!(tokio_unstable);

impl Mode {
    /// Those that measure every task.
    pub(crate) fn exact() -> impl Iterator<Item = Mode> {
        WAYS.iter().flat_map(|&way| FLAVOURS.map(|flavour| Mode { way, flavour }))
    }

    /// Those that measure none; there are none with `tokio_unstable`.
    pub(crate) fn unwatched() -> impl Iterator<Item = Mode> {
        let flavours = || FLAVOURS.into_iter().filter(|flavour| !UNSTABLE && *flavour != Flavour::CurrentThread);
        let ways = [false, true].map(|pool| Way::Unwatched { pool });
        ways.into_iter().flat_map(move |way| flavours().map(move |flavour| Mode { way, flavour }))
    }

    pub(crate) fn name(self) -> String {
        let way = match self.way {
            Way::Hooks => "hooks",
            Way::Wrapper => "wrapper",
            Way::Unwatched { pool: false } => "unwatched, pool idle",
            Way::Unwatched { pool: true } => "unwatched, pool busy",
        };
        match self.flavour {
            Flavour::CurrentThread => format!("{way}, current-thread"),
            Flavour::MultiThread(1) => format!("{way}, 1 worker"),
            Flavour::MultiThread(n) => format!("{way}, {n} workers"),
        }
    }

    pub(crate) fn is_unwatched(self) -> bool {
        matches!(self.way, Way::Unwatched { .. })
    }

    /// Whether threads of the pool are part of the load.
    pub(crate) fn uses_pool(self) -> bool {
        self.way != Way::Unwatched { pool: false }
    }

    /// Whether `block_in_place` is: only a multi-thread runtime hands its workers on.
    pub(crate) fn hands_workers_on(self) -> bool {
        self.uses_pool() && self.flavour != Flavour::CurrentThread
    }

    pub(crate) fn workers(self) -> usize {
        match self.flavour {
            Flavour::CurrentThread => 1,
            Flavour::MultiThread(n) => n,
        }
    }

    pub(crate) fn promise(self, threshold: u64) -> Promise {
        match self.way {
            Way::Unwatched { .. } => Promise::unwatched(threshold),
            _ => Promise::exact(threshold),
        }
    }
}

/// Runs a mode for some time.
pub(crate) fn run(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Tally {
    let (promise, outcome, watch) = happens(mode, threshold, time, seed);
    let Outcome { polls, counted, journal, told, .. } = outcome;
    Tally { polls, counted, ..Tally::new(&promise, &journal, &told, &watch) }
}

/// Runs one that measures no task.
pub(crate) fn run_unwatched(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Unwatched {
    let (promise, outcome, watch) = happens(mode, threshold, time, seed);
    Unwatched::new(&promise, &outcome, &watch, !mode.uses_pool())
}

fn happens(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> (Promise, Outcome, Watch) {
    while_it_is_watched(mode, threshold, |scene| {
        let noise = Noise::start(scene);
        inject(scene, time, seed);
        noise.stop();
    })
}

/// Has something happen in a mode's scene; what became of it, and whether there was a CPU for pollwatch.
pub(crate) fn while_it_is_watched(
    mode: Mode,
    threshold: Duration,
    happens: impl FnOnce(&Arc<Scene>),
) -> (Promise, Outcome, Watch) {
    let scene = Scene::new(mode, threshold);
    // Sees the threads of the scene's watchdog.
    let sentinel = Sentinel::start();
    happens(&scene);
    let promise = mode.promise(scene.threshold);
    let (outcome, mut watch) = (fixture::end(scene), sentinel.stop());
    watch.remember(promise.threshold, &outcome.journal);
    (promise, outcome, watch)
}

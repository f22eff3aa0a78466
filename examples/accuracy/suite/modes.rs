//! What is run: each mode is one value in a list. A further way to measure (sampled timing, suspicion on stable tokio) is a further
//! `Way` and its entries here.

use std::time::Duration;

use super::inject::inject;
use super::judge::Tally;
use super::noise::Noise;
use super::scene::{self, Outcome, Scene};
use super::sentinel::Sentinel;

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
    /// `Watchdog::watch` around each, on a runtime that pollwatch did not build.
    Wrapper,
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

impl Mode {
    pub(crate) fn all() -> impl Iterator<Item = Mode> {
        WAYS.iter().flat_map(|&way| FLAVOURS.map(|flavour| Mode { way, flavour }))
    }

    pub(crate) fn name(self) -> String {
        let way = match self.way {
            Way::Hooks => "hooks",
            Way::Wrapper => "wrapper",
        };
        match self.flavour {
            Flavour::CurrentThread => format!("{way}, current-thread"),
            Flavour::MultiThread(1) => format!("{way}, 1 worker"),
            Flavour::MultiThread(n) => format!("{way}, {n} workers"),
        }
    }

    /// Whether `block_in_place` is part of the load: only a multi-thread runtime hands its workers on.
    pub(crate) fn hands_workers_on(self) -> bool {
        self.flavour != Flavour::CurrentThread
    }

    pub(crate) fn workers(self) -> usize {
        match self.flavour {
            Flavour::CurrentThread => 1,
            Flavour::MultiThread(n) => n,
        }
    }
}

/// Whether tokio's task hooks are compiled in.
pub(crate) const UNSTABLE: bool = cfg!(tokio_unstable);

/// Runs a mode for some time.
pub(crate) fn run(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> Tally {
    let scene = Scene::new(mode, threshold);
    // Sees the threads of the scene's watchdog.
    let sentinel = Sentinel::start();
    let noise = Noise::start(&scene);
    inject(&scene, time, seed);
    noise.stop();
    let nanos = scene.threshold;
    let Outcome { polls, counted, journal, told } = scene::end(scene);
    Tally { polls, counted, ..Tally::new(nanos, &journal, &told, &sentinel.stop()) }
}

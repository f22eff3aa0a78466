//! What the threads and handles of one watchdog share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::detect::outcome::Outcome;
use crate::measure::meter::Meter;
use crate::model::coverage::StackCoverage;
use crate::model::stall::Stall;
use crate::report::book::Book;
#[cfg(feature = "server")]
use crate::report::profile::ProfileStore;
use crate::report::sums::Sums;
use crate::util::lock;

/// A user's callback.
pub(crate) type OnStall = Box<dyn Fn(&Stall) + Send + Sync>;

/// See the module's text.
pub(crate) struct Shared {
    pub(crate) meter: Arc<Meter>,
    pub(crate) book: Mutex<Book>,
    #[cfg(feature = "server")]
    pub(crate) profile: Mutex<ProfileStore>,
    /// Since when there is anything to add up.
    #[cfg(feature = "server")]
    pub(crate) started: std::time::Instant,
    pub(crate) on_stall: Option<OnStall>,
    pub(crate) log: bool,
    /// More tasks of one place than this are told of.
    pub(crate) warn_above_alive_tasks: u64,
    /// Whether stacks are taken.
    pub(crate) capture: bool,
    /// Whether they can be.
    pub(crate) stacks: StackCoverage,
    pub(crate) stopping: AtomicBool,
    /// Whether the watchdog thread looks.
    pub(crate) watching: AtomicBool,
    /// Turns of its loop that panicked.
    pub(crate) watchdog_panics: AtomicU64,
    /// So many turns are to panic.
    #[cfg(test)]
    pub(crate) broken_turns: AtomicU64,
    pub(crate) suppressed: AtomicU64,
    pub(crate) callback_panics: AtomicU64,
    /// By `Outcome`.
    pub(crate) captures: [AtomicU64; Outcome::ALL.len()],
    /// Reports that the log and the callback never got, because those took too long.
    pub(crate) untold: AtomicU64,
    pub(crate) oversleeps: AtomicU64,
    pub(crate) wakeups: AtomicU64,
    /// How long all workers of a runtime may be blocked before `/healthz` says so.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) unhealthy_after: Duration,
}

impl Shared {
    pub(crate) fn sums(&self) -> Sums {
        let clock = &self.meter.clock;
        lock(&self.book).sums(|at| clock.delta(at, clock.now()))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

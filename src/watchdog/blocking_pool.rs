//! The setting of the check of the pools for blocking work.

use std::time::Duration;

use super::WatchdogBuilder;
use super::state::WatchdogState;
use crate::error::Error;
use crate::measure::runtime::{Runtime, blocking_pool};
use crate::model::condition::{Condition, ConditionKind};
use crate::util::lock;

impl WatchdogBuilder {
    /// The time after which a full pool for blocking work is reported, unless it is set.
    pub const DEFAULT_BLOCKING_POOL_FULL_AFTER: Duration = Duration::from_secs(1);

    /// Sets the time after which a full pool for blocking work is reported
    /// ([`BlockingPoolFull`](crate::ConditionKind::BlockingPoolFull)): 1 s by default, and
    /// `Duration::MAX` switches the check off.
    ///
    /// The pool runs the closures of `spawn_blocking`, and with them the file operations and name
    /// lookups of tokio. It is full while calls wait in its queue, no thread is idle, and tokio
    /// starts no further one. Everything that needs the pool waits then, and no worker is blocked.
    /// The report has the threads of the pool, grouped by stack.
    ///
    /// tokio publishes what this needs with `tokio_unstable` only;
    /// [`RuntimeCoverage::blocking_pool`](crate::RuntimeCoverage::blocking_pool) shows it.
    ///
    /// It costs three atomic loads for each runtime, four times a second while anything is polled.
    /// An idle watchdog wakes every 5 s while a thread of a pool runs a call.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let after = Duration::from_millis(200);
    /// let builder = pollwatch::Watchdog::builder().blocking_pool_full_after(after);
    /// # builder.start().unwrap();
    /// ```
    pub fn blocking_pool_full_after(mut self, after: Duration) -> Self {
        self.config.blocking_pool_full_after = after;
        self
    }
}

impl WatchdogState {
    /// Returns whether the pool of a runtime is full; `None` where that is not known.
    pub(crate) fn is_blocking_pool_full(&self, runtime: &Runtime) -> Option<bool> {
        let is_known = blocking_pool::PUBLISHED && runtime.is_live();
        is_known.then(|| lock(&self.conditions).is_ongoing(runtime.id, ConditionKind::BlockingPoolFull))
    }

    /// Returns a lower bound of how long the oldest call in the full pool of a runtime has waited.
    pub(crate) fn oldest_blocking_call(&self, runtime: &Runtime) -> Option<Duration> {
        let is_it = |condition: &Condition| {
            condition.kind == ConditionKind::BlockingPoolFull && condition.runtime == runtime.name
        };
        self.conditions().into_iter().find(is_it)?.blocking_pool?.longest_wait_at_least
    }
}

/// Checks the time after which a full pool is reported.
pub(super) fn validate(after: Duration) -> Result<(), Error> {
    const SHORTEST: Duration = Duration::from_millis(10);
    if after < SHORTEST {
        return Err(Error::invalid(format!(
            "blocking_pool_full_after must be at least {SHORTEST:?}, not {after:?}; Duration::MAX switches it off"
        )));
    }
    Ok(())
}

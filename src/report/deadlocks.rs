//! The deadlocks that were found and are not known to be over.

use std::sync::Arc;
use std::time::Instant;

use crate::model::id::StallId;
use crate::model::lock::Deadlock;

/// The largest number of deadlocks.
const MAX_DEADLOCKS: usize = 16;

/// A deadlock. It lasts as long as the stall by which it was found waits for a lock at the same
/// location.
#[derive(Clone, Debug)]
pub(crate) struct FoundDeadlock {
    pub(crate) stall: StallId,
    pub(crate) runtime: Arc<str>,
    pub(crate) found: Instant,
    /// The threads in one line.
    pub(crate) reason: String,
}

/// The deadlocks of one watchdog.
#[derive(Debug, Default)]
pub(super) struct FoundDeadlocks(Vec<FoundDeadlock>);

impl FoundDeadlocks {
    pub(super) fn insert(&mut self, stall: StallId, runtime: Arc<str>, deadlock: &Deadlock) {
        self.remove(stall);
        if self.0.len() == MAX_DEADLOCKS {
            return;
        }
        let names: Vec<_> = deadlock.threads.iter().map(|thread| format!("{:?}", thread.name)).collect();
        let reason = match &names[..] {
            [name] => format!("thread {name} waits, it seems, for a lock that it holds itself"),
            names => format!("threads {} wait, it seems, for locks of each other", names.join(", ")),
        };
        self.0.push(FoundDeadlock { stall, runtime, found: Instant::now(), reason });
    }

    pub(super) fn remove(&mut self, stall: StallId) {
        self.0.retain(|deadlock| deadlock.stall != stall);
    }

    pub(super) fn list(&self) -> Vec<FoundDeadlock> {
        self.0.clone()
    }
}

//! The locations in the code at which the services spawn their tasks.

use std::future::Future;
use std::pin::Pin;

use pollwatch::Watchdog;

/// What a task does.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns the tasks of one service on the runtime that the thread has entered.
pub(crate) struct Spawner(pub(crate) Watchdog);

impl Spawner {
    /// Spawns a task as a program does that does not know of pollwatch. The site is the caller.
    #[track_caller]
    fn spawn(&self, work: Work) {
        drop(tokio::spawn(work));
    }

    /// Spawns a task by `Watchdog::spawn`, which also counts its outcome.
    #[track_caller]
    fn spawn_measured(&self, work: Work) {
        drop(self.0.spawn(work));
    }
}

/// Sixty sites, as many as a service of some size has. A site is a line and a column, so each entry
/// is one. The first fifteen are wrapped.
pub(crate) const SITES: [fn(&Spawner, Work); 60] = [
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn_measured(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
    |s, work| s.spawn(work),
];

//! A watchdog with short limits, and the runtimes that it watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Action, Watchdog};
use test_support::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::report::{Report, record_log};

/// The threshold of the watchdogs: polls should stay below it on a busy machine as well.
pub(crate) const LONG_THRESHOLD: Duration = Duration::from_millis(50);
/// The duration of a condition from which on it is an incident and `/healthz` answers 503. A thread
/// lacks a CPU for so long only on a very busy machine.
pub(crate) const AFTER: Duration = Duration::from_secs(1);
/// The time between two requests to `/healthz`.
pub(crate) const BETWEEN_REQUESTS: Duration = Duration::from_millis(50);
/// The time that a program runs for: longer than each condition takes to be confirmed.
pub(crate) const TIME: Duration = Duration::from_millis(2_500);

/// A watchdog of which every report is collected.
pub(crate) struct Observer {
    pub(crate) watchdog: Watchdog,
    pub(crate) called: Arc<AtomicU64>,
    /// The answers of `/healthz` that were not 200.
    pub(crate) unhealthy: Mutex<Vec<String>>,
}

/// A runtime that the watchdog has built, or one that tokio has built and it was attached to.
pub(crate) struct Watched {
    pub(crate) watchdog: Watchdog,
    pub(crate) name: String,
    pub(crate) runtime: Runtime,
    is_attached: bool,
}

impl Observer {
    pub(crate) fn start() -> Observer {
        record_log();
        let called = Arc::new(AtomicU64::new(0));
        let counted = called.clone();
        let count = Action::call(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let builder = Watchdog::builder().threshold(LONG_THRESHOLD).listen("127.0.0.1:0");
        let builder = builder.unhealthy_after(AFTER).blocking_pool_full_after(AFTER).on_incident(AFTER, count);
        Observer { watchdog: builder.start().unwrap(), called, unhealthy: Mutex::default() }
    }

    /// Makes two runtimes of each kind: the watchdog builds one, and is attached to the other.
    pub(crate) fn runtimes(&self, kinds: Vec<(&'static str, Builder)>) -> Vec<Watched> {
        kinds.into_iter().flat_map(|(kind, builder)| self.built_and_attached(kind, builder)).collect()
    }

    fn built_and_attached(&self, kind: &str, mut builder: Builder) -> [Watched; 2] {
        let attached = builder.build().unwrap();
        let built = self.watchdog.build_runtime(kind, builder).unwrap();
        let attached_name = format!("attached {kind}");
        self.watchdog.attach(&attached_name, attached.handle()).unwrap();
        let runtimes = [(kind.to_owned(), built, false), (attached_name, attached, true)];
        runtimes.map(|(name, runtime, is_attached)| {
            let watched = Watched { watchdog: self.watchdog.clone(), name, runtime, is_attached };
            watched.learn_driver();
            watched
        })
    }

    /// Requests `/healthz`.
    pub(crate) fn check_health(&self) {
        let reply = get(self.watchdog.local_addr().unwrap(), "/healthz");
        if reply.status != 200 {
            lock(&self.unhealthy).push(reply.body);
        }
    }

    /// Requests `/healthz` again and again while `program` runs.
    pub(crate) fn run_healthy(&self, program: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    self.check_health();
                    std::thread::sleep(BETWEEN_REQUESTS);
                }
            });
            program();
            is_over.store(true, Ordering::Relaxed);
        });
    }

    /// Prints what was reported, which the parent judges, and ends the watchdog.
    pub(crate) fn finish(self) {
        self.check_health();
        let mut report = Report::of(&self);
        // The last lines are logged by then.
        self.watchdog.shutdown();
        report.add_log();
        report.print();
    }
}

impl Watched {
    /// Polls measured tasks with timers until the driver is known.
    fn learn_driver(&self) {
        let is_known = || {
            let coverage = self.watchdog.coverage();
            let runtime = coverage.runtimes.iter().find(|runtime| *runtime.name == *self.name);
            runtime.expect("it is watched").driver_unobserved.is_none()
        };
        wait_until("the driver is known", || {
            let short = self.spawn_measured(async { tokio::time::sleep(Duration::from_millis(5)).await });
            self.runtime.block_on(short).unwrap();
            self.is_current_thread() || is_known()
        });
    }

    pub(crate) fn is_current_thread(&self) -> bool {
        self.runtime.handle().runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread
    }

    /// Spawns a task that pollwatch measures, in either mode.
    pub(crate) fn spawn_measured<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let _entered = self.runtime.enter();
        self.watchdog.spawn(future)
    }

    /// Spawns some copies of a task and waits for their end. Where pollwatch has built the runtime
    /// and so sees all of its tasks, every other copy is a plain one.
    pub(crate) fn run<F>(&self, copies: usize, task: impl Fn() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let spawn = |copy| match self.is_attached || copy % 2 == 1 {
            true => self.spawn_measured(task()),
            false => self.runtime.spawn(task()),
        };
        let tasks: Vec<_> = (0..copies).map(spawn).collect();
        self.runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}

/// Multi-thread runtimes with one, two and four workers. With `tokio_unstable` also one whose
/// workers hand the driver on before each poll.
pub(crate) fn multi_thread_kinds() -> Vec<(&'static str, Builder)> {
    vec![
        ("1 worker", multi_thread(1)),
        ("2 workers", multi_thread(2)),
        ("4 workers", multi_thread(4)),
        #[cfg(tokio_unstable)]
        ("eager handoff", {
            let mut builder = multi_thread(2);
            builder.enable_eager_driver_handoff();
            builder
        }),
    ]
}

/// The kinds of both flavours.
pub(crate) fn all_kinds() -> Vec<(&'static str, Builder)> {
    let mut kinds = multi_thread_kinds();
    kinds.push(("current-thread", current_thread()));
    kinds
}

/// Occupies the thread for much less than a threshold.
pub(crate) fn spin_shortly() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(200) {
        std::hint::spin_loop();
    }
}

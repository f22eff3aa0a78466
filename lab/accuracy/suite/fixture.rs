//! One mode: a watchdog, a runtime whose every poll is noted, and what is told meanwhile.

use std::collections::HashMap;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pollwatch::{Phase, Stall, Watchdog};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::ground_truth::{Poll, Report, Told, at_wall, now};
use super::kinds::Job;
use super::modes::{Flavour, Mode, Way};
use super::poll_recorder::{Journal, Outer, Spawned, lock};

const NAME: &str = "main";
const FENCE: &str = "fence";

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) mode: Mode,
    pub(crate) threshold: u64,
    pub(crate) watchdog: Watchdog,
    pub(crate) journal: Arc<Journal>,
    pub(crate) handle: Handle,
    told: Arc<Mutex<Vec<(u64, Stall)>>>,
    root: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Scene {
    pub(crate) fn new(mode: Mode, threshold: Duration) -> Arc<Scene> {
        // The zero of all moments lies before them.
        now();
        let told: Arc<Mutex<Vec<(u64, Stall)>>> = Arc::default();
        let keep = told.clone();
        let on_stall = move |stall: &Stall| {
            let received = now();
            lock(&keep).push((received, stall.clone()));
        };
        let builder = Watchdog::builder().threshold(threshold).log(false);
        let watchdog = builder.on_stall(on_stall).start().expect("starts");
        // First it reads the unwind tables of what is loaded, which takes longer than a threshold in a debug build.
        while watchdog.snapshot().watchdog.wakeups == 0 {
            std::thread::sleep(threshold / 10);
        }
        let nanos = threshold.as_nanos() as u64;
        let journal = Journal::new(nanos / 2);
        let runtime = build(mode, &watchdog, &journal);
        let handle = runtime.handle().clone();
        let (send, mut jobs) = mpsc::unbounded_channel::<Job>();
        let root = async move {
            while let Some(job) = jobs.recv().await {
                job.run();
            }
        };
        let root: Pin<Box<dyn Future<Output = ()> + Send>> = match mode.is_unwatched() {
            true => Box::pin(Outer::new(&journal, root)),
            false => Box::pin(Outer::new(&journal, watch(&watchdog, root))),
        };
        let run = move || {
            runtime.block_on(root);
            // Ends the workers, but waits for no noise.
            runtime.shutdown_timeout(PATIENCE);
        };
        let thread = std::thread::Builder::new().name("root".into()).spawn(run).expect("a thread");
        let scene =
            Scene { mode, threshold: nanos, watchdog, journal, handle, told, root: Some(send), thread: Some(thread) };
        // Symbols are loaded with the first stack.
        scene.fence();
        lock(&scene.told).clear();
        Arc::new(scene)
    }

    /// Spawns a task that is seen, at the caller's place.
    #[track_caller]
    pub(crate) fn spawn(
        &self,
        through_watchdog: bool,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let future = Spawned { inner: future, site: Location::caller() };
        match self.mode.way {
            Way::Wrapper => {
                let future = Outer::new(&self.journal, self.watchdog.watch(future));
                self.handle.spawn(future).abort_handle()
            }
            Way::Hooks if through_watchdog => {
                let _entered = self.handle.enter();
                self.watchdog.spawn(future).abort_handle()
            }
            Way::Hooks => self.handle.spawn(future).abort_handle(),
            Way::Unwatched { .. } => self.handle.spawn(Outer::new(&self.journal, future)).abort_handle(),
        }
    }

    /// Has the root of the runtime run a job.
    pub(crate) fn run_in_root(&self, job: Job) {
        self.root.as_ref().map(|root| root.send(job).ok());
    }

    /// Blocks a runtime of its own until that is told: all that happened before has been told by then.
    fn fence(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{FENCE} {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let runtime = self.watchdog.build_runtime(&name, &mut Builder::new_current_thread()).expect("builds");
        let is_told = |phase: Phase| lock(&self.told).iter().any(|(_, s)| *s.runtime == *name && s.phase == phase);
        let wait = |phase: Phase| {
            let begin = Instant::now();
            while !is_told(phase) {
                assert!(begin.elapsed() < PATIENCE, "a block of {PATIENCE:?} is not told: {phase}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        runtime.block_on(self.watchdog.watch(async { wait(Phase::Ongoing) }));
        wait(Phase::Resolved);
    }
}

/// What became of a scene.
pub(crate) struct Outcome {
    /// Polls that pollwatch counted, stalls, and those that it only suspects.
    pub(crate) polls: u64,
    pub(crate) counted: u64,
    pub(crate) suspected: u64,
    /// The polls that matter, as they were.
    pub(crate) journal: Vec<Poll>,
    pub(crate) told: Vec<Told>,
}

/// Ends the runtime of a scene, once nobody uses it.
pub(crate) fn end(mut scene: Arc<Scene>) -> Outcome {
    let begin = Instant::now();
    let mut scene = loop {
        // A task that has just ended may have it for a moment longer.
        match Arc::try_unwrap(scene) {
            Ok(alone) => break alone,
            Err(shared) => scene = shared,
        }
        assert!(begin.elapsed() < PATIENCE, "a task keeps the scene");
        std::thread::sleep(Duration::from_millis(1));
    };
    drop(scene.root.take());
    if let Some(thread) = scene.thread.take() {
        thread.join().expect("the root does not panic");
    }
    scene.fence();
    let snapshot = scene.watchdog.snapshot();
    let main = snapshot.runtimes.iter().find(|runtime| &*runtime.name == NAME).expect("it was there");
    let (polls, counted) = (main.polls_total, main.stalls.iter().map(|c| c.stalls.count).sum());
    let told = by_stall(&lock(&scene.told));
    Outcome { polls, counted, suspected: main.suspected.count, journal: scene.journal.polls(), told }
}

fn by_stall(reports: &[(u64, Stall)]) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    let mut ids: HashMap<u64, usize> = HashMap::new();
    for (received, stall) in reports.iter().filter(|(_, stall)| &*stall.runtime == NAME) {
        let index = *ids.entry(stall.id).or_insert_with(|| {
            all.push(Told {
                thread: stall.thread.clone(),
                task: stall.task,
                worker: stall.worker,
                began: at_wall(stall.started_at),
                reports: Vec::new(),
            });
            all.len() - 1
        });
        all[index].reports.push(report(*received, stall));
    }
    all
}

fn report(received: u64, stall: &Stall) -> Report {
    let leaf = stall.stack.as_ref().and_then(|stack| stack.user_frames().first()?.function.clone());
    Report {
        received,
        ongoing: stall.phase == Phase::Ongoing,
        elapsed: stall.elapsed.as_nanos() as u64,
        cause: stall.cause,
        certainty: stall.certainty,
        at_least: stall.elapsed_is_lower_bound,
        site: stall.site.location(),
        route: stall.route.clone(),
        leaf,
        text: stall.to_string().into(),
    }
}

#[track_caller]
fn watch<F: Future>(watchdog: &Watchdog, future: F) -> impl Future<Output = F::Output> + use<F> {
    watchdog.watch(Spawned { inner: future, site: Location::caller() })
}

fn build(mode: Mode, watchdog: &Watchdog, journal: &Arc<Journal>) -> Runtime {
    let mut builder = match mode.flavour {
        Flavour::CurrentThread => Builder::new_current_thread(),
        Flavour::MultiThread(workers) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    };
    // A name for each: a report tells which it was.
    let next = AtomicU64::new(0);
    // Threads of the pool come and go all the time.
    builder.enable_all().thread_keep_alive(Duration::from_millis(20));
    builder.thread_name_fn(move || format!("worker {}", next.fetch_add(1, Ordering::Relaxed)));
    // Whoever takes a worker over parks, if nothing else.
    let park = journal.clone();
    let on_park = move || {
        park.seen(now());
    };
    match mode.way {
        Way::Hooks => build_hooked(watchdog, &mut builder, pollwatch::Hooks::new().on_thread_park(on_park), journal),
        Way::Wrapper if cfg!(tokio_unstable) => {
            let runtime = builder.on_thread_park(on_park).build().expect("builds");
            watchdog.attach(NAME, runtime.handle()).expect("attaches");
            runtime
        }
        Way::Wrapper | Way::Unwatched { .. } => {
            let hooks = pollwatch::Hooks::new().on_thread_park(on_park);
            watchdog.build_runtime_with(NAME, &mut builder, hooks).expect("builds")
        }
    }
}

#[cfg(tokio_unstable)]
fn build_hooked(
    watchdog: &Watchdog,
    builder: &mut Builder,
    hooks: pollwatch::Hooks,
    journal: &Arc<Journal>,
) -> Runtime {
    let (before, after) = (journal.clone(), journal.clone());
    let hooks =
        hooks.on_before_task_poll(move |meta| before.begin(Some(meta.id()))).on_after_task_poll(move |_| after.end());
    watchdog.build_runtime_with(NAME, builder, hooks).expect("builds")
}

#[cfg(not(tokio_unstable))]
fn build_hooked(watchdog: &Watchdog, builder: &mut Builder, hooks: pollwatch::Hooks, _: &Arc<Journal>) -> Runtime {
    watchdog.build_runtime_with(NAME, builder, hooks).expect("builds")
}

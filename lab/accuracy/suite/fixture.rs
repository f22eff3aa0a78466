//! The fixture of one mode: a watchdog, a runtime whose polls are recorded, and the reports
//! received.

use std::collections::HashMap;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pollwatch::{Phase, Stall, Watchdog, WatchdogBuilder};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::ground_truth::{Poll, Report, ReportedStall, at_wall, now};
use super::kinds::Job;
use super::modes::{Flavour, Instrumentation, Mode};
use super::poll_recorder::{PollRecorder, RecordedSite, RecordedTask, lock};

const NAME: &str = "main";
const FENCE: &str = "fence";

/// The time limit of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Fixture {
    pub(crate) mode: Mode,
    pub(crate) threshold: u64,
    pub(crate) watchdog: Watchdog,
    pub(crate) recorder: Arc<PollRecorder>,
    pub(crate) handle: Handle,
    reported: Arc<Mutex<Vec<(u64, Stall)>>>,
    root: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Fixture {
    pub(crate) fn new(mode: Mode, threshold: Duration) -> Arc<Fixture> {
        Fixture::with(mode, threshold, Watchdog::builder())
    }

    /// Starts a fixture whose watchdog has further settings.
    pub(crate) fn with(mode: Mode, threshold: Duration, builder: WatchdogBuilder) -> Arc<Fixture> {
        // Reads the clock, so that zero lies before all recorded times.
        now();
        let reported: Arc<Mutex<Vec<(u64, Stall)>>> = Arc::default();
        let keep = reported.clone();
        let on_stall = move |stall: &Stall| {
            let received = now();
            lock(&keep).push((received, stall.clone()));
        };
        let builder = builder.threshold(threshold).log(false);
        let watchdog = builder.on_stall(on_stall).start().expect("starts");
        // The watchdog first reads the unwind tables of the loaded libraries, which takes longer
        // than a threshold in a debug build.
        while watchdog.snapshot().watchdog.wakeups == 0 {
            std::thread::sleep(threshold / 10);
        }
        let nanos = threshold.as_nanos() as u64;
        let recorder = PollRecorder::new(nanos / 2, !mode.is_unwatched());
        let runtime = build(mode, &watchdog, &recorder);
        let handle = runtime.handle().clone();
        let (send, mut jobs) = mpsc::unbounded_channel::<Job>();
        let root = async move {
            while let Some(job) = jobs.recv().await {
                job.run();
            }
        };
        let root: Pin<Box<dyn Future<Output = ()> + Send>> = match mode.is_unwatched() {
            true => Box::pin(RecordedTask::new(&recorder, root)),
            false => Box::pin(RecordedTask::new(&recorder, watch(&watchdog, root))),
        };
        let run = move || {
            runtime.block_on(root);
            // Stops the workers, and does not wait for background tasks.
            runtime.shutdown_timeout(PATIENCE);
        };
        let thread = std::thread::Builder::new().name("root".into()).spawn(run).expect("a thread");
        let fixture = Fixture {
            mode,
            threshold: nanos,
            watchdog,
            recorder,
            handle,
            reported,
            root: Some(send),
            thread: Some(thread),
        };
        // The first stack loads the symbols.
        fixture.fence();
        lock(&fixture.reported).clear();
        Arc::new(fixture)
    }

    /// Spawns a recorded task. Its site is the caller's location. Where hooks measure every task,
    /// `through_watchdog` selects `Watchdog::spawn` instead of tokio's.
    #[track_caller]
    pub(crate) fn spawn(
        &self,
        through_watchdog: bool,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let future = RecordedSite { inner: future, site: Location::caller() };
        if through_watchdog && self.mode.has_hooks() {
            let _entered = self.handle.enter();
            return self.watchdog.spawn(future).abort_handle();
        }
        match self.mode.instrumentation {
            Instrumentation::Wrapper => {
                let future = RecordedTask::new(&self.recorder, self.watchdog.watch(future));
                self.handle.spawn(future).abort_handle()
            }
            #[cfg(tokio_unstable)]
            Instrumentation::Hooks => self.handle.spawn(future).abort_handle(),
            #[cfg(not(tokio_unstable))]
            Instrumentation::Unwatched { .. } => {
                self.handle.spawn(RecordedTask::new(&self.recorder, future)).abort_handle()
            }
        }
    }

    /// Runs a job in the root future of the runtime.
    pub(crate) fn run_in_root(&self, job: Job) {
        self.root.as_ref().map(|root| root.send(job).ok());
    }

    /// Blocks a separate runtime until that stall is reported. All earlier stalls have been
    /// reported by then.
    fn fence(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{FENCE} {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let runtime = self.watchdog.build_runtime(&name, Builder::new_current_thread()).expect("builds");
        let is_reported =
            |phase: Phase| lock(&self.reported).iter().any(|(_, s)| *s.runtime == *name && s.phase == phase);
        let wait = |phase: Phase| {
            let start = Instant::now();
            while !is_reported(phase) {
                assert!(start.elapsed() < PATIENCE, "a block of {PATIENCE:?} is not reported: {phase}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        runtime.block_on(self.watchdog.watch(async { wait(Phase::Ongoing) }));
        wait(Phase::Resolved);
    }
}

/// The polls of a run, and the stalls that pollwatch counted and reported.
pub(crate) struct Outcome {
    /// The polls that pollwatch counted.
    pub(crate) polls: u64,
    pub(crate) counted: u64,
    pub(crate) suspected: u64,
    /// The recorded polls: those that were long or contained a block.
    pub(crate) recorded: Vec<Poll>,
    pub(crate) reported: Vec<ReportedStall>,
}

/// Shuts the runtime of a fixture down when nothing else uses the fixture.
pub(crate) fn end(mut fixture: Arc<Fixture>) -> Outcome {
    let start = Instant::now();
    let mut fixture = loop {
        // A task that has just ended may hold its reference for a moment longer.
        match Arc::try_unwrap(fixture) {
            Ok(alone) => break alone,
            Err(shared) => fixture = shared,
        }
        assert!(start.elapsed() < PATIENCE, "a task keeps the fixture");
        std::thread::sleep(Duration::from_millis(1));
    };
    drop(fixture.root.take());
    if let Some(thread) = fixture.thread.take() {
        thread.join().expect("the root does not panic");
    }
    fixture.fence();
    let snapshot = fixture.watchdog.snapshot();
    let main = snapshot.runtimes.iter().find(|runtime| &*runtime.name == NAME).expect("the runtime is in the snapshot");
    let of_workers = main.stalls.iter().map(|c| c.stalls.count).sum::<u64>();
    let (polls, counted) = (main.polls_total, of_workers + main.root_stalls.count);
    let reported = by_stall(&lock(&fixture.reported));
    Outcome { polls, counted, suspected: main.suspected.count, recorded: fixture.recorder.polls(), reported }
}

fn by_stall(reports: &[(u64, Stall)]) -> Vec<ReportedStall> {
    let mut all: Vec<ReportedStall> = Vec::new();
    let mut ids: HashMap<u64, usize> = HashMap::new();
    for (received, stall) in reports.iter().filter(|(_, stall)| &*stall.runtime == NAME) {
        let index = *ids.entry(stall.id).or_insert_with(|| {
            all.push(ReportedStall {
                thread: stall.thread.clone(),
                task: stall.task,
                worker: stall.worker,
                started_at: at_wall(stall.started_at),
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
        is_lower_bound: stall.elapsed_is_lower_bound,
        site: stall.site.location(),
        route: stall.route.clone(),
        leaf,
        text: stall.to_string().into(),
    }
}

#[track_caller]
fn watch<F: Future>(watchdog: &Watchdog, future: F) -> impl Future<Output = F::Output> + use<F> {
    watchdog.watch(RecordedSite { inner: future, site: Location::caller() })
}

fn build(mode: Mode, watchdog: &Watchdog, recorder: &Arc<PollRecorder>) -> Runtime {
    let mut builder = match mode.flavour {
        Flavour::CurrentThread => Builder::new_current_thread(),
        Flavour::MultiThread(workers) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    };
    // Each thread has a name of its own, by which a report is matched.
    let next = AtomicU64::new(0);
    // Idle threads of the pool end soon, so that threads start and end all the time.
    builder.enable_all().thread_keep_alive(Duration::from_millis(20));
    builder.thread_name_fn(move || format!("worker {}", next.fetch_add(1, Ordering::Relaxed)));
    // A thread that takes over a worker polls or parks, and is recorded at either.
    let park = recorder.clone();
    let on_park = move || {
        park.current_worker(now());
    };
    match mode.instrumentation {
        #[cfg(tokio_unstable)]
        Instrumentation::Hooks => {
            build_hooked(watchdog, builder, pollwatch::Hooks::new().on_thread_park(on_park), recorder)
        }
        Instrumentation::Wrapper if cfg!(tokio_unstable) => {
            let runtime = builder.on_thread_park(on_park).build().expect("builds");
            watchdog.attach(NAME, runtime.handle()).expect("attaches");
            runtime
        }
        _ => {
            let hooks = pollwatch::Hooks::new().on_thread_park(on_park);
            watchdog.runtime(NAME).with_builder(builder).hooks(hooks).build().expect("builds")
        }
    }
}

#[cfg(tokio_unstable)]
fn build_hooked(
    watchdog: &Watchdog,
    builder: Builder,
    hooks: pollwatch::Hooks,
    recorder: &Arc<PollRecorder>,
) -> Runtime {
    let (before, after) = (recorder.clone(), recorder.clone());
    let hooks =
        hooks.on_before_task_poll(move |meta| before.start(Some(meta.id()))).on_after_task_poll(move |_| after.end());
    watchdog.runtime(NAME).with_builder(builder).hooks(hooks).build().expect("builds")
}

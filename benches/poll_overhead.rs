//! Measures the cost of measuring one poll: pollwatch beside a bare runtime, hand-written minimal
//! code, tokio's poll-time histogram, and the `TaskMonitor` of tokio-metrics. The results are in
//! `docs/overhead.md`.
//!
//! `cargo bench --bench poll_overhead [-- --quick] [-- NAME]`. Every round runs all variants, and
//! each round starts with another one, so that a change of the machine's speed affects all of them.
//! `--quick` only checks that the bench runs. A name selects the variants whose names contain it
//! (for a profiler). `--once NAME POLLS` runs one variant, once (`lab/overhead` counts its
//! instructions). With the feature `delays`, `--delays` tracks the delays of polls in two variants:
//! that of pollwatch's hooks, and that of the hooks that do nothing, where tokio alone measures.
//! `--unpolled` adds a variant in which pollwatch's hooks track when each task was polled last.

use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;
use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The minimal code that measures a poll, without sites, slots or detection.
mod minimal {
    use std::cell::Cell;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    const SUB_BITS: u32 = 3;
    const BINS: usize = 320;

    thread_local! {
        static START: Cell<u64> = const { Cell::new(0) };
        static HISTOGRAM: [AtomicU64; BINS] = const { [const { AtomicU64::new(0) }; BINS] };
    }

    /// Returns the clock. Callers keep it, so that no poll looks it up.
    pub(crate) fn clock() -> quanta::Clock {
        static CLOCK: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);
        CLOCK.clone()
    }

    #[cfg(tokio_unstable)]
    pub(crate) fn before(clock: &quanta::Clock) {
        START.set(clock.raw());
    }

    #[cfg(tokio_unstable)]
    pub(crate) fn after(clock: &quanta::Clock) {
        record(clock, START.get());
    }

    #[inline]
    pub(crate) fn record(clock: &quanta::Clock, start: u64) {
        let nanos = clock.delta_as_nanos(start, clock.raw());
        let exponent = 63 - (nanos | 1).leading_zeros();
        let shift = exponent.saturating_sub(SUB_BITS);
        let bin = ((shift as usize) << SUB_BITS) + (nanos >> shift) as usize;
        HISTOGRAM.with(|bins| {
            let bin = &bins[bin.min(BINS - 1)];
            bin.store(bin.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        });
    }
}

pin_project! {
    /// A wrapper with the minimal code.
    struct MinimalWrapper<F> {
        #[pin]
        inner: F,
        clock: quanta::Clock,
    }
}

impl<F: Future> Future for MinimalWrapper<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let start = this.clock.raw();
        let result = this.inner.poll(cx);
        minimal::record(this.clock, start);
        result
    }
}

/// The number of tasks that take turns. With a single one the worker would search for work and
/// events between any two polls, which would hide the cost of measuring.
const TASKS: u32 = 16;

/// The task of every variant. Its polls only yield.
async fn task(polls: u32) {
    for _ in 0..polls {
        tokio::task::yield_now().await;
    }
}

const BARE: &str = "bare";
const MINIMAL_WRAPPER: &str = "minimal: wrapper";
const POLLWATCH_WRAPPER: &str = "pollwatch: wrapper";
const TASK_MONITOR: &str = "tokio-metrics: TaskMonitor";
#[cfg(tokio_unstable)]
const MINIMAL_HOOKS: &str = "minimal: hooks";
#[cfg(tokio_unstable)]
const POLLWATCH_HOOKS: &str = "pollwatch: hooks";
#[cfg(tokio_unstable)]
const EMPTY_HOOKS: &str = "hooks that do nothing";
#[cfg(tokio_unstable)]
const POLLWATCH_UNPOLLED: &str = "pollwatch: hooks, track_unpolled";
const TOKIO_HISTOGRAM: &str = "tokio: poll-time histogram";

type Build = fn() -> Builder;
type Spawn = Box<dyn Fn(&Runtime, u32) -> JoinHandle<()>>;

/// One measurement, with its nanoseconds a poll in each round.
struct Variant {
    name: &'static str,
    runtime: Runtime,
    spawn: Spawn,
    samples: Vec<f64>,
}

impl Variant {
    fn new(name: &'static str, runtime: Runtime, spawn: Spawn) -> Variant {
        Variant { name, runtime, spawn, samples: Vec::new() }
    }

    /// Runs one sample. `lab/overhead` counts the instructions of this function only.
    #[inline(never)]
    fn sample(&mut self, polls: u32) {
        let start = Instant::now();
        let tasks: Vec<_> = (0..TASKS).map(|_| (self.spawn)(&self.runtime, polls / TASKS)).collect();
        self.runtime.block_on(async {
            for task in tasks {
                task.await.expect("the task ends");
            }
        });
        self.samples.push(start.elapsed().as_nanos() as f64 / f64::from(polls));
    }
}

fn plain() -> Spawn {
    Box::new(|runtime, polls| runtime.spawn(task(polls)))
}

/// Starts the watchdog of all variants.
fn start(tracks_delays: bool, tracks_unpolled: bool) -> Watchdog {
    let builder = Watchdog::builder().log(false).track_delays(tracks_delays).track_unpolled(tracks_unpolled);
    builder.start().expect("a watchdog")
}

/// Adds the variant with `track_unpolled`, whose watchdog is another one.
#[cfg(tokio_unstable)]
fn add_unpolled(all: &mut Vec<Variant>, builder: Build) {
    let watchdog = start(false, true);
    let watched = watchdog.build_runtime("unpolled", builder()).expect("a runtime");
    let spawn: Spawn = Box::new(move |runtime, polls| {
        let _keep = &watchdog;
        runtime.spawn(task(polls))
    });
    all.push(Variant::new(POLLWATCH_UNPOLLED, watched, spawn));
}

fn variants(watchdog: &Watchdog, flavor: &str, builder: Build) -> Vec<Variant> {
    let build = || builder().build().expect("a runtime");
    let mut all = vec![Variant::new(BARE, build(), plain())];

    #[cfg(tokio_unstable)]
    {
        #[cfg_attr(not(feature = "delays"), allow(unused_mut))]
        let mut empty = builder();
        #[cfg(feature = "delays")]
        if watchdog.coverage().delays {
            empty.track_task_schedule_latency();
        }
        let hooked = empty.on_before_task_poll(|_| {}).on_after_task_poll(|_| {}).build();
        all.push(Variant::new(EMPTY_HOOKS, hooked.expect("a runtime"), plain()));
        let (before, after) = (minimal::clock(), minimal::clock());
        let hooked = builder()
            .on_before_task_poll(move |_| minimal::before(&before))
            .on_after_task_poll(move |_| minimal::after(&after))
            .build();
        all.push(Variant::new(MINIMAL_HOOKS, hooked.expect("a runtime"), plain()));
        let watched = watchdog.build_runtime(format!("{flavor}, hooks"), builder()).expect("a runtime");
        all.push(Variant::new(POLLWATCH_HOOKS, watched, plain()));
    }

    let clock = minimal::clock();
    let wrapped: Spawn =
        Box::new(move |runtime, polls| runtime.spawn(MinimalWrapper { inner: task(polls), clock: clock.clone() }));
    all.push(Variant::new(MINIMAL_WRAPPER, build(), wrapped));

    let attached = build();
    watchdog.attach(&format!("{flavor}, wrapper"), attached.handle()).expect("attached");
    let handle = watchdog.clone();
    let watched: Spawn = Box::new(move |runtime, polls| runtime.spawn(handle.watch(task(polls))));
    all.push(Variant::new(POLLWATCH_WRAPPER, attached, watched));

    #[cfg(tokio_unstable)]
    {
        let timed = builder().enable_metrics_poll_time_histogram().build();
        all.push(Variant::new(TOKIO_HISTOGRAM, timed.expect("a runtime"), plain()));
    }

    let monitor = tokio_metrics::TaskMonitor::new();
    let instrumented: Spawn = Box::new(move |runtime, polls| runtime.spawn(monitor.instrument(task(polls))));
    all.push(Variant::new(TASK_MONITOR, build(), instrumented));
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1].midpoint(values[middle]) }
}

/// The figures of one flavour. Variants are compared within a round, and each figure is the median
/// of all rounds.
struct Results<'a>(&'a [Variant]);

impl Results<'_> {
    fn find(&self, name: &str) -> Option<&[f64]> {
        self.0.iter().find(|v| v.name == name).map(|v| v.samples.as_slice())
    }

    /// Returns the median over the rounds of `f(a, b, bare)`, or `None` if one of the three did not
    /// run.
    fn compare(&self, a: &str, b: &str, f: impl Fn(f64, f64, f64) -> f64) -> Option<f64> {
        let (a, b, bare) = (self.find(a)?, self.find(b)?, self.find(BARE)?);
        Some(median((0..a.len()).map(|i| f(a[i], b[i], bare[i])).collect()))
    }

    fn row(&self, name: &str) -> String {
        let show = |value: Option<f64>, digits| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        let nanos = self.find(name).map(|samples| median(samples.to_vec()));
        let added = self.compare(name, BARE, |a, _, bare| a - bare).filter(|_| name != BARE);
        let (minimum, is_pollwatch) = match name {
            POLLWATCH_WRAPPER => (Some(MINIMAL_WRAPPER), true),
            #[cfg(tokio_unstable)]
            POLLWATCH_HOOKS => (Some(MINIMAL_HOOKS), true),
            _ => (None, false),
        };
        let of_minimum = minimum.and_then(|minimum| self.compare(name, minimum, |a, b, _| a / b));
        let of_added = |other| self.compare(name, other, |a, b, bare| (a - bare) / (b - bare)).filter(|_| is_pollwatch);
        format!(
            "| {name} | {} | {} | {} | {} | {} |",
            show(nanos, 1),
            show(added, 1),
            show(of_minimum, 2),
            show(of_added(TOKIO_HISTOGRAM), 2),
            show(of_added(TASK_MONITOR), 3),
        )
    }

    fn print(&self, flavor: &str) {
        println!("\n{flavor} runtime:\n");
        println!(
            "| variant | ns per poll | added to bare | of the minimum, whole poll (bar 1.15) | added, of tokio's histogram (bar 0.5) \
             | added, of TaskMonitor (bar 0.167) |"
        );
        println!("|---|---|---|---|---|---|");
        for variant in self.0 {
            println!("{}", self.row(variant.name));
        }
        #[cfg(tokio_unstable)]
        if let (Some(with), Some(without)) = (self.find(POLLWATCH_UNPOLLED), self.find(POLLWATCH_HOOKS)) {
            let ratio = median(with.iter().zip(without).map(|(with, without)| with / without).collect());
            println!("\nA poll with track_unpolled takes {ratio:.2} of one without.");
        }
    }
}

fn describe(rounds: usize, polls: u32) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let unknown = || "unknown".to_owned();
    println!(
        "- CPU: {}, {} cores",
        cpu.unwrap_or_else(unknown),
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    println!("- kernel: {} {}", std::env::consts::OS, kernel.unwrap_or_else(unknown).trim());
    println!("- compiler: {}, {}", rustc.unwrap_or_else(unknown), std::env::consts::ARCH);
    println!("- mode: {}", if cfg!(tokio_unstable) { "tokio_unstable" } else { "stable" });
    println!("- {rounds} rounds of {polls} polls a variant; medians");
}

/// Runs one variant once, so that its instructions can be counted.
fn once(mut all: Vec<Variant>, name: &str, polls: u32) {
    let variant = all.iter_mut().find(|variant| variant.name == name).expect("a variant of this name");
    variant.sample(polls);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    // Without the flag that `cargo bench` adds, the bench is run as a test.
    let quick = has("--quick") || !has("--bench");
    let (rounds, polls) = if quick { (2, 2_000) } else { (151, 40_000) };
    let only = args.iter().find(|arg| !arg.starts_with('-'));

    let watchdog = start(has("--delays"), false);
    let variants = |flavor: &str, builder: Build| {
        #[cfg_attr(not(tokio_unstable), allow(unused_mut))]
        let mut all = variants(&watchdog, flavor, builder);
        #[cfg(tokio_unstable)]
        if has("--unpolled") {
            add_unpolled(&mut all, builder);
        }
        all
    };
    if let Some(at) = args.iter().position(|arg| arg == "--once") {
        let (name, polls) = (&args[at + 1], args[at + 2].parse().expect("a number of polls"));
        return once(variants("current-thread", Builder::new_current_thread), name, polls);
    }
    describe(rounds, polls);
    if has("--delays") {
        println!("- delays are tracked");
    }
    let flavors: [(&str, Build); 2] = [
        ("current-thread", Builder::new_current_thread),
        ("multi-thread, 1 worker", || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1);
            builder
        }),
    ];
    let run = |mut variants: Vec<Variant>| {
        variants.retain(|v| only.is_none_or(|name| v.name.contains(name.as_str())));
        variants.iter_mut().for_each(|v| v.sample(polls / 10));
        variants.iter_mut().for_each(|v| v.samples.clear());
        let count = variants.len();
        for round in 0..rounds {
            for turn in 0..count {
                variants[(round + turn) % count].sample(polls);
            }
        }
        variants
    };
    for (flavor, builder) in flavors {
        Results(&run(variants(flavor, builder))).print(flavor);
    }
}

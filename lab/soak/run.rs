//! The rounds of the soak, and the comparison at the end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::{Stall, Watchdog};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::faults::{self, Service};
use crate::ledger::{Ledger, Line};
use crate::resources::Resources;
use crate::service;

/// The name of the service's runtime.
pub(crate) const SERVICE: &str = "service";
/// The time limit for stopped threads and closed sockets to disappear, ample for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Symbol tables are dropped some 15 s after they were last needed.
const SYMBOLS_DROPPED: Duration = Duration::from_secs(20);

/// The payload of panics that are raised on purpose, and not reported.
pub(crate) struct Deliberate;

/// The number of panics that were not raised on purpose.
static PANICS: AtomicU64 = AtomicU64::new(0);

type Failure = Box<dyn std::error::Error>;

pub(crate) fn main() -> ExitCode {
    let time = match time() {
        Ok(time) => time,
        Err(text) => {
            eprintln!("soak: {text}; --minutes N (2) or --seconds N sets how long it runs");
            return ExitCode::from(2);
        }
    };
    match run(time) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn time() -> Result<Duration, String> {
    let mut time = Duration::from_secs(120);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let unit = match flag.as_str() {
            "--minutes" => 60.0,
            "--seconds" => 1.0,
            _ => return Err(format!("unknown flag {flag:?}")),
        };
        let n = words.next().and_then(|n| n.parse::<f64>().ok()).filter(|n| (0.0..1e5).contains(n));
        time = Duration::from_secs_f64(unit * n.ok_or(format!("{flag} needs a number"))?);
    }
    Ok(time)
}

fn run(time: Duration) -> Result<bool, Failure> {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Deliberate>() {
            PANICS.fetch_add(1, Relaxed);
            previous(info);
        }
    }));
    let ledger = Arc::new(Ledger::default());
    let builder = Watchdog::builder().listen("127.0.0.1:0").route_histograms(true);
    let watchdog = builder.on_stall(misbehaving_callback(ledger.clone())).start()?;
    let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(watchdog.span_layer()).with(SlowLog);
    tracing::subscriber::set_global_default(subscriber)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_keep_alive(Duration::from_millis(200)).enable_all();
    let runtime = watchdog.build_runtime(SERVICE, builder)?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
    let addr = listener.local_addr()?;
    let app = service::router(&watchdog, &ledger);
    runtime.spawn(async move { axum::serve(listener, app).await });
    let pages = watchdog.local_addr().ok_or("the watchdog has no server")?;
    let service = Service { watchdog: watchdog.clone(), ledger, handle: runtime.handle().clone(), addr, pages };
    let fine = soak(&Arc::new(service), time)?;
    runtime.shutdown_timeout(PATIENCE);
    watchdog.shutdown();
    Ok(fine)
}

/// Runs the rounds, prints the resources after each, and compares at the end.
fn soak(service: &Arc<Service>, time: Duration) -> Result<bool, Failure> {
    let start = Instant::now();
    let round = (time / 8).clamp(Duration::from_secs(2), Duration::from_secs(30));
    let rounds = time.div_duration_f64(round).ceil() as usize;
    let rounds = rounds.max(4);
    // The first third is the warm-up, in which caches and pools grow.
    let warm_up = rounds.div_ceil(3);
    println!("{:>6} {:>9} {:>10} {:>8}  {}", "at s", "requests", "polls", "stalls", columns());
    let (mut requests, mut warm, mut end): (_, Option<Resources>, _) = (0, None, None);
    for n in 1..=rounds {
        requests += faults::run_all(service, round)?;
        let is_compared = n == warm_up || n == rounds;
        // Unused symbol tables are dropped after a while. In a short run they are present at both
        // moments that are compared.
        let least = if is_compared && time >= Duration::from_secs(60) { SYMBOLS_DROPPED } else { Duration::ZERO };
        let now = wait_until_idle(service, warm, least);
        let snapshot = service.watchdog.snapshot();
        let polls: u64 = snapshot.runtimes.iter().map(|r| r.polls.count).sum();
        let stalls: u64 = snapshot.runtimes.iter().flat_map(|r| &r.stalls).map(|c| c.stalls.count).sum();
        let row = now.all().map(|(_, value, _)| format!("{value:>13}")).concat();
        println!("{:>6} {requests:>9} {polls:>10} {stalls:>8} {row}", start.elapsed().as_secs());
        match n {
            n if n == warm_up => warm = Some(now),
            n if n == rounds => end = Some(now),
            _ => {}
        }
    }
    Ok(warm.zip(end).is_some_and(|(warm, end)| has_not_grown(warm, end)) & counts_agree(service))
}

fn columns() -> String {
    Resources { resident: 0, heap: 0, descriptors: 0, threads: 0, slots: 0 }
        .all()
        .map(|(name, ..)| format!("{name:>13}"))
        .concat()
}

/// Waits until everything stopped has disappeared, or [`PATIENCE`] is over, and returns the
/// resources in use then.
fn wait_until_idle(service: &Service, warm: Option<Resources>, least: Duration) -> Resources {
    let start = Instant::now();
    let mut last = Resources::of_now(&service.watchdog);
    let mut unchanged = 0;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = Resources::of_now(&service.watchdog);
        let counts = |r: &Resources| [r.descriptors, r.threads, r.slots];
        unchanged = if counts(&now) == counts(&last) { unchanged + 1 } else { 0 };
        let is_back = warm.is_none_or(|warm| counts(&now).iter().zip(counts(&warm)).all(|(now, warm)| *now <= warm));
        if unchanged >= 10 && is_back && start.elapsed() >= least || start.elapsed() > PATIENCE {
            return now;
        }
        last = now;
    }
}

/// Compares the resources at the end with those after the warm-up. Only growth is a failure.
fn has_not_grown(warm: Resources, end: Resources) -> bool {
    println!("\n{:<14} {:>12} {:>12} {:>12}", "held", "warmed up", "at the end", "may grow by");
    let mut fine = true;
    for ((name, warm, may_grow), (_, end, _)) in warm.all().into_iter().zip(end.all()) {
        let holds = end <= warm + may_grow;
        println!("{name:<14} {warm:>12} {end:>12} {may_grow:>12}{}", if holds { "" } else { "   MORE" });
        fine &= holds;
    }
    println!("descriptors: {:?}", Resources::descriptors());
    fine
}

/// Compares the counts, repeatedly for a while: the hook at the end of a task may run after the
/// code that waited for the task has continued.
fn counts_agree(service: &Service) -> bool {
    let start = Instant::now();
    let lines = loop {
        let snapshot = service.watchdog.snapshot();
        let mut lines = service.ledger.compare(&snapshot);
        lines.extend(service.ledger.compare_reports(&snapshot));
        if lines.iter().all(Line::agrees) || start.elapsed() > PATIENCE {
            break lines;
        }
        thread::sleep(Duration::from_millis(100));
    };
    println!("\n{:>10} {:>10}  what", "expected", "counted");
    for line in &lines {
        println!(
            "{:>10} {:>10}  {}{}",
            line.expected,
            line.counted,
            line.what,
            if line.agrees() { "" } else { "   WRONG" }
        );
    }
    println!();
    for (fault, times) in service.ledger.faults() {
        println!("{times:>10}  {fault}");
    }
    let watchdog = service.watchdog.snapshot().watchdog;
    let captures: Vec<_> = watchdog.captures.iter().map(|c| format!("{} {}", c.count, c.outcome)).collect();
    println!("captures: {}; reports lost: {}", captures.join(", "), watchdog.reports_lost);
    let panics = PANICS.load(Relaxed);
    if panics > 0 {
        println!("{panics} panics that were not raised on purpose");
    }
    let wrong = lines.iter().filter(|line| !line.agrees()).count();
    println!("{} accounts, {wrong} wrong", lines.len());
    panics == 0 && wrong == 0
}

/// Returns a callback that panics at some calls, and takes long at others.
fn misbehaving_callback(ledger: Arc<Ledger>) -> impl Fn(&Stall) + Send + Sync {
    move |stall| {
        ledger.record_report(stall.id);
        match stall.id % 16 {
            3 => {
                ledger.callback_panics.fetch_add(1, Relaxed);
                std::panic::panic_any(Deliberate);
            }
            7 => thread::sleep(Duration::from_millis(30)),
            _ => {}
        }
    }
}

/// A log that blocks the thread that writes to it.
struct SlowLog;

impl<S: tracing::Subscriber> Layer<S> for SlowLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("pollwatch") {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

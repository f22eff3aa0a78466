//! Tests of the reports of a stall: in the log, to the callback, and by `stalls()`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use pollwatch::{Phase, Watchdog};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use test_support::*;

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) target: String,
    pub(crate) level: Level,
    pub(crate) fields: BTreeMap<&'static str, String>,
    pub(crate) in_span: bool,
}

/// All events of the process with pollwatch's targets. Watchdog threads log to the global
/// subscriber.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Capture;

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let meta = event.metadata();
        if meta.target().starts_with("pollwatch") {
            let in_span = event.parent().is_some() || event.is_contextual();
            lock(&LINES).push(Line { target: meta.target().into(), level: *meta.level(), fields, in_span });
        }
    }
}

/// Collects from now on what this process logs.
pub(crate) fn log_to_lines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Capture);
        tracing::subscriber::set_global_default(subscriber).expect("the only one in this binary");
    });
}

fn logging() -> (Watchdog, CollectedStalls) {
    log_to_lines();
    start_with(Watchdog::builder().threshold(THRESHOLD))
}

/// The log lines about one runtime, except the line that it is watched.
pub(crate) fn lines(runtime: &str) -> Vec<Line> {
    let all = lock(&LINES).clone();
    let of_it = |l: &Line| l.fields.get("runtime").is_some_and(|r| r == runtime);
    all.into_iter().filter(|l| of_it(l) && l.target != "pollwatch::watchdog").collect()
}

#[test]
fn the_log_has_fields() {
    undisturbed(has_fields);
}

fn has_fields() -> Result<(), String> {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    let name = &*format!("log fields {}", ATTEMPTS.fetch_add(1, Ordering::Relaxed));
    let (watchdog, collected) = logging();
    let runtime = watchdog.build_runtime(name, multi_thread(1)).unwrap();
    let observer = collected.clone();
    let (part, inside) = watch_at(&watchdog, async move { observer.wait(|s| s.elapsed >= THRESHOLD * 2).is_some() });
    let (task, outside) = spawn_measured(&watchdog, runtime.handle(), part);
    let id = task.id().to_string();
    assert!(runtime.block_on(task).unwrap());
    let stall = collected.wait_resolved(name);
    // A scan may have found the stall before it reached its inner future.
    is_undisturbed(&stall)?;
    let lines = wait_for("its end is logged", || {
        Some(lines(name)).filter(|l| l.last().is_some_and(|l| l.fields["phase"] == "resolved"))
    });
    let (last, ongoing) = lines.split_last().unwrap();
    assert!(!ongoing.is_empty() && ongoing.iter().all(|l| l.fields["phase"] == "ongoing"), "{lines:#?}");
    for line in &lines {
        assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::stall", Level::WARN, false));
        let fields = &line.fields;
        assert_eq!((fields["stall"].as_str(), fields["worker"].as_str()), ("1", "0"));
        assert_eq!((&fields["thread"], &fields["task"]), (&stall.thread.to_string(), &id));
        assert_eq!((&fields["site"], &fields["watched"]), (&outside, &inside));
        assert_eq!(fields["cause"], stall.cause.to_string());
        assert!(!fields.contains_key("suppressed"));
        let elapsed: f64 = fields["elapsed_ms"].parse().expect("a number");
        assert!(elapsed >= THRESHOLD.as_secs_f64() * 1e3 * 0.99);
        assert!(fields["message"].contains(&outside), "{}", fields["message"]);
    }
    assert_eq!(last.fields["elapsed_ms"], format!("{:?}", stall.elapsed.as_micros() as f64 / 1e3));
    assert_eq!(last.fields["message"].trim_end(), stall.to_string());
    Ok(())
}

#[test]
fn the_log_states_the_coverage_of_a_runtime() {
    let (watchdog, _told) = logging();
    let name = "the coverage";
    let _runtime = watchdog.build_runtime(name, multi_thread(1)).unwrap();
    let lines: Vec<_> =
        lock(&LINES).iter().filter(|l| l.fields.get("runtime").is_some_and(|r| r == name)).cloned().collect();
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::watchdog", Level::INFO, false));
    let coverage = watchdog.coverage();
    let covered = coverage.runtimes.iter().find(|r| &*r.name == name).expect("the runtime is watched");
    assert_eq!(line.fields["message"], format!("watching {covered}"));
    assert_eq!(line.fields["message"].contains("every spawned task"), HOOKS, "{line:?}");
}

#[test]
fn display_names_site_cause_and_duration() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let observer = collected.clone();
    let (root, location) = watch_at(&watchdog, async move { observer.wait_ongoing("main").is_some() });
    assert!(runtime.block_on(root));
    let end = collected.wait_resolved("main");
    let ongoing = collected.wait_ongoing("main").expect("the stall was reported");
    let (ongoing, end) = (ongoing.to_string(), end.to_string());
    assert!(
        ongoing.starts_with("stall #1 ongoing ") && end.starts_with("stall #1 resolved after "),
        "{ongoing}\n{end}"
    );
    for text in [ongoing, end] {
        assert!(text.contains(" ms on worker 0 of \"main\"") && text.contains(&location), "{text}");
    }
}

/// Repeats of one site are limited in the log. The callback and `stalls()` get all, and the
/// suppressed ones are counted.
#[test]
fn repeats_are_limited_only_in_the_log() {
    const STALLS: usize = 24;
    let (watchdog, collected) = logging();
    let runtime = watchdog.build_runtime("repeats", current_thread()).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..STALLS {
        runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    }
    let resolved = || collected.of("repeats").iter().filter(|s| s.phase == Phase::Resolved).count();
    wait_until("all are reported", || resolved() == STALLS);
    assert_eq!(watchdog.stalls().len(), STALLS);
    // Another site is logged while this one is suppressed.
    let (root, location) = watch_at(&watchdog, async { block(THRESHOLD * 2) });
    runtime.block_on(root);
    wait_until("all are reported", || resolved() == STALLS + 1);
    let lines = wait_for("the other site is logged", || {
        Some(lines("repeats")).filter(|l| l.iter().any(|l| l.fields["site"] == location))
    });
    // The limit is a burst of 5, then one per 10 s, of each cause and location. A busy machine
    // decides the cause of some, and whether there is a stack already.
    let earned = started.elapsed().as_secs() as usize / 10;
    let mut logged = BTreeMap::new();
    for line in lines.iter().filter(|l| l.fields["site"] != location) {
        let key = (line.fields["cause"].clone(), line.fields.get("at").cloned());
        logged.entry(line.fields["stall"].clone()).or_insert(key);
    }
    let mut keys: BTreeMap<_, usize> = BTreeMap::new();
    logged.values().for_each(|key| *keys.entry(key).or_default() += 1);
    assert!(keys.values().all(|lines| *lines <= 5 + earned) && logged.len() >= 5, "{keys:?}");
    let suppressed = Metrics::parse(&watchdog.metrics_text()).get("pollwatch_reports_suppressed_total", &[]);
    assert!(suppressed >= (STALLS - logged.len()) as f64, "{suppressed}");
    let counted = Metrics::parse(&watchdog.metrics_text()).sum("pollwatch_stalls_total", &[("runtime", "repeats")]);
    assert_eq!(counted, STALLS as f64 + 1.0, "metrics are never limited");
}

#[test]
fn without_log_nothing_is_logged() {
    drop(logging());
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("log off", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { block(THRESHOLD * 3) }));
    collected.wait_resolved("log off");
    drop(watchdog);
    assert!(lines("log off").is_empty());
}

#[test]
fn a_panicking_callback_is_caught_and_counted() {
    let collected = CollectedStalls::default();
    let keep = collected.callback();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).on_stall(move |stall| {
        keep(stall);
        // A payload that panics again when it is dropped.
        struct PanicsOnDrop;
        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!("on purpose, again");
                }
            }
        }
        std::panic::panic_any(PanicsOnDrop);
    });
    let watchdog = watchdog.start().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for i in 1..=3 {
        let observer = collected.clone();
        let root = async move { observer.wait(|s| s.id == i && s.phase == Phase::Ongoing).is_some() };
        assert!(runtime.block_on(watchdog.watch(root)), "detection continues");
        collected.wait(|s| s.id == i && s.phase == Phase::Resolved).expect("and so does the rest");
    }
    let panics = || watchdog.snapshot().watchdog.callback_panics;
    wait_until("each is counted", || panics() == collected.all().len() as u64);
    assert!(panics() >= 6);
    assert_eq!(watchdog.stalls().len(), 3);
}

/// The ring of recent stalls is bounded and drops the oldest first.
#[test]
fn recent_stalls_are_bounded() {
    const STALLS: u64 = 300;
    let threshold = std::time::Duration::from_millis(1);
    let (watchdog, collected) = start(threshold);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for id in 1..=STALLS {
        runtime.block_on(watchdog.watch(async { block(threshold * 2) }));
        collected.wait(|s| s.id >= id && s.phase == Phase::Resolved).expect("the stall is reported");
    }
    let stalls = watchdog.stalls();
    assert_eq!(stalls.len(), 256);
    assert!(stalls.windows(2).all(|pair| pair[0].id < pair[1].id), "most recent last");
    assert!(stalls.last().is_some_and(|s| s.id >= STALLS));
    assert!(stalls.iter().all(|s| s.phase == Phase::Resolved));
}

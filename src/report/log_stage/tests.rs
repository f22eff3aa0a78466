use std::fmt::Debug;
use std::sync::Mutex;

use pollwatch_stack::{Address, Tid};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::with_default;

use super::*;
use crate::model::event::TaskGroup;
use crate::model::lock::{Deadlock, DeadlockedThread};
use crate::model::site::Site;
use crate::report::call_stage::{CallStage, OnStall, SLOW_CALLBACK, combine};
use crate::report::counters::QUEUE;
use crate::report::samples::{self, stall};
use crate::report::throttle::LOG_LINES;
use crate::util::lock;

const ORIGIN: StallOrigin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None, parent_route: None };
const BURST: u64 = LOG_LINES.burst as u64;

/// The fields of each event of this test.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Printed<'a>(&'a mut String);

impl Visit for Printed<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

/// A subscriber that collects events, and then panics if `panics` is set.
struct Collector {
    lines: Lines,
    panics: bool,
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(&mut Printed(&mut line));
        lock(&self.lines.0).push(line);
        assert!(!self.panics, "on purpose");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// Runs `f` with a subscriber of this thread.
fn with_subscriber(panics: bool, f: impl FnOnce(&Lines)) {
    let lines = Lines::default();
    with_default(Collector { lines: lines.clone(), panics }, || f(&lines));
}

fn stage() -> LogStage {
    LogStage::new(LogFormat::Text, Arc::default())
}

fn report(stage: &mut LogStage, stall: Stall) {
    stage.report_stall(StallRecord { stall, origin: ORIGIN, version: 0 });
}

fn ongoing(id: u64, millis: u64) -> Stall {
    stall(id, millis)
}

fn resolved(id: u64, millis: u64) -> Stall {
    Stall { phase: Phase::Resolved, ..stall(id, millis) }
}

/// Makes the time that the rate limit sees later by `time`.
fn advance(stage: &mut LogStage, time: Duration) {
    stage.started = stage.started.checked_sub(time).expect("the machine has run for longer");
}

fn suppressed(stage: &LogStage) -> u64 {
    stage.counters.suppressed.load(Ordering::Relaxed)
}

/// A panic of the user's subscriber costs one line.
#[test]
fn a_panicking_subscriber_costs_only_its_line() {
    let mut stage = stage();
    with_subscriber(true, |lines| {
        report(&mut stage, ongoing(1, 10));
        report(&mut stage, ongoing(1, 20));
        report(&mut stage, resolved(1, 30));
        assert_eq!(lines.take().len(), 3);
        stage.report_notice(&Notice::Degraded("something".into()));
        assert_eq!(lines.take().len(), 1);
    });
    assert_eq!(stage.counters.callback_panics.load(Ordering::Relaxed), 4);
    assert!(stage.ongoing.is_empty());
}

/// The first location of a stall in the log is not one that it is still at, however many samples
/// were taken before.
#[test]
fn the_log_compares_a_location_with_its_line_before() {
    let mut stage = stage();
    let stack = |name| Some(pollwatch_stack::Stack::new(vec![samples::frame(name)], true, |_| false));
    // The latest two samples were of one location.
    let at = |millis, name| Stall { stack: stack(name), location_changed: Some(false), ..ongoing(1, millis) };
    with_subscriber(false, |lines| {
        let mut logged = |stall: Stall| {
            report(&mut stage, stall);
            lines.take().remove(0)
        };
        assert!(!logged(ongoing(1, 10)).contains("at app::"));
        let first = logged(at(20, "app::one"));
        assert!(first.contains("at app::one") && !first.contains("still at"), "{first}");
        assert!(logged(at(40, "app::one")).contains("still at app::one"));
        assert!(logged(at(80, "app::two")).contains("now at app::two"));
        assert!(!logged(ongoing(1, 160)).contains("at app::"), "a report without a stack");
        assert!(logged(at(320, "app::two")).contains("still at app::two"));
        let end = logged(Stall { stack: stack("app::two"), ..resolved(1, 400) });
        assert!(end.contains("at app::two") && !end.contains("still at"), "{end}");
    });
    assert!(stage.locations.is_empty());
}

/// A stall whose first report was suppressed, and a later one is logged, does not say that another
/// one was suppressed.
#[test]
fn a_stall_that_is_logged_late_does_not_report_itself_as_suppressed() {
    let mut stage = stage();
    with_subscriber(false, |lines| {
        (1..=BURST).for_each(|id| report(&mut stage, resolved(id, 10)));
        assert_eq!(lines.take().len() as u64, BURST);
        report(&mut stage, ongoing(100, 10));
        report(&mut stage, ongoing(100, 20));
        report(&mut stage, ongoing(101, 10));
        report(&mut stage, resolved(101, 20));
        assert_eq!((lines.take().len(), suppressed(&stage)), (0, 2), "each is counted once");
        advance(&mut stage, LOG_LINES.interval);
        report(&mut stage, ongoing(100, 40));
        report(&mut stage, resolved(100, 50));
        let logged = lines.take();
        let [late, end] = &logged[..] else { panic!("{logged:#?}") };
        assert!(late.contains("stall=100 ") && late.contains("1 more like this"), "the other one: {late}");
        assert!(end.contains("phase=resolved") && !end.contains("more like this"), "{end}");
    });
}

/// Starved stalls do not hide those that compute, nor the first culprit of a site the second.
#[test]
fn causes_and_locations_have_limits_of_their_own() {
    let frame = |name: &str| {
        let mut frame = pollwatch_stack::Frame::default();
        frame.function = Some(name.into());
        Some(pollwatch_stack::Stack::new(vec![frame], true, |_| false))
    };
    let starved = |id| Stall { cause: Cause::Starved, stack: frame("app::innocent"), ..resolved(id, 10) };
    let computed = |id, name| Stall { cause: Cause::Cpu, stack: frame(name), ..resolved(id, 10) };
    let mut stage = stage();
    with_subscriber(false, |lines| {
        (1..=743).for_each(|id| report(&mut stage, starved(id)));
        assert_eq!(lines.take().len() as u64, BURST);
        (1..=100).for_each(|id| report(&mut stage, computed(1_000 + id, "app::first")));
        assert_eq!(lines.take().len() as u64, BURST);
        report(&mut stage, computed(2_000, "app::second"));
        assert!(lines.take()[0].contains("app::second"));
        // One that seemed to be starved, and was not, is logged at its end.
        report(&mut stage, Stall { phase: Phase::Ongoing, ..starved(3_000) });
        assert_eq!(lines.take(), [""; 0]);
        report(&mut stage, computed(3_000, "app::third"));
        let logged = lines.take();
        assert!(logged.len() == 1 && logged[0].contains("app::third"), "{logged:?}");
    });
}

#[test]
fn pauses_and_panics_that_are_not_logged_are_counted() {
    let group = TaskGroup { runtime: "main".into(), site: Site::new(None), key: (RuntimeId(1), SiteId(1)) };
    let notices = [
        Notice::ProcessPaused(Duration::from_secs(1)),
        Notice::TaskPanicked { group, task: None, message: "on purpose".into() },
    ];
    for notice in notices {
        let mut stage = stage();
        with_subscriber(false, |lines| {
            for _ in 0..BURST + 3 {
                stage.report_notice(&notice);
            }
            assert_eq!((lines.take().len() as u64, suppressed(&stage)), (BURST, 3));
            advance(&mut stage, LOG_LINES.interval);
            stage.report_notice(&notice);
            let logged = lines.take();
            let [line] = &logged[..] else { panic!("{logged:#?}") };
            // A subscriber prints further fields after a message of several lines on one of their
            // own.
            assert!(line.contains("\n  3 more like this since it was last logged\n "), "{line}");
            assert!(line.contains("suppressed=3"), "{line}");
        });
    }
}

/// A subscriber that writes JSON gets messages of one line, and fields that have the rest.
#[test]
fn messages_of_one_line() {
    let group = TaskGroup { runtime: "main".into(), site: Site::new(None), key: (RuntimeId(1), SiteId(1)) };
    let mut stage = LogStage::new(LogFormat::Fields, Arc::default());
    with_subscriber(false, |lines| {
        let advised = |id| Stall { cause: Cause::Cpu, advice: Some("do it elsewhere"), ..resolved(id, 10) };
        (0..=BURST).for_each(|id| report(&mut stage, advised(id)));
        let pause = Notice::ProcessPaused(Duration::from_secs(1));
        (0..=BURST).for_each(|_| stage.report_notice(&pause));
        advance(&mut stage, LOG_LINES.interval);
        report(&mut stage, advised(100));
        stage.report_notice(&pause);
        stage.report_notice(&Notice::TasksGrew { group, alive: 2, limit: 1 });
        let logged = lines.take();
        assert_eq!(logged.len() as u64, 2 * BURST + 3);
        assert!(logged.iter().all(|line| !line.contains('\n')), "{logged:#?}");
        let [stall, pause, growth] = &logged[logged.len() - 3..] else { panic!("{logged:#?}") };
        assert!(stall.contains("suppressed=1") && stall.contains("advice=\"do it elsewhere\""), "{stall}");
        assert!(stall.matches("do it elsewhere").count() == 1 && pause.contains("suppressed=1"), "{stall} {pause}");
        assert!(growth.contains("advice="), "{growth}");
    });
}

/// A deadlock says in its fields all that its text says.
#[test]
fn a_deadlock_in_one_line_or_as_a_text() {
    let member = |name: &str, tid, lock, waits: &str| DeadlockedThread {
        name: name.into(),
        tid: Tid::from_raw(tid),
        site: (tid == 1).then(|| Site::new(None)),
        waits_for: Address::new(lock),
        waits_at: Some(samples::frame(waits)),
        holds_at: None,
    };
    let threads = vec![member("a", 1, 0x10, "app::f"), member("b", 2, 0x20, "app::g")];
    let logged = |format| {
        let mut line = String::new();
        with_subscriber(false, |lines| {
            let mut stage = LogStage::new(format, Arc::default());
            stage.report_notice(&Notice::Deadlock(Deadlock { threads: threads.clone() }));
            line = lines.take().remove(0);
        });
        line
    };
    let fields = [
        "threads=\"a, b\"",
        "tids=\"1, 2\"",
        "sites=\"other, unknown\"",
        "locks=\"0x10, 0x20\"",
        "waits_at=\"app::f, app::g\"",
        "holds_at=\"unknown, unknown\"",
        "advice=\"take the locks in the same order",
    ];
    let line = logged(LogFormat::Fields);
    assert!(line.contains("message=deadlock: 2 threads wait, it seems, for locks of each other "), "{line}");
    assert!(!line.contains('\n') && fields.iter().all(|field| line.contains(field)), "{line}");
    let text = logged(LogFormat::Text);
    assert!(text.contains("each other\n  thread \"a\" (1)") && text.contains("\n  advice: take the locks"), "{text}");
    assert!(fields.iter().all(|field| text.contains(field)), "{text}");
}

/// The first slow callback is logged, unless the log is off.
#[test]
fn a_slow_callback_is_logged_once() {
    let call = |log: Option<Arc<ReportQueue>>| {
        let slow: OnStall = Box::new(|_| std::thread::sleep(SLOW_CALLBACK + Duration::from_millis(10)));
        let mut stage = CallStage::new(slow, Arc::default(), log);
        stage.call(&resolved(1, 10));
        stage.call(&resolved(2, 10));
    };
    call(None);
    let queue = Arc::new(ReportQueue::new(QUEUE));
    call(Some(queue.clone()));
    queue.close();
    with_subscriber(false, |lines| {
        stage().run(&queue);
        let logged = lines.take();
        assert!(logged.len() == 1 && logged[0].contains("took more than 100 ms"), "{logged:#?}");
    });
}

/// A callback that panics is counted, and keeps no other from being called.
#[test]
fn several_callbacks_are_called_in_their_order() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let callback = |number: u32| -> OnStall {
        let called = called.clone();
        Box::new(move |_| {
            lock(&called).push(number);
            assert_ne!(number, 1, "on purpose");
        })
    };
    assert!(combine(Vec::new()).is_none());
    let counters = Arc::new(ReportCounters::default());
    let all = combine((0..3).map(callback).collect()).expect("there are some");
    let mut stage = CallStage::new(all, counters.clone(), None);
    stage.call(&resolved(1, 10));
    stage.call(&resolved(2, 10));
    assert_eq!(*lock(&called), [0, 1, 2, 0, 1, 2]);
    assert_eq!(counters.callback_panics.load(std::sync::atomic::Ordering::Relaxed), 2);
}

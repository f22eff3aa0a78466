use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::subscriber::with_default;

use super::*;
use crate::model::event::TaskGroup;
use crate::model::site::Site;
use crate::report::samples::stall;
use crate::report::throttle::LOG_LINES;

const ORIGIN: StallOrigin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None };
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

fn dispatcher(log: bool, on_stall: Option<OnStall>) -> Dispatcher {
    Dispatcher::new(
        ReportSettings { log, capture_stacks: false, on_stall },
        Arc::default(),
        Arc::default(),
        #[cfg(feature = "server")]
        Arc::default(),
    )
}

fn report(dispatcher: &mut Dispatcher, id: u64, phase: Phase, millis: u64) {
    let stall = Stall { phase, ..stall(id, millis) };
    dispatcher.report_stall(StallRecord { stall, origin: ORIGIN }, None);
}

/// Makes the time that the rate limit sees later by `time`.
fn advance(dispatcher: &mut Dispatcher, time: Duration) {
    dispatcher.started = dispatcher.started.checked_sub(time).expect("the machine has run for longer");
}

fn suppressed(dispatcher: &Dispatcher) -> u64 {
    dispatcher.counters.suppressed.load(Ordering::Relaxed)
}

/// A panic of the user's subscriber costs one line. The callback, the state of the stall and the
/// profile are as without it.
#[test]
fn a_panicking_subscriber_costs_only_its_line() {
    let calls = Arc::new(AtomicU64::new(0));
    let counter = calls.clone();
    let on_stall: OnStall = Box::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut dispatcher = dispatcher(true, Some(on_stall));
    with_subscriber(true, |lines| {
        report(&mut dispatcher, 1, Phase::Ongoing, 10);
        report(&mut dispatcher, 1, Phase::Ongoing, 20);
        report(&mut dispatcher, 1, Phase::Resolved, 30);
        assert_eq!(lines.take().len(), 3);
        dispatcher.report_notice(&Notice::Degraded("something".into()));
        assert_eq!(lines.take().len(), 1);
    });
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!(dispatcher.counters.callback_panics.load(Ordering::Relaxed), 4);
    assert!(dispatcher.ongoing.is_empty());
    #[cfg(feature = "server")]
    {
        let profile = lock(&dispatcher.profile).snapshot();
        let [entry] = &profile.entries[..] else { panic!("{profile:?}") };
        assert_eq!((entry.stalls.count, entry.stalls.time), (1, Duration::from_millis(30)));
    }
}

/// A stall whose first report was suppressed, and a later one is logged, does not say that another
/// one was suppressed.
#[test]
fn a_stall_that_is_logged_late_does_not_report_itself_as_suppressed() {
    let mut dispatcher = dispatcher(true, None);
    with_subscriber(false, |lines| {
        for id in 1..=BURST {
            report(&mut dispatcher, id, Phase::Resolved, 10);
        }
        assert_eq!(lines.take().len() as u64, BURST);
        report(&mut dispatcher, 100, Phase::Ongoing, 10);
        report(&mut dispatcher, 100, Phase::Ongoing, 20);
        report(&mut dispatcher, 101, Phase::Ongoing, 10);
        report(&mut dispatcher, 101, Phase::Resolved, 20);
        assert_eq!((lines.take().len(), suppressed(&dispatcher)), (0, 2), "each is counted once");
        advance(&mut dispatcher, LOG_LINES.interval);
        report(&mut dispatcher, 100, Phase::Ongoing, 40);
        report(&mut dispatcher, 100, Phase::Resolved, 50);
        let logged = lines.take();
        let [late, end] = &logged[..] else { panic!("{logged:#?}") };
        assert!(late.contains("stall=100 ") && late.contains("1 more like this"), "the other one: {late}");
        assert!(end.contains("phase=resolved") && !end.contains("more like this"), "{end}");
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
        let mut dispatcher = dispatcher(true, None);
        with_subscriber(false, |lines| {
            for _ in 0..BURST + 3 {
                dispatcher.report_notice(&notice);
            }
            assert_eq!((lines.take().len() as u64, suppressed(&dispatcher)), (BURST, 3));
            advance(&mut dispatcher, LOG_LINES.interval);
            dispatcher.report_notice(&notice);
            let logged = lines.take();
            let [line] = &logged[..] else { panic!("{logged:#?}") };
            // A subscriber prints further fields after a message of several lines on one of their
            // own.
            assert!(line.contains("\n  3 more like this since it was last logged\n "), "{line}");
            assert!(line.contains("suppressed=3"), "{line}");
        });
    }
}

/// With the log off there is no line, not even about pollwatch itself.
#[test]
fn without_log_nothing_is_logged() {
    let slow: OnStall = Box::new(|_| std::thread::sleep(SLOW_CALLBACK + Duration::from_millis(10)));
    let mut dispatcher = dispatcher(false, Some(slow));
    with_subscriber(false, |lines| {
        report(&mut dispatcher, 1, Phase::Resolved, 10);
        dispatcher.report_notice(&Notice::Degraded("something".into()));
        dispatcher.report_notice(&Notice::ProcessPaused(Duration::from_secs(1)));
        assert_eq!(lines.take(), [""; 0]);
        assert_eq!(suppressed(&dispatcher), 0);
        // The same callback with the log on.
        (dispatcher.settings.log, dispatcher.has_logged_slow_callback) = (true, false);
        report(&mut dispatcher, 2, Phase::Resolved, 10);
        let logged = lines.take();
        assert!(logged.len() == 2 && logged[1].contains("took more than 100 ms"), "{logged:#?}");
    });
}

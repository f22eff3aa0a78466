//! The log lines of conditions.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::ONE_AT_A_TIME;
use test_support::*;

/// A log line of the target `pollwatch::runtime`.
#[derive(Clone, Debug)]
struct Line {
    level: tracing::Level,
    fields: BTreeMap<&'static str, String>,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Capture;

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line { level: *event.metadata().level(), fields: BTreeMap::new() };
        event.record(&mut line);
        if event.metadata().target() == "pollwatch::runtime" {
            lock(&LINES).push(line);
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// The log has the start of a condition with its cause and the remedy, and its end. A rescue is
/// reported with the start.
#[test]
fn a_condition_is_logged_with_the_stall_that_causes_it() {
    let _guard = lock(&ONE_AT_A_TIME);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Capture)).unwrap();
    let mut attempts = 0;
    undisturbed(|| {
        attempts += 1;
        is_logged(&format!("log of driver {attempts}"))
    });
}

/// `Err` if another worker happens to attend the driver.
fn is_logged(name: &str) -> Result<(), String> {
    let watchdog = Watchdog::builder().threshold(THRESHOLD).start().unwrap();
    let runtime = watchdog.build_runtime(name, multi_thread(2)).unwrap();
    let gate = Gate::new();
    let key = gate.key();
    runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        key.pass()
    });
    let of_it = |line: &&Line| line.fields.get("runtime").is_some_and(|runtime| runtime == name);
    let logged = || -> Vec<Line> { lock(&LINES).iter().filter(of_it).cloned().collect() };
    wait_until("the stall is found", || !watchdog.stalls().is_empty());
    let is_ended = || logged().iter().any(|line| line.fields["phase"] == "resolved");
    let found = Instant::now();
    wait_until("the end of the condition is logged", || is_ended() || found.elapsed() > Duration::from_secs(3));
    gate.open();
    if !is_ended() && runtime_of(&watchdog.snapshot(), name).driver_unattended.count == 0 {
        return Err("another worker has attended the driver".to_owned());
    }
    let logged = logged();
    let (start, end) = (&logged[0].fields, &logged[logged.len() - 1].fields);
    assert!(logged.iter().all(|line| line.level == tracing::Level::WARN), "{logged:#?}");
    assert_eq!((&*start["kind"], &*start["phase"], &*start["rescues"]), ("driver_unattended", "ongoing", "1"));
    assert!(start["caused_by"].contains(&format!("stall #{} ongoing", start["stall"])), "{start:#?}");
    assert!(start["message"].contains("pollwatch has woken a worker for it\n  caused by "), "{start:#?}");
    assert!(start["advice"].contains("do not block in a task"), "{start:#?}");
    assert_eq!(&*end["phase"], "resolved", "{end:#?}");
    assert!(end["message"].starts_with(&format!("a worker of {name:?} attends sockets and timers again")), "{end:#?}");
    assert!(!end.contains_key("advice"), "{end:#?}");
    Ok(())
}

//! What a watchdog has reported, as the child prints it and the parent judges it.

use std::fmt::{self, Debug, Display};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Once};

use pollwatch::{Cause, LateReason};
use test_support::*;
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::fixture::Observer;

/// A line of pollwatch's log.
#[derive(Debug)]
struct Line {
    level: Level,
    target: &'static str,
    cause: String,
    message: String,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Recorder;

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if target.starts_with("pollwatch") {
            let mut line = Line { level, target, cause: String::new(), message: String::new() };
            event.record(&mut line);
            lock(&LINES).push(line);
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "cause" => self.cause = format!("{value:?}"),
            _ => {}
        }
    }
}

/// Records the log of this process.
pub(crate) fn record_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Recorder)).unwrap();
    });
}

/// The reports of a watchdog.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What must not be reported.
    alarms: Vec<String>,
    /// The reports that a thread was given no CPU. They are true on a busy machine.
    disturbances: Vec<String>,
    /// The reports that the process was stopped.
    pauses: Vec<String>,
}

impl Report {
    /// Collects what was reported, but for the log.
    pub(crate) fn of(observer: &Observer) -> Report {
        let (watchdog, mut report) = (&observer.watchdog, Report::default());
        let alarms = &mut report.alarms;
        alarms.extend(watchdog.incidents().iter().map(one_line));
        alarms.extend(watchdog.conditions().iter().map(one_line));
        let called = observer.called.load(Ordering::SeqCst);
        alarms.extend((called > 0).then(|| format!("the callback of incidents was called {called} times")));
        lock(&observer.unhealthy).iter().for_each(|body| report.add_unhealthy(body));
        for runtime in &watchdog.snapshot().runtimes {
            let conditions = [runtime.driver_unattended, runtime.hung, runtime.blocking_pool_full];
            let stalls = [runtime.suspected, runtime.root_stalls];
            let incidents: u64 = runtime.incidents.iter().map(|of_kind| of_kind.count).sum();
            let counts = conditions.map(|condition| condition.count).into_iter();
            let is_counted = counts.chain(stalls.map(|stalls| stalls.count)).sum::<u64>() + incidents > 0;
            if is_counted || runtime.driver_attended == Some(false) || runtime.blocking_pool_is_full == Some(true) {
                let counted = format!("{conditions:?} {stalls:?}, {incidents} incidents");
                report.alarms.push(format!("{:?}: {counted}, attended: {:?}", runtime.name, runtime.driver_attended));
            }
            for of_cause in runtime.stalls.iter().filter(|of_cause| of_cause.stalls.count > 0) {
                report.stalls(of_cause.cause).push(format!("{:?}: {of_cause:?}", runtime.name));
            }
        }
        for late in watchdog.late_runtimes() {
            let list = match late.reason {
                LateReason::NoCpu => &mut report.disturbances,
                _ => &mut report.alarms,
            };
            list.push(format!("{} {late:?}", one_line(&late)));
        }
        report
    }

    /// The list for stalls of this cause. A busy machine or a stopped process is not what a runtime
    /// does.
    fn stalls(&mut self, cause: Cause) -> &mut Vec<String> {
        match cause {
            Cause::Starved => &mut self.disturbances,
            Cause::Paused => &mut self.pauses,
            _ => &mut self.alarms,
        }
    }

    /// Adds the lines of the log so far.
    pub(crate) fn add_log(&mut self) {
        let is_disturbed = !self.disturbances.is_empty();
        for line in lock(&LINES).drain(..) {
            let is_pause = line.target == "pollwatch::watchdog" && line.message.contains("process was paused");
            let list = match line.target {
                _ if line.level >= Level::INFO => continue,
                "pollwatch::stall" if line.cause == Cause::Starved.as_str() => &mut self.disturbances,
                "pollwatch::late" if is_disturbed => &mut self.disturbances,
                "pollwatch::stall" if line.cause == Cause::Paused.as_str() => &mut self.pauses,
                _ if is_pause => &mut self.pauses,
                _ => &mut self.alarms,
            };
            list.push(one_line(&line));
        }
    }

    pub(crate) fn print(&self) {
        let lists = [("alarm", &self.alarms), ("disturbance", &self.disturbances), ("pause", &self.pauses)];
        for (kind, list) in lists {
            list.iter().for_each(|text| println!("\n{kind} {text}"));
        }
        println!("\nreported");
    }

    /// Reads what a child has printed.
    pub(crate) fn parse(lines: &[String]) -> Report {
        let list = |kind: &str| lines.iter().filter_map(|line| line.strip_prefix(kind)).map(str::to_owned).collect();
        assert!(lines.iter().any(|line| line == "reported"), "{lines:#?}");
        Report { alarms: list("alarm "), disturbances: list("disturbance "), pauses: list("pause ") }
    }

    /// Runs the test `name` as a child, and reads what that prints.
    pub(crate) fn of_child(name: &str) -> Report {
        let output = rerun(name).stderr(Stdio::inherit()).output().expect("a child starts");
        let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        assert!(output.status.success(), "{lines:#?}");
        Report::parse(&lines)
    }

    /// Adds an answer of `/healthz` that was not 200.
    pub(crate) fn add_unhealthy(&mut self, body: &str) {
        self.alarms.push(format!("/healthz: {}", one_line(body)));
    }

    /// Asserts that no alarm was raised. `Err` if one was, and the machine may have caused it.
    #[track_caller]
    pub(crate) fn assert_silent(&self) -> Result<(), String> {
        if self.pauses.is_empty() || self.alarms.is_empty() {
            return self.assert_silent_but_for_pauses();
        }
        Err(format!("{self:#?}"))
    }

    /// The same for a process that was stopped on purpose.
    #[track_caller]
    pub(crate) fn assert_silent_but_for_pauses(&self) -> Result<(), String> {
        if !self.alarms.is_empty() && !self.disturbances.is_empty() {
            return Err(format!("{self:#?}"));
        }
        assert!(self.alarms.is_empty(), "{self:#?}");
        Ok(())
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.level, self.target, self.message)
    }
}

fn one_line(text: impl Display) -> String {
    text.to_string().replace('\n', " | ")
}

//! The alerts on conditions of whole runtimes, fired by a real Prometheus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::{Action, ConditionKind, Watchdog};
use test_support::external::{Prometheus, alerts_with_short_waits};
use test_support::*;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::{ONE_AT_A_TIME, keep_driver, ongoing};

/// A threshold that the short polls of these tests do not exceed on a busy machine.
const LONG_THRESHOLD: Duration = Duration::from_millis(100);
/// The alerts of this test.
const ALERTS: &str =
    "PollwatchDriverUnattended|PollwatchRuntimeHung|PollwatchRuntimeLate|PollwatchIncidentActionFailed";

/// Many tasks with short polls, each of which is ready all the time.
struct Flood {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Flood {
    const TASKS: usize = 150;
    const POLL: Duration = Duration::from_millis(5);

    fn start(watchdog: &Watchdog, runtime: &Runtime) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let poll_shortly = |stop: Arc<AtomicBool>| async move {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Flood::POLL);
                tokio::task::yield_now().await;
            }
        };
        let spawn = |_| spawn_measured(watchdog, runtime.handle(), poll_shortly(stop.clone())).0;
        Flood { tasks: (0..Flood::TASKS).map(spawn).collect(), stop }
    }

    fn end(self, runtime: &Runtime) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    }
}

/// Blocks the worker that leaves the driver, until the gate opens.
fn leave_driver_unattended(watchdog: &Watchdog, runtime: &Runtime) -> (Gate, JoinHandle<()>) {
    const TIME_TO_FIND: Duration = Duration::from_secs(5);
    undisturbed(|| {
        let gate = Gate::new();
        let key = gate.key();
        let blocks = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // On a slow machine the alerts take longer than one wait. A drop of the gate opens it.
            while !key.pass() {}
        };
        let (task, _) = spawn_measured(watchdog, runtime.handle(), blocks);
        let is_found = || ongoing(watchdog).iter().any(|found| found.kind == ConditionKind::DriverUnattended);
        let started = Instant::now();
        while started.elapsed() < TIME_TO_FIND {
            if is_found() {
                return Ok((gate, task));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        gate.open();
        runtime.block_on(task).unwrap();
        Err("another worker has attended the driver".to_owned())
    })
}

/// Each alert is silent while all runtimes are well, and fires for the runtime that has its
/// condition, and for no other.
#[test]
fn each_condition_has_its_alert() {
    if !is_installed("prometheus") {
        return;
    }
    let _guard = lock(&ONE_AT_A_TIME);
    let builder = Watchdog::builder().threshold(LONG_THRESHOLD).log(false).rescue_driver(false);
    let fails = Action::call(|_| std::panic::resume_unwind(Box::new("on purpose")));
    let builder = builder.on_incident(Duration::from_secs(1), fails);
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let build = |name, workers| watchdog.build_runtime(name, multi_thread(workers)).unwrap();
    let [calm, unattended, hung, late] =
        [("calm", 2), ("unattended", 2), ("hung", 2), ("late", 1)].map(|(name, workers)| build(name, workers));
    // A little work on each, so that their probes are sent.
    let ticker = async || {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let tickers = [&calm, &late].map(|runtime| spawn_measured(&watchdog, runtime.handle(), ticker()).0);
    let target = watchdog.local_addr().unwrap();
    let dir = scratch(&format!("conditions-{}", target.port()));
    let prometheus = Prometheus::start(&format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
         rule_files: ['{}']\n\
         scrape_configs: [{{job_name: pollwatch, static_configs: [{{targets: ['{target}']}}]}}]\n",
        alerts_with_short_waits(&dir),
    ));
    let firing = |labels: &str| format!("count(ALERTS{{alertstate=\"firing\",{labels}}})");
    prometheus.wait_for("count_over_time(up[1m])", |scrapes| scrapes >= 10.0);
    let unwanted = firing(&format!("alertname=~\"{ALERTS}\""));
    assert!(prometheus.query(&unwanted).is_empty(), "{}", prometheus.api("alerts", &[]));

    let release = keep_driver(hung.handle(), Duration::from_millis(50));
    let (gate, blocked) = leave_driver_unattended(&watchdog, &unattended);
    let flood = Flood::start(&watchdog, &late);
    for alert in [
        r#"alertname="PollwatchRuntimeHung",runtime="hung",severity="warning""#,
        r#"alertname="PollwatchRuntimeLate",runtime="late",severity="warning""#,
        r#"alertname="PollwatchDriverUnattended",runtime="unattended",severity="warning""#,
        r#"alertname="PollwatchIncident",runtime="unattended",kind="driver_unattended""#,
        r#"alertname="PollwatchIncident",runtime="hung",kind="runtime_hung""#,
        r#"alertname="PollwatchIncidentActionFailed",action="call",result="failed""#,
    ] {
        prometheus.wait_for(&firing(alert), |alerts| alerts == 1.0);
    }
    for (name, runtime) in [
        ("PollwatchDriverUnattended", "unattended"),
        ("PollwatchRuntimeHung", "hung"),
        // On a busy machine the threads of the others may get no CPU.
        ("PollwatchRuntimeLate", "late"),
    ] {
        let others = firing(&format!("alertname=\"{name}\",runtime!=\"{runtime}\",reason!=\"no_cpu\""));
        assert!(prometheus.query(&others).is_empty(), "{name}: {}", prometheus.api("alerts", &[]));
    }

    drop(release);
    gate.open();
    unattended.block_on(blocked).unwrap();
    tickers.iter().for_each(JoinHandle::abort);
    flood.end(&late);
    drop(prometheus);
    std::fs::remove_dir_all(dir).unwrap();
}

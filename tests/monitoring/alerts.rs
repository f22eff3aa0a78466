//! Tests of `dashboards/alerts.yml` and `rules.yml`: promtool's tests of them, and the path of an
//! alert from a blocked runtime through a real Prometheus and Alertmanager to a webhook.

use std::process::Command;
use std::time::Duration;

use test_support::external::{Alertmanager, Prometheus, Webhook, alerts_with_short_waits};
use test_support::watched::{block_workers, served, two_workers};
use test_support::{Gate, is_installed, path, read, scratch, wait_for};

/// A threshold that only the blocks of these tests exceed.
const THRESHOLD: Duration = Duration::from_millis(250);

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(path("dashboards")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}:\n{printed}");
}

#[test]
fn promtool_accepts_the_alerts() {
    if is_installed("promtool") {
        promtool(&["check", "rules", "alerts.yml", "rules.yml"]);
    }
}

#[test]
fn each_alert_has_a_test_that_it_fires_and_one_that_it_does_not() {
    let (alerts, tests) = (read("dashboards/alerts.yml"), read("dashboards/tests/alerts.yml"));
    for name in names(&alerts) {
        let of_it = || tests.split("- eval_time: ").skip(1).filter(|t| t.contains(&format!("alertname: {name}\n")));
        assert!(of_it().any(|t| t.contains("exp_labels")), "no test in which {name} fires");
        let silent = format!("alertname: {name}, exp_alerts: []");
        assert!(tests.contains(&silent), "no test in which {name} stays silent");
    }
    if is_installed("promtool") {
        promtool(&["test", "rules", "tests/alerts.yml", "tests/rules.yml"]);
    }
}

fn names(alerts: &str) -> Vec<&str> {
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!names.is_empty());
    names
}

#[test]
fn each_alert_has_a_runbook() {
    let (alerts, runbook) = (read("dashboards/alerts.yml"), read("docs/runbook.md"));
    for name in names(&alerts) {
        let anchor = format!("runbook_url: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(alerts.contains(&anchor), "{anchor}");
        let (_, rest) = runbook.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no runbook of {name}"));
        let section = rest.split("\n## ").next().unwrap();
        for part in ["**Means**", "**Check**", "**Do**"] {
            assert!(section.contains(part), "the runbook of {name} has no {part}");
        }
    }
    for title in runbook.lines().filter_map(|line| line.strip_prefix("## Pollwatch")) {
        assert!(alerts.contains(&format!("- alert: Pollwatch{title}\n")), "a runbook of no alert: Pollwatch{title}");
    }
}

#[test]
fn the_start_and_the_end_of_a_block_reach_the_webhook() {
    if !["prometheus", "prometheus-alertmanager"].into_iter().all(is_installed) {
        return;
    }
    let (watchdog, other) = (served(THRESHOLD), served(THRESHOLD));
    let runtime = two_workers(&watchdog, "main");
    let small_pool =
        watchdog.runtime("small pool").worker_threads(1).enable_all().max_blocking_threads(1).build().unwrap();
    let [target, second] = [&watchdog, &other].map(|w| w.local_addr().unwrap());
    let webhook = Webhook::start();
    let alertmanager = Alertmanager::start(webhook.addr);
    let dir = scratch(&format!("alerts-{}", target.port()));
    let prometheus = Prometheus::start(&format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 500ms}}\n\
         rule_files: ['{}']\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{}']}}]}}]}}\n\
         scrape_configs: [{{job_name: pollwatch, static_configs: [{{targets: ['{target}', '{second}']}}]}}]\n",
        alerts_with_short_waits(&dir),
        alertmanager.addr(),
    ));
    prometheus.wait_for("sum(up)", |up| up == 2.0);

    let held = block_workers(&watchdog, &runtime, 2);
    let firing = |name: &str| wait_for(&format!("{name} to fire"), || webhook.latest(name, "firing"));
    let all = firing("PollwatchAllWorkersBlocked");
    assert_eq!(all["labels"]["severity"], "critical", "{all}");
    assert_eq!(all["labels"]["runtime"], "main", "{all}");
    assert_eq!(all["labels"]["instance"], target.to_string(), "{all}");
    let summary = format!("All 2 workers of \"main\" on {target} are blocked");
    assert_eq!(all["annotations"]["summary"], summary, "{all}");
    assert_eq!(all["annotations"]["runbook_url"], "docs/runbook.md#pollwatchallworkersblocked", "{all}");
    // This alert has its 5 seconds in its expression.
    let one = firing("PollwatchWorkerBlocked");
    assert_eq!(one["labels"]["severity"], "warning", "{one}");
    let summary = one["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with("A worker of \"main\" has been blocked for "), "{summary}");
    // So has this one, by the default of `unhealthy_after`.
    let incident = firing("PollwatchIncident");
    assert_eq!(incident["labels"]["kind"], "workers_blocked", "{incident}");
    let summary = format!("Incident in \"main\" on {target}: workers_blocked");
    assert_eq!(incident["annotations"]["summary"], summary, "{incident}");

    drop(held);
    // tokio publishes the load of a pool with `tokio_unstable` only.
    let pool_alert = cfg!(tokio_unstable).then_some("PollwatchBlockingPoolFull");
    assert!(!webhook.names().iter().any(|name| Some(&**name) == pool_alert), "no pool is full");
    if let Some(name) = pool_alert {
        let gate = Gate::new();
        let key = gate.key();
        let calls = [small_pool.spawn_blocking(move || key.pass()), small_pool.spawn_blocking(|| true)];
        let full = firing(name);
        assert_eq!(full["labels"]["runtime"], "small pool", "{full}");
        let summary = format!("The blocking pool of \"small pool\" on {target} is full");
        assert_eq!(full["annotations"]["summary"], summary, "{full}");
        gate.open();
        calls.into_iter().for_each(|call| assert!(small_pool.block_on(call).unwrap()));
    }
    for name in ["PollwatchAllWorkersBlocked", "PollwatchWorkerBlocked"].into_iter().chain(pool_alert) {
        wait_for(&format!("{name} to be resolved"), || webhook.latest(name, "resolved"));
    }
    // No other alert about the workers' time or tasks fires. Those about pollwatch itself may, on a
    // busy machine.
    let mut wanted =
        vec!["PollwatchAllWorkersBlocked", "PollwatchWorkerBlocked", "PollwatchIncident", "PollwatchStalledTimeHigh"];
    wanted.extend(pool_alert);
    let excused = ["PollwatchOverslept", "PollwatchCapturesFailing", "PollwatchScheduleDelayHigh", "PollwatchStarved"];
    let unwanted: Vec<_> =
        webhook.names().into_iter().filter(|n| ![&wanted[..], &excused].concat().contains(&n.as_str())).collect();
    assert!(unwanted.is_empty(), "{unwanted:?}");

    // The watchdog and its server are gone. That is an alert, since nothing is measured any more.
    drop((runtime, small_pool, watchdog));
    let gone = firing("PollwatchDown");
    assert_eq!(gone["labels"]["instance"], target.to_string(), "{gone}");
    drop(other);
    firing("PollwatchAbsent");
    drop(prometheus);
    std::fs::remove_dir_all(dir).unwrap();
}

//! Tests with a real Prometheus, configured as in README, that scrapes a runtime while all its
//! workers are blocked. `promtool` checks `/metrics` and the configurations in the documents.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use pollwatch::Watchdog;
use test_support::external::Prometheus;
use test_support::watched::{block_workers, served, two_workers};
use test_support::{fenced, is_installed, path, wait_for};

/// A threshold that only the blocks of these tests exceed.
const THRESHOLD: Duration = Duration::from_millis(250);

/// The scrape configuration of README, for this address and with a shorter interval.
fn config(addr: SocketAddr) -> String {
    let readme = &fenced("README.md", "yaml")[0];
    let config =
        readme.replace("127.0.0.1:9464", &addr.to_string()).replace("scrape_interval: 15s", "scrape_interval: 200ms");
    assert!(
        config.contains(&addr.to_string()) && config.contains("200ms"),
        "not the config that was expected:\n{readme}"
    );
    config
}

#[test]
fn prometheus_reports_a_block_while_it_lasts() {
    if !is_installed("prometheus") {
        return;
    }
    let watchdog = served(THRESHOLD);
    let runtime = two_workers(&watchdog, "main");
    let prometheus = Prometheus::start(&config(watchdog.local_addr().unwrap()));

    const BLOCKED: &str = r#"pollwatch_blocked_workers{runtime="main"}"#;
    const OLDEST: &str = r#"pollwatch_oldest_stall_seconds{runtime="main"}"#;
    const STALLS: &str = r#"sum(pollwatch_stalls_total{runtime="main"})"#;
    const STALL_SECONDS: &str = r#"sum(pollwatch_stall_seconds_total{runtime="main"})"#;
    const HERE: &str = r#"sum(pollwatch_site_stalls_total{runtime="main",site=~"tests/monitoring/prometheus.rs:.*"})"#;

    prometheus.wait_for(r#"up{job="pollwatch"}"#, |up| up == 1.0);
    prometheus.wait_for(BLOCKED, |workers| workers == 0.0);
    assert_eq!(prometheus.query(OLDEST), [0.0]);
    assert_eq!(prometheus.query(STALLS), [0.0], "the series are there from the start");

    let held = block_workers(&watchdog, &runtime, 2);

    prometheus.wait_for(BLOCKED, |workers| workers == 2.0);
    prometheus.wait_for(STALLS, |stalls| stalls == 2.0);
    let mut oldest = prometheus.wait_for(OLDEST, |seconds| seconds >= THRESHOLD.as_secs_f64());
    let mut seconds = prometheus.wait_for(STALL_SECONDS, |sum| sum > 0.0);
    for _ in 0..3 {
        oldest = prometheus.wait_for(OLDEST, |now| now > oldest);
        seconds = prometheus.wait_for(STALL_SECONDS, |now| now > seconds);
    }
    let queries = fenced("docs/metrics.md", "promql").concat();
    let queries: Vec<&str> = queries.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    assert!(!queries.is_empty());
    for query in queries {
        wait_for(query, || Some(()).filter(|()| !prometheus.query(query).is_empty()));
    }

    drop(held);
    prometheus.wait_for(BLOCKED, |workers| workers == 0.0);
    prometheus.wait_for(OLDEST, |seconds| seconds == 0.0);
    // The two workers were blocked for as long as they were held, and no other was.
    prometheus.wait_for(STALL_SECONDS, |sum| sum >= seconds.max(oldest));
    assert_eq!(prometheus.query(STALLS), [2.0]);
    assert_eq!(prometheus.query(HERE), [2.0]);
}

/// Runs `promtool check metrics`. Returns whether it succeeds, and its output.
fn promtool(metrics: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn promtool_accepts_the_metrics() {
    if !is_installed("promtool") {
        return;
    }
    let (content, printed) = promtool("# TYPE miles_counter counter\nmiles_counter 1\n");
    assert!(!content && !printed.is_empty(), "promtool rejects a bad name: {printed}");

    let watchdog = Watchdog::builder().threshold(Duration::from_millis(10)).log(false).start().unwrap();
    assert_eq!(promtool(&watchdog.metrics_text()), (true, String::new()), "of a watchdog that watches nothing");

    let main = watchdog.build_runtime("main", tokio::runtime::Builder::new_multi_thread()).unwrap();
    let other = watchdog.build_runtime("a \"quoted\"\nname", tokio::runtime::Builder::new_current_thread()).unwrap();
    for runtime in [&main, &other] {
        runtime.block_on(async {
            watchdog.spawn(async { thread::sleep(2 * Duration::from_millis(10)) }).await.unwrap();
            watchdog.spawn(async { std::panic::resume_unwind(Box::new("on purpose")) }).await.unwrap_err();
            let endless = watchdog.spawn(std::future::pending::<()>());
            tokio::task::yield_now().await;
            endless.abort();
            endless.await.unwrap_err();
        });
    }
    wait_for("two stalls", || Some(()).filter(|()| watchdog.stalls().len() >= 2));
    let metrics = watchdog.metrics_text();
    for family in ["stalls_total", "site_stall_seconds_total", "tasks_panicked_total", "runtime_worker_parks_total"] {
        assert!(metrics.contains(&format!("\npollwatch_{family}{{")), "no {family} in\n{metrics}");
    }
    assert_eq!(promtool(&metrics), (true, String::new()), "of\n{metrics}");
}

/// Checks a configuration with promtool, with the rules that it may name beside it, and returns the
/// output.
fn checked(config: &str) -> Result<(), String> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("pollwatch")).unwrap();
    for rules in ["rules.yml", "alerts.yml"] {
        std::fs::copy(path(&format!("dashboards/{rules}")), dir.join("pollwatch").join(rules)).unwrap();
    }
    let file = dir.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let output = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    let printed = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&printed).into_owned()) }
}

#[test]
fn promtool_accepts_the_configurations_in_the_documents() {
    if !is_installed("promtool") {
        return;
    }
    assert!(checked("scrape_configs: [{job_nam: x}]").is_err(), "promtool rejects a wrong name");
    let (mut configs, mut collectors) = (0, 0);
    let documents = ["docs/prometheus.md", "docs/opentelemetry.md", "README.md"];
    for block in documents.map(|document| fenced(document, "yaml")).concat() {
        let has = |key: &str| block.lines().any(|line| line == key);
        let config = if has("receivers:") {
            collectors += 1;
            // The receiver's part, with its own indentation.
            let lines = block.lines().skip_while(|line| line.trim() != "config:").skip(1);
            let inside = lines.take_while(|line| line.starts_with("      "));
            inside.map(|line| format!("{}\n", &line[6..])).collect()
        } else if has("scrape_configs:") || has("rule_files:") || has("remote_write:") {
            block
        } else {
            continue;
        };
        configs += 1;
        // Debian builds Prometheus without Kubernetes; everything around that part is checked all
        // the same.
        let config =
            config.replace("kubernetes_sd_configs:\n      - role: pod", "static_configs:\n      - targets: [a:1]");
        match checked(&config) {
            Ok(()) => {}
            // Options of Prometheus 3 that Debian's promtool does not know.
            Err(printed)
                if config.contains("_nhcb") && printed.contains("field convert_classic_histograms_to_nhcb") => {}
            Err(printed) => panic!("{printed}\nof\n{config}"),
        }
    }
    assert!(configs >= 7 && collectors == 1, "{configs} configurations, {collectors} of a collector");
}

#[cfg(all(tokio_unstable, feature = "axum"))]
#[test]
fn the_number_of_series_is_as_documented() {
    use axum::routing::get;
    use tower::ServiceExt;

    let watchdog = Watchdog::builder().log(false).start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(3).enable_all().build().unwrap();
    let routes = axum::Router::new().route("/a", get(async || "a")).route("/b/{id}", get(async || "b"));
    let app = routes.layer(watchdog.layer());
    runtime.block_on(async {
        tokio::spawn(async {}).await.unwrap();
        watchdog.spawn(async {}).await.unwrap();
        watchdog.spawn(async { pollwatch::allow_blocking("a reason", || {}) }).await.unwrap();
        for (method, path) in [("GET", "/a"), ("GET", "/b/1"), ("GET", "/b/2"), ("POST", "/a"), ("GET", "/none")] {
            let request = http::Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap();
            watchdog.spawn(app.clone().oneshot(request)).await.unwrap().unwrap();
        }
    });
    let table = test_support::read("docs/prometheus.md");
    let number = |what: &str| -> usize {
        let row = table.lines().find_map(|line| line.strip_prefix(&format!("| {what} | "))).expect(what);
        row.trim_end_matches([' ', '|']).parse().unwrap()
    };
    wait_for("all counts to be there", || {
        let text = watchdog.metrics_text();
        let series = |name: &str| text.lines().filter(|l| l.starts_with(&format!("pollwatch_{name}{{"))).count();
        let parts = [
            ("process", 1),
            ("runtime", series("runtime_workers")),
            ("worker", series("runtime_worker_parks_total")),
            ("site", series("site_polls_total")),
            ("site that `watch` or `spawn` wraps, in addition", series("tasks_panicked_total")),
            ("route", series("route_busy_seconds_total")),
            ("combination of route, method and class of status that occurred", series("route_requests_total")),
            ("reason of `allow_blocking`", series("allowed_blocking_seconds_total")),
        ];
        if parts.iter().any(|(_, n)| *n == 0) || series("route_requests_total") < 4 {
            return None;
        }
        let counted = text.lines().filter(|line| !line.starts_with('#')).count();
        let computed: usize = parts.iter().map(|(what, n)| n * number(what)).sum();
        assert_eq!(counted, computed, "{parts:?}\n{text}");
        Some(())
    });
}

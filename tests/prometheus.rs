//! A real Prometheus, configured as the README says, watches a runtime while all its workers are blocked; and `promtool`
//! reads what `/metrics` gives. Where Debian's `prometheus` package is missing these tests say so and pass.

#![cfg(feature = "server")]

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;

/// For what must come, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(50);

/// Nothing but the blocks of these tests lasts this long.
const THRESHOLD: Duration = Duration::from_millis(250);

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        let told =
            format!("SKIPPED: no `{program}` here; it is in Debian's package `prometheus`, which .ci/run installs");
        println!("{told}");
        eprintln!("{told}");
    }
    found
}

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "still waiting after {DEADLINE:?} for {what}");
        thread::sleep(EVERY);
    }
}

/// The block of a document between ``` fences that begins with `head`.
fn fenced(document: &str, head: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, rest) = text.split_once(&format!("```{head}")).unwrap_or_else(|| panic!("no ```{head} in {document}"));
    rest.split_once("```").unwrap().0.into()
}

/// The README's scrape config, for this address and more often.
fn config(addr: SocketAddr) -> String {
    let readme = fenced("README.md", "yaml");
    let config =
        readme.replace("127.0.0.1:9464", &addr.to_string()).replace("scrape_interval: 5s", "scrape_interval: 200ms");
    assert!(
        config.contains(&addr.to_string()) && config.contains("200ms"),
        "not the config that was expected:\n{readme}"
    );
    config
}

/// A running Prometheus; killed and removed with its data when dropped.
struct Prometheus {
    child: Child,
    api: String,
    dir: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("prometheus said:\n{}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    /// Starts one that scrapes this address, and waits until it is ready.
    fn start(addr: SocketAddr) -> Prometheus {
        for _ in 0..3 {
            let mut prometheus = Prometheus::spawn(addr);
            let ready = wait_for("prometheus to be ready, or to give up", || {
                if prometheus.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                ureq::get(format!("{}/-/ready", prometheus.api)).call().ok().map(|_| true)
            });
            if ready {
                return prometheus;
            }
            // Somebody else has taken the free port meanwhile.
            eprintln!("prometheus ended: {}", std::fs::read_to_string(prometheus.dir.join("log")).unwrap_or_default());
        }
        panic!("prometheus does not start");
    }

    fn spawn(addr: SocketAddr) -> Prometheus {
        let web = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("prometheus-{}", web.port()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("prometheus.yml"), config(addr)).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={web}"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Prometheus { child, api: format!("http://{web}"), dir }
    }

    /// The values of a query's series; it must be one that Prometheus understands.
    fn query(&self, query: &str) -> Vec<f64> {
        let url = format!("{}/api/v1/query", self.api);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let body = agent.get(url).query("query", query).call().unwrap().body_mut().read_to_string().unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {body}");
        let series = answer["data"]["result"].as_array().unwrap();
        series.iter().map(|s| s["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// The value of a query that has one series, once it is as wanted.
    fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        wait_for(query, || match self.query(query)[..] {
            [value] if wanted(value) => Some(value),
            _ => None,
        })
    }
}

#[test]
fn prometheus_sees_a_block_while_it_lasts() {
    if !is_installed("prometheus") {
        return;
    }
    let watchdog =
        Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let runtime =
        watchdog.build_runtime("main", tokio::runtime::Builder::new_multi_thread().worker_threads(2)).unwrap();
    let prometheus = Prometheus::start(watchdog.local_addr().unwrap());

    const BLOCKED: &str = r#"pollwatch_blocked_workers{runtime="main"}"#;
    const OLDEST: &str = r#"pollwatch_oldest_stall_seconds{runtime="main"}"#;
    const STALLS: &str = r#"sum(pollwatch_stalls_total{runtime="main"})"#;
    const STALL_SECONDS: &str = r#"sum(pollwatch_stall_seconds_total{runtime="main"})"#;
    const HERE: &str = r#"sum(pollwatch_site_stalls_total{runtime="main",site=~"tests/prometheus.rs:.*"})"#;

    prometheus.wait_for(r#"up{job="pollwatch"}"#, |up| up == 1.0);
    prometheus.wait_for(BLOCKED, |workers| workers == 0.0);
    assert_eq!(prometheus.query(OLDEST), [0.0]);
    assert_eq!(prometheus.query(STALLS), [0.0], "the series are there from the start");

    // Each task holds its worker until its sender is dropped, also by a failing assertion.
    let mut held = Vec::new();
    for _ in 0..2 {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let _inside = runtime.enter();
        watchdog.spawn(async move {
            begin.send(()).unwrap();
            let _ = released.recv();
        });
        begun.recv_timeout(DEADLINE).expect("the other worker takes the task");
        held.push(release);
    }

    prometheus.wait_for(BLOCKED, |workers| workers == 2.0);
    prometheus.wait_for(STALLS, |stalls| stalls == 2.0);
    let mut oldest = prometheus.wait_for(OLDEST, |seconds| seconds >= THRESHOLD.as_secs_f64());
    let mut seconds = prometheus.wait_for(STALL_SECONDS, |sum| sum > 0.0);
    for _ in 0..3 {
        oldest = prometheus.wait_for(OLDEST, |now| now > oldest);
        seconds = prometheus.wait_for(STALL_SECONDS, |now| now > seconds);
    }
    let queries = fenced("docs/metrics.md", "promql");
    let queries: Vec<&str> = queries.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    assert!(!queries.is_empty());
    for query in queries {
        wait_for(query, || Some(()).filter(|()| !prometheus.query(query).is_empty()));
    }

    drop(held);
    prometheus.wait_for(BLOCKED, |workers| workers == 0.0);
    prometheus.wait_for(OLDEST, |seconds| seconds == 0.0);
    // The two blocked for as long as they were seen to, and nothing else did.
    prometheus.wait_for(STALL_SECONDS, |sum| sum >= seconds.max(oldest));
    assert_eq!(prometheus.query(STALLS), [2.0]);
    assert_eq!(prometheus.query(HERE), [2.0]);
}

/// What `promtool check metrics` says, and whether it is content.
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
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn promtool_has_no_complaint() {
    if !is_installed("promtool") {
        return;
    }
    let (content, said) = promtool("# TYPE miles_counter counter\nmiles_counter 1\n");
    assert!(!content && !said.is_empty(), "it does complain of a bad name: {said}");

    let watchdog = Watchdog::builder().threshold(Duration::from_millis(10)).log(false).start().unwrap();
    assert_eq!(promtool(&watchdog.metrics_text()), (true, String::new()), "of a watchdog that watches nothing");

    let main = watchdog.build_runtime("main", &mut tokio::runtime::Builder::new_multi_thread()).unwrap();
    let other =
        watchdog.build_runtime("a \"quoted\"\nname", &mut tokio::runtime::Builder::new_current_thread()).unwrap();
    for runtime in [&main, &other] {
        runtime.block_on(async {
            watchdog.spawn(async { thread::sleep(2 * Duration::from_millis(10)) }).await.unwrap();
            watchdog.spawn(async { std::panic::resume_unwind(Box::new("told to")) }).await.unwrap_err();
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

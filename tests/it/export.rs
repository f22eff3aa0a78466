//! Tests of the pages and the collector: their numbers are right, and advance while every worker is
//! blocked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pollwatch::{Phase, Watchdog};
use prometheus::{Registry, TextEncoder};

use test_support::*;

fn serving(unhealthy_after: Duration) -> (Watchdog, CollectedStalls, SocketAddr) {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).unhealthy_after(unhealthy_after);
    let (watchdog, collected) = start_with(builder.listen("127.0.0.1:0"));
    let addr = watchdog.local_addr().expect("the server listens");
    assert_ne!(addr.port(), 0);
    (watchdog, collected, addr)
}

#[test]
fn metrics_advance_while_every_worker_is_blocked() {
    for (name, new_builder) in FLAVOURS {
        undisturbed(|| metrics_advance(name, new_builder()));
    }
}

fn metrics_advance(name: &str, builder: tokio::runtime::Builder) -> Result<(), String> {
    let (watchdog, collected, addr) = serving(Duration::from_secs(3600));
    let runtime = watchdog.build_runtime(name, builder).unwrap();
    let handle = runtime.handle().clone();
    let workers = handle.metrics().num_workers();
    let runtime_label = [("runtime", name)];
    let before = Metrics::scrape(addr);
    assert_eq!(before.get("pollwatch_blocked_workers", &runtime_label), 0.0);
    assert_eq!(before.sum("pollwatch_stalls_total", &runtime_label), 0.0, "series exist from the start");
    assert_eq!(before.get("pollwatch_threshold_seconds", &[]), THRESHOLD.as_secs_f64());

    let gate = Gate::new();
    let mut location = String::new();
    for _ in 0..workers {
        let key = gate.key();
        location = spawn_measured(&watchdog, &handle, async move { key.pass() }).1;
    }
    // A current-thread runtime needs a thread that drives it.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driver = std::thread::spawn(move || runtime.block_on(stopped).is_ok());
    let first = wait_for("all workers are blocked and reported", || {
        let metrics = Metrics::scrape(addr);
        let all = metrics.get("pollwatch_blocked_workers", &runtime_label) == workers as f64;
        (all && metrics.sum("pollwatch_stalls_total", &runtime_label) == workers as f64).then_some(metrics)
    });
    // A starved stall is not counted at its site.
    watchdog.stalls().iter().try_for_each(is_undisturbed)?;
    block(THRESHOLD);
    let second = Metrics::scrape(addr);
    let site = [("runtime", name), ("site", location.as_str())];
    for (metric, labels) in [
        ("pollwatch_oldest_stall_seconds", &runtime_label[..]),
        ("pollwatch_stall_seconds_total", &runtime_label),
        ("pollwatch_site_stall_seconds_total", &site),
    ] {
        let (then, now) = (first.sum(metric, labels), second.sum(metric, labels));
        let moved = then > 0.0 && now >= then + THRESHOLD.as_secs_f64() * 0.99;
        holds_unless_overslept(&watchdog, moved, (name, metric, then, now))?;
    }
    assert_eq!(second.get("pollwatch_site_stalls_total", &site), workers as f64);
    assert_eq!(second.get("pollwatch_blocked_workers", &runtime_label), workers as f64);

    gate.open();
    let gauges = |m: &Metrics| {
        [m.get("pollwatch_blocked_workers", &runtime_label), m.get("pollwatch_oldest_stall_seconds", &runtime_label)]
    };
    wait_until("the gauges are back", || gauges(&Metrics::scrape(addr)) == [0.0, 0.0]);
    wait_until("all are resolved", || {
        collected.of(name).iter().filter(|s| s.phase == Phase::Resolved).count() == workers
    });
    stop.send(()).unwrap();
    assert!(driver.join().unwrap());
    let after = Metrics::scrape(addr);
    let took: f64 = watchdog.stalls().iter().map(|s| s.elapsed.as_secs_f64()).sum();
    let told_seconds = after.sum("pollwatch_stall_seconds_total", &runtime_label);
    holds_unless_overslept(&watchdog, (told_seconds - took).abs() <= took * 0.01, (name, told_seconds, took))?;
    assert_eq!(after.sum("pollwatch_stalls_total", &runtime_label), workers as f64);
    Ok(())
}

#[test]
fn healthz_fails_while_all_workers_are_blocked() {
    let (watchdog, _, addr) = serving(Duration::from_millis(50));
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let healthy = || get(addr, "/healthz").status == 200;
    assert!(healthy());
    let gates = [Gate::new(), Gate::new()];
    let block_one = |gate: &Gate| {
        let key = gate.key();
        spawn_measured(&watchdog, runtime.handle(), async move { key.pass() }).0
    };
    let blocked = || runtime_of(&watchdog.snapshot(), "main");
    let first = block_one(&gates[0]);
    wait_until("one is blocked for long", || blocked().oldest_stall > Duration::from_millis(100));
    assert!(healthy(), "one of two is not all");
    let second = block_one(&gates[1]);
    let reply = wait_for("an unhealthy reply", || Some(get(addr, "/healthz")).filter(|r| r.status != 200));
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("\"main\"") && reply.body.contains("2 workers"), "{}", reply.body);
    let json = get(addr, "/healthz?format=json");
    let json = (json.status, serde_json::from_str::<serde_json::Value>(&json.body).expect("JSON"));
    assert_eq!((json.0, &json.1["is_healthy"]), (503, &false.into()), "{json:?}");
    assert_eq!(json.1["reasons"][0]["kind"], "workers_blocked", "{json:?}");
    // It is an incident, which stays listed when it is over.
    let incidents = |path: &str| get(addr, path).body;
    wait_until("it is listed", || incidents("/incidents").starts_with("incident #1: all 2 workers of \"main\""));
    gates.iter().for_each(Gate::open);
    wait_until("a healthy reply", healthy);
    wait_until("it is over", || incidents("/incidents").starts_with("incident #1 is over after "));
    let listed: serde_json::Value = serde_json::from_str(&incidents("/incidents?format=json")).expect("JSON");
    assert_eq!((&listed[0]["kind"], &listed[0]["phase"]), (&"workers_blocked".into(), &"resolved".into()), "{listed}");
    assert_eq!(get(addr, "/incidents?format=xml").status, 400);
    assert!(runtime.block_on(first).unwrap() && runtime.block_on(second).unwrap());
}

#[test]
fn stalls_are_served_as_json() {
    let (watchdog, collected, addr) = serving(Duration::from_secs(5));
    let read = || {
        let reply = get(addr, "/stalls");
        assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
        serde_json::from_str::<Vec<serde_json::Value>>(&reply.body).expect("an array")
    };
    assert!(read().is_empty());
    let runtime = watchdog.build_runtime("a \"quoted\\\" name", current_thread()).unwrap();
    for _ in 0..3 {
        runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
        runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    }
    wait_until("all are resolved", || collected.all().iter().filter(|s| s.phase == Phase::Resolved).count() == 6);
    wait_until("the last is in the book", || read().last().is_some_and(|s| s["id"] == 6));
    let stalls = read();
    let ids: Vec<_> = stalls.iter().filter_map(|s| s["id"].as_u64()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6], "most recent last");
    let (last, kept) = (&stalls[5], &watchdog.stalls()[5]);
    assert_eq!(last["runtime"], "a \"quoted\\\" name");
    assert_eq!((&last["phase"], &last["worker"]), (&"resolved".into(), &0.into()));
    assert_eq!(last["site"], kept.site.to_string());
    assert_eq!(last["elapsed_seconds"], kept.elapsed.as_secs_f64());
    assert!(last["started_at_unix_seconds"].as_f64() > stalls[0]["started_at_unix_seconds"].as_f64());
    assert!(Metrics::scrape(addr).get("pollwatch_polls_total", &[("runtime", "a \"quoted\\\" name")]) == 6.0);
    let limited = |query: &str| {
        let stalls: Vec<serde_json::Value> =
            serde_json::from_str(&get(addr, &format!("/stalls?{query}")).body).unwrap();
        (stalls.len(), stalls.last().map(|stall| stall["id"].clone()))
    };
    assert_eq!(limited("limit=2"), (2, Some(6.into())));
    assert_eq!(limited("other=1&limit=4"), (4, Some(6.into())));
    assert_eq!((limited("limit=0"), limited("limit=99999")), ((0, None), (6, Some(6.into()))));
    let refused = get(addr, "/stalls?limit=all");
    assert!(refused.status == 400 && refused.body.contains("limit must be a number"), "{}", refused.body);
}

#[test]
fn each_path_has_its_type_and_its_methods() {
    let (watchdog, _, addr) = serving(Duration::from_secs(5));
    let _runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/live.html", "text/html; charset=utf-8"),
        ("/live", "application/json"),
        ("/live/profile", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/stalls", "application/json"),
        ("/threads", "text/plain; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/incidents", "text/plain; charset=utf-8"),
        ("/metrics?name%5B%5D=x", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let reply = get(addr, path);
        assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, kind), "{path}");
        assert!(!reply.body.is_empty());
        let head = request(addr, "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}: a head has no body");
        assert_eq!(head.headers["content-type"], kind);
    }
    for path in ["/metric", "/metrics/", "/../etc/passwd", "//", "/stalls/1"] {
        let reply = get(addr, path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.contains("/metrics"), "names what there is: {}", reply.body);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let reply = request(addr, method, "/metrics");
        assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "GET, HEAD"), "{method}");
    }
}

/// The user's own registry gathers what the page shows.
#[test]
fn the_collector_gathers_what_the_page_shows() {
    let (watchdog, collected, addr) = serving(Duration::from_secs(5));
    let registry = Registry::new();
    registry.register(Box::new(watchdog.collector())).expect("every metric is described, and validly");
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async {
        watchdog.spawn(yields(7)).await.unwrap();
        block(THRESHOLD * 2);
    }));
    drop(runtime);
    let text = |registry: &Registry| TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    // The one stall, and any poll that was starved.
    let stalls = reported_so_far(&watchdog, &collected).iter().filter(|s| s.phase == Phase::Resolved).count();
    let mine = Metrics::parse(&text(&registry));
    let served = Metrics::scrape(addr);
    let still = |metrics: &Metrics| -> BTreeMap<String, f64> {
        let moving = |name: &str| name.contains("wakeups") || name.contains("oversleeps");
        metrics.series.iter().filter(|(name, _)| !moving(name)).map(|(n, v)| (n.clone(), *v)).collect()
    };
    assert_eq!(still(&mine), still(&served));
    assert_eq!(mine.kinds, served.kinds);
    assert!(stalls > 0);
    assert_eq!(mine.sum("pollwatch_stalls_total", &[("runtime", "main")]), stalls as f64);
    assert!(mine.get("pollwatch_polls_total", &[("runtime", "main")]) >= 8.0);
    assert!(prometheus::gather().is_empty(), "the global registry stays empty");
    // The collector outlives the watchdog.
    drop(watchdog);
    assert_eq!(
        Metrics::parse(&text(&registry)).get("pollwatch_polls_total", &[("runtime", "main")]),
        mine.get("pollwatch_polls_total", &[("runtime", "main")])
    );
}

/// Threads and runtimes come and go; no counter decreases or vanishes, and every histogram is
/// consistent.
#[test]
fn counters_never_decrease() {
    let (watchdog, _, addr) = serving(Duration::from_secs(5));
    let churn = {
        let watchdog = watchdog.clone();
        std::thread::spawn(move || {
            for i in 0..30 {
                let builder = if i % 2 == 0 { multi_thread(2) } else { current_thread() };
                let runtime = watchdog.build_runtime("churn", builder).unwrap();
                let tasks: Vec<_> =
                    (0..20).map(|_| spawn_measured(&watchdog, runtime.handle(), yields(20)).0).collect();
                runtime.spawn_blocking(|| ());
                runtime.block_on(watchdog.watch(async {
                    for task in tasks {
                        task.await.unwrap();
                    }
                    block(THRESHOLD.mul_f64(1.1));
                }));
            }
        })
    };
    let mut before = Metrics::default();
    loop {
        let done = churn.is_finished();
        let now = Metrics::scrape(addr);
        for (series, then) in before.counters() {
            let value = now.series.get(series).unwrap_or_else(|| panic!("{series} is gone"));
            assert!(*value >= then, "{series}: {then} -> {value}");
        }
        if now.find("pollwatch_polls_total", &[("runtime", "churn")]).is_some() {
            let runtime = [("runtime", "churn")];
            let count = now.get("pollwatch_poll_duration_seconds_count", &runtime);
            assert_eq!(now.get("pollwatch_poll_duration_seconds_bucket", &[runtime[0], ("le", "+Inf")]), count);
        }
        before = now;
        if done {
            break;
        }
    }
    churn.join().unwrap();
    let last = Metrics::scrape(addr);
    let tasks: f64 =
        last.counters().filter(|(s, _)| s.starts_with("pollwatch_tasks_spawned_total")).map(|(_, v)| v).sum();
    assert_eq!(tasks, 600.0);
    let alive: f64 = last.series.iter().filter(|(s, _)| s.starts_with("pollwatch_tasks_alive")).map(|(_, v)| v).sum();
    assert_eq!(alive, 0.0);
}

//! Tests of `/live`: the data of the live page matches its schema and the snapshot.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pollwatch::{Phase, Watchdog};
use serde_json::Value;

use test_support::schema::assert_matches_schema;
use test_support::*;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../docs/live.schema.json")).expect("the schema is JSON")
}

#[track_caller]
fn live(addr: SocketAddr) -> Value {
    let reply = get(addr, "/live");
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
    assert_eq!(reply.headers["cache-control"], "no-store");
    let live = serde_json::from_str(&reply.body).expect("JSON");
    assert_matches_schema(&live, &schema());
    live
}

fn serving() -> (Watchdog, CollectedStalls, SocketAddr) {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false);
    let (watchdog, collected) = start_with(builder.listen("127.0.0.1:0"));
    let addr = watchdog.local_addr().expect("the server listens");
    (watchdog, collected, addr)
}

fn runtime_named<'a>(live: &'a Value, name: &str) -> &'a Value {
    live["runtimes"].as_array().unwrap().iter().find(|runtime| runtime["name"] == name).expect("the runtime")
}

#[test]
fn an_empty_watchdog_matches_the_schema() {
    let (_watchdog, _, addr) = serving();
    let live = live(addr);
    for list in ["runtimes", "stalls", "stacks", "sites"] {
        assert_eq!(live[list].as_array().map(Vec::len), Some(0), "{list}");
    }
    assert_eq!(live["threshold_seconds"], THRESHOLD.as_secs_f64());
    assert_eq!(live["stopped"], Value::Null);
    assert_eq!((&live["watching"], &live["version"]), (&true.into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(live["mode"], if HOOKS { "unstable" } else { "stable" });
    assert_eq!(live["watchdog"]["captures"].as_array().unwrap().iter().filter(|c| c["count"] != 0).count(), 0);
}

/// A condition of a whole runtime is in the response from its start. tokio publishes the load of a
/// pool with `tokio_unstable` only.
#[test]
#[cfg(tokio_unstable)]
fn a_full_pool_is_a_condition() {
    let builder = Watchdog::builder().log(false).blocking_pool_full_after(Duration::from_millis(100));
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(1).enable_all().max_blocking_threads(1).build().unwrap();
    assert_eq!(live(addr)["conditions"].as_array().map(Vec::len), Some(0));
    let gate = Gate::new();
    let key = gate.key();
    let calls = [runtime.spawn_blocking(move || key.pass()), runtime.spawn_blocking(|| true)];
    let condition = wait_for("the condition", || live(addr)["conditions"].get(0).cloned());
    assert_eq!((&condition["kind"], &condition["runtime"]), (&"blocking_pool_full".into(), &"main".into()));
    assert!(condition["reason"].as_str().unwrap().starts_with("the blocking pool of \"main\" is full"), "{condition}");
    assert!(!condition["remedy"].as_str().unwrap().is_empty(), "{condition}");
    gate.open();
    calls.into_iter().for_each(|call| assert!(runtime.block_on(call).unwrap()));
    wait_until("it is over", || live(addr)["conditions"].as_array().is_some_and(Vec::is_empty));
}

/// A blocked worker is shown while it blocks; afterwards its stall is resolved and its time is in
/// the sums.
#[test]
fn a_blocked_worker_is_shown_while_it_blocks() {
    let (watchdog, collected, addr) = serving();
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
    let stalled = |live: &Value| {
        let workers = runtime_named(live, "main")["workers"].as_array().unwrap();
        assert_eq!(workers.iter().map(|w| w["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
        workers.iter().find(|w| w["state"] == "stalled").cloned()
    };
    // The stall has been reported, with its stack where there is one.
    let wanted = |live: &Value| {
        let worker = stalled(live).filter(|worker| !worker["stall"].is_null())?;
        let stall = live["stalls"].as_array().unwrap().iter().find(|s| s["id"] == worker["stall"])?.clone();
        Some((worker, stall))
    };
    let (worker, stall) = wait_for("the stall is reported", || wanted(&live(addr)));
    assert_eq!((worker["site"].as_str(), stall["site"].as_str()), (Some(&*location), Some(&*location)));
    assert_eq!((&stall["phase"], &stall["worker"]), (&"ongoing".into(), &worker["index"]));
    assert_eq!(stall["thread"], worker["thread"]);
    assert_eq!(stall["elapsed_seconds"], worker["elapsed_seconds"], "of this moment, not of the last report");
    let first = worker["elapsed_seconds"].as_f64().unwrap();
    assert!(first >= THRESHOLD.as_secs_f64());
    let later = wait_for("the duration grows", || {
        wanted(&live(addr)).filter(|(w, _)| w["elapsed_seconds"].as_f64() > Some(first))
    });
    assert_eq!(later.0["stall"], stall["id"]);
    let now = live(addr);
    assert_eq!(runtime_named(&now, "main")["blocked_workers"], 1);
    assert!(runtime_named(&now, "main")["oldest_stall_seconds"].as_f64().unwrap() > first);

    gate.open();
    assert!(runtime.block_on(task).unwrap());
    collected.wait_resolved("main");
    let has_ended = |live: &Value| live["stalls"].as_array().unwrap().iter().any(|s| s["phase"] == "resolved");
    let after =
        wait_for("the end of the stall", || Some(live(addr)).filter(|live| has_ended(live) && stalled(live).is_none()));
    let kept = watchdog.stalls().into_iter().find(|s| s.phase == Phase::Resolved).unwrap();
    let stalls = after["stalls"].as_array().unwrap();
    let stall = stalls.iter().find(|s| s["id"] == kept.id).unwrap();
    assert_eq!(stall["elapsed_seconds"], kept.elapsed.as_secs_f64());
    if let Some(stack) = &kept.stack {
        let collected = &after["stacks"][stall["stack"].as_u64().expect("a stack") as usize];
        assert_eq!(collected["summary"], stack.to_string());
        let user = stack.user_frames()[0].function.as_deref().unwrap();
        assert!(collected["frames"].as_array().unwrap().iter().any(|f| f["name"] == user), "{collected:#}");
        assert!(collected["frames"].as_array().unwrap().len() < stack.frames().len(), "the executor is left out");
    }
    let sites = after["sites"].as_array().unwrap();
    assert_eq!(sites[0]["site"], location, "the worst is the first");
    assert!(sites[0]["stalled_seconds"].as_f64().unwrap() >= first);
    let causes = runtime_named(&after, "main")["stalls_by_cause"].as_array().unwrap();
    assert_eq!(causes.len(), pollwatch::Cause::ALL.len());
    let seconds: f64 = causes.iter().map(|c| c["stalled_seconds"].as_f64().unwrap()).sum();
    assert!(seconds >= kept.elapsed.as_secs_f64() * 0.99);
    assert_eq!(runtime_named(&after, "main")["suspected"]["stalls"], 0);
    assert_eq!(after["watchdog"]["coverage"]["measured_threads"], watchdog.coverage().measured_threads);
    let polls = &runtime_named(&after, "main")["polls"];
    assert_eq!(polls["buckets"].as_array().unwrap().len(), after["bucket_bounds_seconds"].as_array().unwrap().len());
    let buckets: Vec<u64> = polls["buckets"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
    assert!(buckets.is_sorted() && buckets.last() <= Some(&polls["count"].as_u64().unwrap()));
    drop(runtime);
    let ended = wait_for("the end of the runtime", || {
        Some(live(addr)).filter(|live| runtime_named(live, "main")["alive"] == false)
    });
    assert_eq!(runtime_named(&ended, "main")["workers"], Value::from(Vec::<Value>::new()));
}

/// The size does not grow with the number of stalls, and equal stacks occur once.
#[test]
fn the_data_is_bounded() {
    let (watchdog, collected, addr) = serving();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for _ in 0..130 {
        runtime.block_on(watchdog.watch(async { block(THRESHOLD + Duration::from_millis(1)) }));
    }
    reported_so_far(&watchdog, &collected);
    let live = live(addr);
    let stalls = live["stalls"].as_array().unwrap();
    assert_eq!(stalls.len(), 100);
    let ids: Vec<_> = stalls.iter().map(|s| s["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted(), "most recent last: {ids:?}");
    let kept = watchdog.stalls();
    assert_eq!(ids.last().copied(), kept.last().map(|s| s.id));
    let stacks = live["stacks"].as_array().unwrap();
    assert!(stacks.iter().enumerate().all(|(i, stack)| !stacks[..i].contains(stack)), "each once");
}

/// The data is made at most four times a second, for any number of pages.
#[test]
fn pages_share_one_response() {
    let (_watchdog, _, addr) = serving();
    let started = Instant::now();
    let mut bodies: Vec<String> = (0..200).map(|_| get(addr, "/live").body).collect();
    let took = started.elapsed();
    bodies.dedup();
    assert!(bodies.len() <= 2 + (took.as_millis() / 250) as usize, "{} answers in {took:?}", bodies.len());
}

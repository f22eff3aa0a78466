//! Tests of the serialized form of a snapshot: names and units, which are those of `/live`.

use serde_json::Value;

use test_support::*;

/// Returns the entry of a list that has this value.
#[track_caller]
fn entry<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value:?} in {list}"))
}

/// Checks that no duration is serialized without its unit, as serde does by default.
fn assert_durations_have_units(value: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            assert!(!fields.contains_key("nanos"), "{path} has no unit");
            fields.iter().for_each(|(key, value)| assert_durations_have_units(value, &format!("{path}.{key}")));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| assert_durations_have_units(entry, path)),
        _ => {}
    }
}

#[test]
fn a_snapshot_has_the_names_and_units_of_the_live_page() {
    let builder =
        pollwatch::Watchdog::builder().threshold(THRESHOLD).log(false).route_histograms(true).listen("127.0.0.1:0");
    let (watchdog, collected) = start_with(builder);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 3) });
    runtime.block_on(task).unwrap();
    runtime.block_on(async {
        let mut request = watchdog.request_watcher().start("GET", Some("/report/{id}"));
        assert!(request.poll(|| std::task::Poll::Ready(())).is_ready());
        request.respond(200);
    });
    collected.wait_resolved("main");
    drop(runtime);
    // Nothing of the runtime changes any more, so that both have the same figures.
    let snapshot = watchdog.snapshot();
    let serialized = serde_json::to_value(&snapshot).expect("it is serialized");
    assert_durations_have_units(&serialized, "snapshot");
    let live = wait_for("a response of now", || {
        let reply = get(watchdog.local_addr().unwrap(), "/live");
        let live: Value = serde_json::from_str(&reply.body).expect("JSON");
        let has_stall = live["sites"].as_array().unwrap().iter().any(|site| site["stalls"] == 1);
        has_stall.then_some(live)
    });

    for key in ["threshold_seconds", "bucket_bounds_seconds"] {
        assert_eq!(serialized["watchdog"][key], live[key], "{key}");
    }
    assert_eq!(serialized["watchdog"]["threshold_seconds"], THRESHOLD.as_secs_f64());
    let (of_snapshot, of_live) =
        (entry(&serialized["runtimes"], "name", "main"), entry(&live["runtimes"], "name", "main"));
    for key in [
        "polls",
        "stalls_by_cause",
        "suspected",
        "root_stalls",
        "blocked_workers",
        "oldest_stall_seconds",
        "offworker_polls",
        "oldest_offworker_poll_seconds",
        "driver_attended",
        "driver_unattended_seconds",
        "hung_seconds",
    ] {
        assert!(!of_live[key].is_null() || key == "driver_attended", "{key}");
        assert_eq!(of_snapshot[key], of_live[key], "{key}");
    }
    let of_polls = &of_snapshot["polls"];
    let rescues = |key: &str| of_snapshot[key].as_u64().unwrap();
    let all_rescues = rescues("driver_unattended_rescues") + rescues("hung_rescues");
    assert_eq!(of_live["driver_rescues"], all_rescues);
    assert_eq!(of_snapshot["polls"]["count"], snapshot.runtimes[0].polls.count);
    assert_eq!(of_snapshot["polls"]["sum_seconds"], snapshot.runtimes[0].polls.sum.as_secs_f64());
    for key in ["busy_ratio", "alive_tasks", "global_queue_depth", "local_queue_depth", "blocking_threads"] {
        let is_number = |value: &Value| value.is_number();
        assert_eq!(is_number(&of_snapshot["tokio"][key]), is_number(&of_live[key]), "{key}");
    }
    let site = snapshot.sites.iter().find(|site| site.site.to_string() == location).expect("the site");
    let (of_snapshot, of_live) =
        (entry(&serialized["sites"], "site", &location), entry(&live["sites"], "runtime", "main"));
    for key in ["runtime", "polls", "busy_seconds", "max_seconds", "stalls", "stalled_seconds"] {
        assert!(!of_live[key].is_null(), "{key}");
        assert_eq!(of_snapshot[key], of_live[key], "{key}");
    }
    assert_eq!(of_snapshot["busy_seconds"], site.busy.as_secs_f64());
    assert_eq!(of_snapshot["stalled_seconds"], site.stalls.time.as_secs_f64());
    assert!(of_snapshot["stalled_seconds"].as_f64().unwrap() >= (THRESHOLD * 3).as_secs_f64());
    assert_eq!(serialized["runtimes"][0]["delays"], Value::Null, "they are not tracked");
    let buckets = of_polls["buckets"].as_array().expect("a list");
    assert_eq!(buckets.len(), serialized["watchdog"]["bucket_bounds_seconds"].as_array().unwrap().len());
    assert!(buckets.iter().all(Value::is_u64), "{buckets:?}");
    let route = "/report/{id}";
    let (of_snapshot, of_live) = (entry(&serialized["routes"], "route", route), entry(&live["routes"], "route", route));
    for key in ["polls", "busy_seconds", "max_seconds", "stalls", "stalled_seconds", "spawned_stalls"] {
        assert!(!of_live[key].is_null(), "{key}");
        assert_eq!(of_snapshot[key], of_live[key], "{key}");
    }
    let answered = serde_json::json!([{"method": "GET", "status": "2xx", "count": 1}]);
    assert_eq!((&of_snapshot["requests_by_status"], &of_live["requests"]), (&answered, &serde_json::json!(1)));
    let buckets = of_snapshot["poll_buckets"].as_array().expect("a list");
    assert!(!buckets.is_empty() && of_snapshot["polls_in_buckets"] == 1, "{of_snapshot}");
    assert!(buckets.iter().all(|bucket| bucket["bound_seconds"].is_f64() && bucket["count"].is_u64()), "{buckets:?}");
    // The exceptions that `Snapshot` names.
    assert_eq!((&of_snapshot["delay_seconds"], &of_live["delay_seconds"]), (&serde_json::json!(0.0), &Value::Null));
    for list in ["captures", "reports_lost_by_stage", "allowed_blocking"] {
        assert_eq!(serialized["watchdog"][list], live["watchdog"][list], "{list}");
    }
    assert_eq!(serialized["watchdog"]["coverage"]["stacks"], live["watchdog"]["coverage"]["stacks"]);
}

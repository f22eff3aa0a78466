//! Tests of `/threads`.

use pollwatch::Watchdog;

use test_support::*;

#[test]
fn dumps_are_served_as_text_and_json() {
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    let text = get(addr, "/threads");
    assert_eq!((text.status, &*text.headers["content-type"]), (200, "text/plain; charset=utf-8"));
    assert!(text.body.contains(" threads at ") && text.body.contains(", pollwatch"), "{}", text.body);
    let json = get(addr, "/threads?format=json");
    assert_eq!((json.status, &*json.headers["content-type"]), (200, "application/json"));
    let dump: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    let is_own = |group: &&serde_json::Value| group["role"]["kind"] == "pollwatch";
    let own = dump["groups"].as_array().unwrap().iter().find(is_own).unwrap();
    assert!(own["threads"][0]["tid"].is_u64() && own["threads"][0]["cpu_seconds"].is_f64(), "{own}");
    for bad in ["/threads?format=xml", "/threads?x", "/threads?format=json&limit=1"] {
        let reply = get(addr, bad);
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("format=json"), "{}", reply.body);
    }
    assert_eq!(request(addr, "POST", "/threads").status, 405);
}

/// The thread that waits for a root in `block_on` is in no task, and is reported so.
#[test]
#[cfg(all(feature = "capture", target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
fn a_thread_in_block_on_is_in_no_task() {
    const NAME: &str = "drives-a-root";
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let root = std::thread::Builder::new().name(NAME.into()).spawn_scoped(scope, || runtime.block_on(stopped));
        // The thread may not have entered `block_on`, and its symbols may not be loaded.
        wait_until("the reason of the root's thread", || {
            let dump = watchdog.threads();
            let is_it = |group: &&pollwatch::ThreadGroup| group.threads.iter().any(|thread| &*thread.name == NAME);
            let reason = dump.groups.iter().find(is_it).map(|group| group.reason);
            assert_ne!(reason, Some("block_on inside a task"), "{dump}");
            reason == Some("block_on")
        });
        stop.send(()).unwrap();
        root.unwrap().join().unwrap().unwrap();
    });
}

//! `Watchdog::runtime`: the builder of watched runtimes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pollwatch::{ErrorKind, Hooks, Watchdog};
use test_support::{current_thread, increment, polls, wait_until};
use tokio::runtime::RuntimeFlavor;

fn start() -> Watchdog {
    Watchdog::builder().log(false).start().unwrap()
}

#[test]
fn settings_reach_the_runtime_in_any_order() {
    let watchdog = start();
    let runtime = watchdog
        .runtime("main")
        .worker_threads(3)
        .thread_name("of-the-builder")
        .thread_stack_size(1 << 20)
        .thread_keep_alive(Duration::from_secs(1))
        .max_blocking_threads(2)
        .enable_all()
        .configure(|builder| {
            builder.event_interval(31);
        })
        .build()
        .unwrap();
    assert_eq!(runtime.metrics().num_workers(), 3);
    let name = runtime.block_on(runtime.spawn(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        std::thread::current().name().map(str::to_owned)
    }));
    assert_eq!(name.unwrap().as_deref(), Some("of-the-builder"));
    let current_thread = watchdog.runtime("ui").enable_all().current_thread().build().unwrap();
    assert_eq!(current_thread.handle().runtime_flavor(), RuntimeFlavor::CurrentThread);
    let local = watchdog.runtime("local").enable_all().build_local().unwrap();
    let shared = std::rc::Rc::new(7);
    assert_eq!(local.block_on(async { tokio::task::spawn_local(async move { *shared }).await.unwrap() }), 7);
    for runtime in ["main", "ui", "local"] {
        assert!(watchdog.coverage().runtimes.iter().any(|known| *known.name == *runtime), "{runtime}");
    }
}

#[test]
fn the_runtime_is_measured_and_the_hooks_run() {
    let watchdog = start();
    let started = Arc::new(AtomicU64::new(0));
    let hooks = Hooks::new().on_thread_start(increment(&started));
    let runtime = watchdog.runtime("main").worker_threads(1).hooks(hooks).build().unwrap();
    runtime.block_on(async { watchdog.spawn(async { tokio::task::yield_now().await }).await.unwrap() });
    wait_until("the thread has started", || started.load(Ordering::Relaxed) > 0);
    // A task has ended before its last poll is counted.
    wait_until("both polls are counted", || polls(&watchdog, "main") >= 2);
}

#[test]
fn a_builder_that_is_not_built_leaves_the_name_free() {
    let watchdog = start();
    drop(watchdog.runtime("main").enable_all());
    let first = watchdog.runtime("main").build().unwrap();
    let error = watchdog.runtime("main").build().unwrap_err();
    assert!(error.to_string().contains("a runtime named \"main\" is watched already"), "{error}");
    drop(first);
    drop(watchdog.runtime("main").build().unwrap());
    assert!(watchdog.runtime(" ").build().unwrap_err().to_string().contains("must not be empty"));
}

/// tokio's builder panics for some of these settings, and others would be lost silently.
#[test]
fn a_setting_that_cannot_be_made_is_an_error() {
    let watchdog = start();
    let main = || watchdog.runtime("main");
    for (builder, part) in [
        (main().worker_threads(0), "worker_threads must be at least 1"),
        (main().worker_threads(0).worker_threads(1), "worker_threads must be at least 1"),
        (main().max_blocking_threads(0), "max_blocking_threads must be at least 1"),
        (main().with_builder(current_thread()).current_thread(), "leave current_thread out"),
        (main().current_thread().with_builder(current_thread()), "leave current_thread out"),
    ] {
        let error = builder.build().expect_err(part);
        let text = error.to_string();
        assert!(
            error.kind() == ErrorKind::InvalidSetting && text.contains(part) && text.contains("\"main\""),
            "{text}"
        );
    }
    assert_eq!(main().worker_threads(0).build_local().unwrap_err().kind(), ErrorKind::InvalidSetting);
    drop(main().build().expect("the name is free"));
}

/// The builder has a handle of its own, which keeps the watchdog running until then.
#[test]
fn the_watchdog_may_be_dropped_before_its_builder() {
    let watchdog = start();
    let builder = watchdog.runtime("main");
    drop(watchdog);
    let runtime = builder.build().unwrap();
    assert_eq!(runtime.block_on(runtime.spawn(async { 7 })).unwrap(), 7);
}

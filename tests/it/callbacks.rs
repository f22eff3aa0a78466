//! Tests of the user's own thread callbacks beside pollwatch's in stable mode.

use std::sync::atomic::Ordering;

use pollwatch::{ErrorKind, Hooks};
use tokio::runtime::{Builder, Runtime};

use test_support::*;

/// The presence of thread callbacks of pollwatch's own.
const HAS_OWN_CALLBACKS: bool = cfg!(all(target_os = "linux", not(tokio_unstable)));

/// Sets callbacks that count starts, stops, parks and unparks.
fn counting(counters: &HookCounters) -> Hooks {
    let [start, stop, park, unpark] = counters.each_ref().map(increment);
    Hooks::new().on_thread_start(start).on_thread_stop(stop).on_thread_park(park).on_thread_unpark(unpark)
}

fn set_all(builder: &mut Builder, counters: &HookCounters) {
    let [start, stop, park, unpark] = counters.each_ref().map(increment);
    builder.on_thread_start(start).on_thread_stop(stop).on_thread_park(park).on_thread_unpark(unpark);
}

fn read(counters: &HookCounters) -> [u64; 4] {
    counters.each_ref().map(|c| c.load(Ordering::Relaxed))
}

/// Makes workers park and unpark.
fn park_and_unpark(runtime: Runtime) {
    runtime.block_on(async { tokio::time::sleep(THRESHOLD / 10).await });
    runtime.block_on(runtime.spawn(yields(10))).unwrap();
    runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
}

#[test]
fn the_users_thread_callbacks_run() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().hooks(counting(&counters)).build().unwrap();
    assert_eq!(watchdog.coverage().runtimes[0].workers, HAS_OWN_CALLBACKS);
    park_and_unpark(runtime);
    let [started, stopped, parked, unparked] = read(&counters);
    assert!(started >= 3 && stopped == started, "{counters:?}");
    assert!(parked >= 2 && unparked == parked, "{counters:?}");
}

#[test]
fn a_panicking_callback_is_caught_and_counted() {
    fn panics() {
        panic!("on purpose");
    }
    let hooks =
        Hooks::new().on_thread_start(panics).on_thread_stop(panics).on_thread_park(panics).on_thread_unpark(panics);
    assert!(format!("{hooks:?}").contains("on_thread_unpark"), "{hooks:?}");
    let (watchdog, _) = start(THRESHOLD);
    park_and_unpark(watchdog.runtime("main").worker_threads(2).enable_all().hooks(hooks).build().unwrap());
    assert!(watchdog.snapshot().watchdog.callback_panics >= 2 * 4);
}

/// The same program compiles in both modes. Task hooks run only where tokio has them.
#[test]
fn task_hooks_have_the_same_surface_in_both_modes() {
    let counters = HookCounters::default();
    let [spawn, before, after, terminate] = counters.each_ref().map(increment);
    let (sender, spawned) = std::sync::mpsc::channel();
    let hooks = Hooks::new()
        .on_task_spawn(move |task| {
            spawn();
            // The receiver may be gone.
            let _ = sender.send((task.id(), task.spawned_at()));
        })
        .on_before_task_poll(move |_| before())
        .on_after_task_poll(move |_| after())
        .on_task_terminate(move |_| terminate());
    assert!(format!("{hooks:?}").contains("on_task_spawn: true"), "{hooks:?}");
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.runtime("main").current_thread().enable_all().hooks(hooks).build().unwrap();
    let (task, location) = spawn_on(runtime.handle(), yields(3));
    let id = task.id();
    runtime.block_on(task).unwrap();
    drop(runtime);
    assert_eq!(read(&counters).map(|n| n > 0), [HOOKS; 4], "{counters:?}");
    let tasks: Vec<_> = spawned.into_iter().collect();
    let found = tasks.iter().find(|(of_task, _)| *of_task == id);
    assert_eq!(found.is_some(), HOOKS);
    // The site has the same line, with the file relative to its crate.
    assert!(found.is_none_or(|(_, at)| location.ends_with(&format!(":{}:{}", at.line(), at.column()))));
}

/// A log line says, once for a watchdog, that task hooks are not called. It names a runtime that
/// was built.
#[test]
fn task_hooks_that_are_not_called_are_logged_once() {
    if !is_child() {
        let output = rerun("callbacks::task_hooks_that_are_not_called_are_logged_once").output().unwrap();
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(log.matches("are not called: tokio has none").count(), usize::from(!HOOKS), "{log}");
        return assert_eq!(log.contains("task hooks of the runtime \"first\" are not called"), !HOOKS, "{log}");
    }
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO).init();
    let watchdog = pollwatch::Watchdog::builder().threshold(THRESHOLD).start().unwrap();
    let build = |name: &str| watchdog.runtime(name).worker_threads(1).hooks(Hooks::new().on_task_spawn(|_| ())).build();
    assert_eq!(build(" ").unwrap_err().kind(), ErrorKind::InvalidSetting);
    let _runtimes = ["first", "second"].map(|name| build(name).unwrap());
    watchdog.shutdown();
}

/// tokio keeps one callback of each kind. A builder whose callbacks would be lost is refused, the
/// error names the remedy, and the name of the runtime stays free.
#[test]
fn a_builder_whose_callbacks_would_be_lost_is_refused() {
    let (watchdog, _) = start(THRESHOLD);
    let with_callbacks = |counters: &HookCounters| {
        let mut builder = multi_thread(1);
        set_all(&mut builder, counters);
        builder
    };
    let refused = HookCounters::default();
    let hooks = Hooks::new().on_thread_park(|| ());
    let error = watchdog.runtime("main").with_builder(with_callbacks(&refused)).hooks(hooks).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbacksWouldBeLost);
    let text = error.to_string();
    assert!(text.contains("on_thread_park") && text.contains("RuntimeBuilder::hooks"), "{text}");
    assert_eq!(text.contains("on_thread_start"), HAS_OWN_CALLBACKS, "{text}");
    assert_eq!(read(&refused), [0; 4], "nothing was built");
    let counters = HookCounters::default();
    let without_hooks = watchdog.build_runtime("main", with_callbacks(&counters));
    if HAS_OWN_CALLBACKS {
        assert_eq!(without_hooks.unwrap_err().kind(), ErrorKind::CallbacksWouldBeLost);
        park_and_unpark(watchdog.build_runtime("main", multi_thread(1)).unwrap());
    } else {
        park_and_unpark(without_hooks.unwrap());
        assert!(read(&counters).iter().all(|n| *n > 0), "pollwatch takes none of them: {counters:?}");
    }
}

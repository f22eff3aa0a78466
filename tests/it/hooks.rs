//! Tests of the user's own task hooks beside pollwatch's (`tokio_unstable`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pollwatch::{HookedTask, Hooks};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use test_support::*;

/// Counts the events of the tasks of this file. The user's hooks also see pollwatch's own task and
/// the ends of tokio's worker threads.
fn count(counter: &Arc<AtomicU64>) -> impl Fn(&HookedTask<'_>) + Send + Sync + 'static {
    let increment = increment(counter);
    move |meta| {
        if meta.spawned_at().file() == file!() {
            increment();
        }
    }
}

/// Hooks that count spawns, starts of polls, ends of polls, and terminations.
fn counting(counters: &HookCounters) -> Hooks {
    let [spawn, before, after, terminate] = counters.each_ref().map(count);
    Hooks::new().on_task_spawn(spawn).on_before_task_poll(before).on_after_task_poll(after).on_task_terminate(terminate)
}

#[test]
fn the_users_hooks_run() {
    for (name, builder) in flavours() {
        let counters = HookCounters::default();
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.runtime(name).with_builder(builder).hooks(counting(&counters)).build().unwrap();
        let (task, location) = spawn_on(runtime.handle(), yields(10));
        runtime.block_on(task).unwrap();
        drop(runtime);
        assert_eq!(counters.map(|c| c.load(Ordering::Relaxed)), [1, 11, 11, 1], "{name}");
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.polls, site.spawned, site.terminated), (11, 1, 1), "{name}");
        assert_eq!(watchdog.snapshot().watchdog.callback_panics, 0);
    }
}

#[test]
fn the_users_hooks_run_on_a_local_runtime() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let hooks = counting(&counters);
    let runtime = watchdog.runtime("local").enable_all().hooks(hooks).build_local().unwrap();
    runtime.block_on(async { tokio::task::spawn_local(yields(10)).await }).unwrap();
    drop(runtime);
    assert_eq!(counters.map(|c| c.load(Ordering::Relaxed)), [1, 11, 11, 1]);
    assert_eq!(polls(&watchdog, "local"), 11);
}

#[test]
fn a_panicking_hook_is_caught_and_counted() {
    for (name, builder) in flavours() {
        let panics = || panic!("on purpose");
        let hooks = Hooks::new()
            .on_task_spawn(move |_| panics())
            .on_before_task_poll(move |_| panics())
            .on_after_task_poll(move |_| panics())
            .on_task_terminate(move |_| panics());
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = watchdog.runtime(name).with_builder(builder).hooks(hooks).build().unwrap();
        let (task, location) = spawn_on(runtime.handle(), async {
            yields(4).await;
            block(THRESHOLD * 2);
        });
        runtime.block_on(task).unwrap();
        drop(runtime);
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.polls, site.spawned, site.terminated), (5, 1, 1), "{name}: measuring continues");
        assert!(watchdog.snapshot().watchdog.callback_panics >= 12, "{name}");
        assert_eq!(collected.wait_resolved(name).site.to_string(), location);
        let text = Metrics::parse(&watchdog.metrics_text());
        assert!(text.get("pollwatch_callback_panics_total", &[]) >= 12.0, "{name}");
    }
}

/// Time that a user's hook blocks is not the task's time.
#[test]
fn a_slow_hook_is_not_counted_as_task_time() {
    undisturbed(|| {
        let hooks = Hooks::new()
            .on_before_task_poll(|_| assert!(block(THRESHOLD * 2) > THRESHOLD))
            .on_after_task_poll(|_| assert!(block(THRESHOLD * 2) > THRESHOLD));
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.runtime("main").current_thread().enable_all().hooks(hooks).build().unwrap();
        let (task, location) = spawn_on(runtime.handle(), yields(1));
        runtime.block_on(task).unwrap();
        drop(runtime);
        let site = site_of(&watchdog, "main", &location);
        assert_eq!(site.polls, 2);
        if site.poll_max < THRESHOLD { Ok(()) } else { Err(format!("{site:?}")) }
    });
}

/// pollwatch needs no thread callbacks in this mode, so those on the builder stay.
#[test]
fn thread_callbacks_on_the_builder_are_kept() {
    let counters: [Arc<AtomicU64>; 4] = Default::default();
    let [started, stopped, parked, unparked] = counters.each_ref().map(increment);
    let mut builder = multi_thread(2);
    builder.on_thread_start(started).on_thread_stop(stopped).on_thread_park(parked).on_thread_unpark(unparked);
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", builder).unwrap();
    let (task, location) = spawn_on(runtime.handle(), async { tokio::time::sleep(THRESHOLD).await });
    runtime.block_on(task).unwrap();
    drop(runtime);
    let [started, stopped, parked, unparked] = counters.map(|c| c.load(Ordering::Relaxed));
    assert_eq!((started, stopped), (2, 2));
    assert!(parked > 0 && unparked > 0, "{parked} {unparked}");
    assert_eq!(site_of(&watchdog, "main", &location).spawned, 1);
}

/// Tasks spawned by code that does not know pollwatch have their own sites.
#[test]
fn tasks_spawned_by_foreign_code_are_measured() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    assert!(watchdog.coverage().hooks && watchdog.coverage().runtimes[0].every_task);
    let location = runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        let line = line!() + 1;
        set.spawn(async { block(THRESHOLD * 3) });
        set.join_all().await;
        format!("hooks.rs:{line}:")
    });
    assert!(collected.wait_resolved("main").site.to_string().contains(&location));
}

/// A hook cannot distinguish the end of a blocking closure from that of a task, and one location
/// may spawn both.
#[test]
fn blocking_closures_of_a_site_that_also_spawns_are_not_counted_as_tasks() {
    #[track_caller]
    fn start_either(handle: &Handle, blocking: bool) -> JoinHandle<()> {
        if blocking { handle.spawn_blocking(|| ()) } else { handle.spawn(yields(1)) }
    }
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    for i in 0..20 {
        runtime.block_on(start_either(runtime.handle(), i % 2 == 1)).unwrap();
    }
    drop(runtime);
    let tasks: Vec<_> = watchdog.snapshot().sites.iter().map(|s| (s.spawned, s.terminated)).collect();
    assert_eq!(tasks, [(10, 10)]);
}

//! Tests that every poll is counted once, at its site.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pollwatch::{Phase, Watchdog};

use test_support::*;

#[test]
fn every_poll_of_every_task_is_counted_at_its_site() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (mut tasks, mut locations) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            let (task, location) = spawn_measured(&watchdog, runtime.handle(), yields(10));
            tasks.push(task);
            locations.push(location);
        }
        let first = locations[0].clone();
        let (task, second) = spawn_measured(&watchdog, runtime.handle(), yields(4));
        tasks.push(task);
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        // The drop joins the workers, so all hooks have run.
        drop(runtime);
        let many = site_of(&watchdog, name, &first);
        assert_eq!((many.polls, many.spawned, many.terminated, many.alive()), (77, 7, 7, Some(0)), "{name}");
        let one = site_of(&watchdog, name, &second);
        assert_eq!((one.polls, one.spawned, one.terminated, one.alive()), (5, 1, 1, Some(0)), "{name}");
        let all = runtime_of(&watchdog.snapshot(), name).polls;
        assert_eq!(all.count, 82, "{name}: the unwatched root is in no count");
        assert_eq!(all.sum, many.busy + one.busy, "{name}");
        assert!(first.contains("polls.rs:") && first != second);
    }
}

/// A `block_on` root has no hook: its wrapper counts it, in both modes and flavours.
#[test]
fn a_watched_root_is_counted() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let polled = Arc::new(AtomicU64::new(0));
        let (root, location) = watch_at(&watchdog, counted(polled.clone(), yields(30)));
        runtime.block_on(root);
        assert_eq!(polled.load(Ordering::Relaxed), 31);
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.polls, site.completed, site.cancelled, site.panicked), (31, 1, 0, 0), "{name}");
        assert_eq!((site.spawned, site.terminated), (0, 0), "{name}: no task");
        assert_eq!(polls(&watchdog, name), 31, "{name}");
    }
}

#[test]
fn spawn_counts_polls_and_outcome() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let polled = Arc::new(AtomicU64::new(0));
        let location = runtime.block_on(async {
            let (task, location) = (watchdog.spawn(counted(polled.clone(), yields(20))), line!());
            task.await.unwrap();
            location
        });
        drop(runtime);
        let snapshot = watchdog.snapshot();
        let [site] = &snapshot.sites[..] else { panic!("{name}: one site: {:#?}", snapshot.sites) };
        assert!(site.site.to_string().contains(&format!("polls.rs:{location}:")), "{name}: {}", site.site);
        assert_eq!(site.polls, 21, "{name}");
        assert_eq!((site.spawned, site.terminated, site.completed), (1, 1, 1), "{name}");
        assert_eq!(runtime_of(&snapshot, name).polls.count, polled.load(Ordering::Relaxed), "{name}");
    }
}

/// A watched future inside a measured poll is a part of that poll.
#[test]
fn no_poll_is_counted_twice() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let polled = Arc::new(AtomicU64::new(0));
        let (inner, location) = watch_at(&watchdog, counted(polled.clone(), yields(12)));
        let middle = watchdog.watch(async { (inner.await, yields(3).await) });
        let (task, outer) = spawn_measured(&watchdog, runtime.handle(), middle);
        runtime.block_on(task).unwrap();
        drop(runtime);
        assert_eq!(polls(&watchdog, name), 16, "{name}");
        assert_eq!(site_of(&watchdog, name, &outer).polls, 16, "{name}");
        let part = site_of(&watchdog, name, &location);
        assert_eq!((part.polls, part.completed), (0, 1), "{name}: a part counts its outcome, no polls");
        assert_eq!(polled.load(Ordering::Relaxed), 13);
    }
}

/// The longest poll and the sum lie between the block's own clock and a clock around it.
#[test]
fn durations_are_exact() {
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let outer = Instant::now();
    let inner = runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    let outer = outer.elapsed();
    let snapshot = watchdog.snapshot();
    let site = &snapshot.sites[0];
    // The TSC and the monotonic clock agree to about a thousandth.
    assert!(
        site.poll_max >= inner.mul_f64(0.99) && site.poll_max <= outer.mul_f64(1.01),
        "{inner:?} {site:?} {outer:?}"
    );
    assert_eq!(site.busy, site.poll_max);
    let polls = &snapshot.runtimes[0].polls;
    assert_eq!((polls.count, polls.sum), (1, site.busy));
    assert!(polls.buckets.iter().all(|b| b.count == u64::from(b.bound >= site.poll_max)), "{polls:?}");
}

/// pollwatch's own task is never counted, polled or not.
#[test]
fn an_untouched_runtime_counts_nothing() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        runtime.block_on(yields(5));
        let empty = |when: &str| {
            let snapshot = watchdog.snapshot();
            assert!(snapshot.sites.is_empty(), "{name}, {when}: {:#?}", snapshot.sites);
            assert_eq!(runtime_of(&snapshot, name).polls.count, 0, "{name}, {when}");
        };
        empty("alive");
        let tasks = Metrics::parse(&watchdog.metrics_text()).get("pollwatch_runtime_alive_tasks", &[("runtime", name)]);
        assert_eq!(tasks, 0.0, "{name}");
        drop(runtime);
        empty("gone");
    }
}

#[test]
fn an_answered_probe_is_not_counted() {
    for (name, builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let polled = Arc::new(AtomicU64::new(0));
        let delays = || runtime_of(&watchdog.snapshot(), name).schedule_delay.count;
        let started = Instant::now();
        let root = async {
            while delays() < 2 && started.elapsed() < TIMEOUT {
                block(THRESHOLD / 4);
                yield_once().await;
            }
        };
        runtime.block_on(watchdog.watch(counted(polled.clone(), root)));
        assert!(delays() >= 2, "{name}: the probe is asked while the runtime polls");
        drop(runtime);
        let snapshot = watchdog.snapshot();
        assert_eq!(runtime_of(&snapshot, name).polls.count, polled.load(Ordering::Relaxed), "{name}");
        let [site] = &snapshot.sites[..] else { panic!("{name}: one site: {:#?}", snapshot.sites) };
        assert_eq!((site.spawned, site.terminated), (0, 0), "{name}");
    }
}

#[test]
fn a_local_runtime_is_measured() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.runtime("local").enable_all().build_local().expect("a local runtime");
    let (in_root, in_task) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let root = async {
        let task = tokio::task::spawn_local(counted(in_task.clone(), yields(8)));
        task.await.unwrap();
        block(THRESHOLD * 2);
    };
    let (root, location) = watch_at(&watchdog, counted(in_root.clone(), root));
    runtime.block_on(root);
    drop(runtime);
    let tasks = if HOOKS { in_task.load(Ordering::Relaxed) } else { 0 };
    assert_eq!(in_task.load(Ordering::Relaxed), 9);
    assert_eq!(polls(&watchdog, "local"), in_root.load(Ordering::Relaxed) + tasks);
    collected.wait(|s| s.phase == Phase::Resolved && s.site.to_string() == location).expect("a stall is resolved");
}

/// A runtime without a name is registered at the first poll of a watched future.
#[test]
fn an_unnamed_runtime_is_registered_by_a_watched_future() {
    for (name, mut builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = builder.build().unwrap();
        let adopted = "runtime-1";
        let future = watchdog.watch(async { block(THRESHOLD * 3) });
        assert!(watchdog.coverage().runtimes.is_empty(), "{name}: not before it is polled");
        runtime.block_on(async { tokio::spawn(future).await.unwrap() });
        assert_eq!(polls(&watchdog, adopted), 1, "{name}");
        assert_eq!(&*collected.wait_resolved(adopted).runtime, adopted);
        let coverage = watchdog.coverage();
        let [seen] = &coverage.runtimes[..] else { panic!("{name}: one: {coverage:?}") };
        assert_eq!((&*seen.name, seen.alive, seen.every_task), (adopted, true, false), "{name}");
        drop(runtime);
        wait_until("its end is noticed", || !watchdog.coverage().runtimes[0].alive);
    }
}

/// A program may make any number of runtimes, if the number at a time is limited.
#[test]
fn unnamed_runtimes_reuse_the_names_of_ended_ones() {
    let (watchdog, collected) = start(THRESHOLD);
    let (future, location) = watch_at(&watchdog, yields(1));
    let mut first = Some(future);
    let first = &mut first;
    for i in 0..200 {
        let runtime = current_thread().build().unwrap();
        let future = first.take().unwrap_or_else(|| watchdog.watch(yields(1)));
        runtime.block_on(future);
        if i == 150 {
            runtime.block_on(watchdog.watch(async { block(THRESHOLD * 3) }));
        }
    }
    assert!(collected.wait_resolved("runtime-1").worker.is_some(), "the 151st is watched as the first was");
    let snapshot = watchdog.snapshot();
    let names: Vec<_> = snapshot.watchdog.coverage.runtimes.iter().map(|r| &*r.name).collect();
    assert_eq!(names, ["runtime-1"], "one at a time");
    assert_eq!(runtime_of(&snapshot, "runtime-1").polls.count, 401);
    assert!(find_site(&snapshot, "runtime-1", &location).is_some());
    // Two at a time have two names, and the name of one that has ended is free.
    let two: Vec<_> = (0..2).map(|_| current_thread().build().unwrap()).collect();
    two.iter().for_each(|runtime| runtime.block_on(watchdog.watch(yields(0))));
    assert_eq!(polls(&watchdog, "runtime-2"), 1);
    drop(two);
}

/// Runtimes beyond the limit of names work, coverage counts them, and the user's hooks run.
#[test]
fn a_runtime_beyond_the_limit_of_names_works() {
    let (watchdog, _) = start(THRESHOLD);
    let [before, after] = [0, 0].map(|zero| Arc::new(AtomicU64::new(zero)));
    for i in 0..70 {
        let hooks = hooks_that_count(if i < 63 { &before } else { &after });
        let runtime = watchdog.runtime(format!("job {i}")).current_thread().enable_all().hooks(hooks).build().unwrap();
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(1));
        runtime.block_on(task).unwrap();
    }
    let coverage = watchdog.coverage();
    assert_eq!((coverage.runtimes.len(), coverage.unnamed_runtimes), (63, 7));
    assert!(coverage.to_string().contains("under a 64th name: 7"), "{coverage}");
    assert_eq!(after.load(Ordering::Relaxed), if HOOKS { 7 } else { 0 });
    // A runtime with a known name may be built again.
    let runtime = watchdog.build_runtime("job 3", current_thread()).unwrap();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(1));
    runtime.block_on(task).unwrap();
    assert_eq!(polls(&watchdog, "job 3"), 4);
    assert!(
        watchdog
            .attach("job 99", current_thread().build().unwrap().handle())
            .is_err_and(|e| e.kind() == pollwatch::ErrorKind::TooManyNames)
    );
}

/// The same for runtimes that were built elsewhere. One log line says so.
#[test]
fn found_runtimes_beyond_the_limit_of_names_are_counted_and_logged() {
    if !is_child() {
        let name = "polls::found_runtimes_beyond_the_limit_of_names_are_counted_and_logged";
        let output = rerun(name).env_remove("RUST_LOG").output().unwrap();
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
        return assert_eq!(log.matches("some runtimes are not watched").count(), 1, "{log}");
    }
    tracing_subscriber::fmt().with_ansi(false).init();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).start().unwrap();
    let runtimes: Vec<_> = (0..66).map(|_| current_thread().build().unwrap()).collect();
    for _ in 0..2 {
        for runtime in &runtimes {
            runtime.block_on(watchdog.watch(yields(1)));
        }
    }
    let coverage = watchdog.coverage();
    assert_eq!((coverage.runtimes.len(), coverage.unnamed_runtimes), (63, 3), "each once: {coverage}");
    watchdog.shutdown();
}

#[cfg(tokio_unstable)]
fn hooks_that_count(spawned: &Arc<AtomicU64>) -> pollwatch::Hooks {
    let spawned = spawned.clone();
    pollwatch::Hooks::new().on_task_spawn(move |_| {
        spawned.fetch_add(1, Ordering::Relaxed);
    })
}

#[cfg(not(tokio_unstable))]
fn hooks_that_count(_: &Arc<AtomicU64>) -> pollwatch::Hooks {
    pollwatch::Hooks::new()
}

/// Sites beyond the limit count under `other`.
#[test]
fn sites_beyond_the_limit_count_under_other() {
    let (watchdog, _) = start_with(Watchdog::builder().threshold(THRESHOLD).log(false).max_sites(2));
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(yields(0)));
    runtime.block_on(watchdog.watch(yields(1)));
    for _ in 0..3 {
        runtime.block_on(watchdog.watch(yields(2)));
        runtime.block_on(watchdog.watch(yields(3)));
    }
    let snapshot = watchdog.snapshot();
    let mut seen: Vec<(bool, u64)> = snapshot.sites.iter().map(|s| (s.site.location().is_some(), s.polls)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(false, 21), (true, 1), (true, 2)]);
    assert_eq!(runtime_of(&snapshot, "main").polls.count, 24);
    assert_eq!(snapshot.watchdog.sites_overflowed, 2, "two sites, used by one thread");
    let other = find_site(&snapshot, "main", "other").expect("other is shown");
    assert_eq!((other.completed, other.alive()), (6, None));
    let text = Metrics::parse(&watchdog.metrics_text());
    assert_eq!(text.get("pollwatch_site_polls_total", &[("runtime", "main"), ("site", "other")]), 21.0);
    assert_eq!(text.get("pollwatch_sites_overflowed_total", &[]), 2.0);
}

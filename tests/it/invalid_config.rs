//! Tests of invalid configurations: each fails with a clear error and leaves nothing behind.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use pollwatch::{Watchdog, WatchdogBuilder};

use test_support::*;

#[track_caller]
fn start_error(builder: WatchdogBuilder) -> String {
    let error = builder.start().expect_err("the call fails");
    assert!(error.is_invalid() && !error.is_listen() && error.source().is_none(), "{error:?}");
    error.to_string()
}

#[test]
fn thresholds_out_of_range_are_errors() {
    let with = |threshold| Watchdog::builder().log(false).threshold(threshold);
    let (least, most) = (*WatchdogBuilder::THRESHOLDS.start(), *WatchdogBuilder::THRESHOLDS.end());
    let nano = Duration::from_nanos(1);
    for threshold in [Duration::ZERO, nano, least - nano, most + nano, Duration::MAX] {
        let text = start_error(with(threshold));
        assert!(text.contains("threshold") && text.contains("100 µs") && text.contains("10 ms"), "{text}");
    }
    for threshold in [least, most] {
        assert_eq!(with(threshold).start().unwrap().snapshot().watchdog.threshold, threshold);
    }
}

#[test]
fn numbers_of_sites_out_of_range_are_errors() {
    let with = |sites| Watchdog::builder().log(false).max_sites(sites);
    for sites in [0, WatchdogBuilder::MAX_SITES + 1, usize::MAX] {
        assert!(start_error(with(sites)).contains("max_sites"));
    }
    with(1).start().unwrap();
    with(WatchdogBuilder::MAX_SITES).start().unwrap();
}

#[test]
fn an_address_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let start = || Watchdog::builder().log(false).listen(addr).start();
    let error = start().expect_err("the address is taken");
    assert!(error.is_listen() && !error.is_invalid());
    assert!(error.to_string().contains(&addr.to_string()) && error.to_string().contains("port 0"), "{error}");
    let source = error.source().and_then(|s| s.downcast_ref::<std::io::Error>()).expect("the system's error");
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::AddrInUse);
    drop(taken);
    let watchdog = start().expect("the address is free again");
    assert_eq!(watchdog.local_addr(), Some(addr));
    assert!(Watchdog::builder().log(false).start().unwrap().local_addr().is_none());
}

#[test]
fn empty_and_taken_names_are_errors() {
    let (watchdog, _) = start(THRESHOLD);
    let build_error = |name: &str| {
        let error = watchdog.build_runtime(name, &mut current_thread()).expect_err("the call fails");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<pollwatch::Error>()).expect("a pollwatch::Error");
        assert!(inner.is_invalid());
        error.to_string()
    };
    for name in ["", " ", "\t\n"] {
        assert!(build_error(name).contains("must not be empty"));
    }
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    for name in ["main", "other"] {
        let text = build_error(name);
        assert!(text.contains(&format!("{name:?}")) && text.contains("another name"), "{text}");
    }
    let attach = |name| watchdog.attach(name, current_thread().build().unwrap().handle()).unwrap_err();
    assert!(attach("main").is_invalid() && attach("").is_invalid());
    // The failed calls had no effect.
    runtime.block_on(watchdog.watch(yields(2)));
    assert_eq!(polls(&watchdog, "main"), 3);
}

/// The name is free after the runtime's end, and its counters continue.
#[test]
fn a_name_can_be_used_again() {
    for i in 0..2 {
        let (watchdog, collected) = start(THRESHOLD);
        for round in 1..=4 {
            let builder = &mut flavours()[(i + round as usize) % 2].1;
            let runtime = watchdog.build_runtime("main", builder).unwrap();
            let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(9));
            runtime.block_on(task).unwrap();
            let (task, location) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 2) });
            runtime.block_on(task).unwrap();
            drop(runtime);
            assert_eq!(polls(&watchdog, "main"), round * 11);
            // Short polls may have been starved too.
            let of_place = |s: &&pollwatch::Stall| s.site.to_string() == location;
            wait_until("a stall a round", || watchdog.stalls().iter().filter(of_place).count() as u64 == round);
            assert!(!watchdog.coverage().runtimes[0].alive);
        }
        assert_eq!(watchdog.coverage().runtimes.len(), 1);
        collected.wait_resolved("main");
    }
}

/// A `build` that fails or panics releases the name.
#[test]
fn a_failed_build_releases_the_name() {
    let (watchdog, _) = start(THRESHOLD);
    let local = |builder: &mut tokio::runtime::Builder| {
        let options = tokio::runtime::LocalOptions::default();
        watchdog.build_local_runtime("main", builder, options)
    };
    let mut multi = multi_thread(1);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| local(&mut multi).map(drop)));
    assert!(unwound.is_err(), "tokio panics: a local runtime has one thread");
    let runtime = watchdog.build_runtime("main", &mut multi).expect("the name is free");
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(1));
    runtime.block_on(task).unwrap();
    drop(runtime);
    assert_eq!(polls(&watchdog, "main"), 2);
}

#[test]
fn one_builder_builds_two_runtimes() {
    for (name, mut builder) in flavours() {
        let (watchdog, _) = start(THRESHOLD);
        let first = watchdog.build_runtime("first", &mut builder).unwrap();
        let second = watchdog.build_runtime("second", &mut builder).unwrap();
        for (runtime, n) in [(&first, 3), (&second, 6)] {
            let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(n));
            runtime.block_on(task).unwrap();
        }
        drop((first, second));
        assert_eq!((polls(&watchdog, "first"), polls(&watchdog, "second")), (4, 7), "{name}");
    }
}

#[test]
fn an_attached_runtime_measures_watched_futures_only() {
    for (name, mut builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = builder.build().unwrap();
        watchdog.attach(name, runtime.handle()).unwrap();
        let again = watchdog.attach("again", runtime.handle()).expect_err("the runtime is watched");
        assert!(again.is_invalid() && again.to_string().contains(&format!("{name:?}")), "{again}");
        let coverage = watchdog.coverage();
        assert!(coverage.runtimes.len() == 1 && coverage.runtimes[0].alive && !coverage.runtimes[0].every_task);
        assert!(coverage.to_string().contains("watched futures only"), "{coverage}");
        // Watched futures are measured, the rest is not.
        let (wrapped, plain) = runtime.block_on(async {
            let plain = tokio::spawn(yields(20));
            let wrapped = watchdog.spawn(async { (yields(4).await, block(THRESHOLD * 3)) });
            (wrapped.await, plain.await)
        });
        wrapped.unwrap();
        plain.unwrap();
        collected.wait_resolved(name);
        wait_until("its polls are counted", || polls(&watchdog, name) >= 5);
        let handle = runtime.handle().clone();
        drop(runtime);
        assert_eq!(polls(&watchdog, name), 5, "{name}");
        let site = &watchdog.snapshot().sites[0];
        assert_eq!((site.spawned, site.terminated, site.completed), (1, 1, 1), "{name}");
        assert!(!watchdog.coverage().runtimes[0].alive);
        let dead = watchdog.attach("dead", &handle).expect_err("the runtime is shut down");
        assert!(dead.is_invalid() && dead.to_string().contains("shut down"), "{dead}");
        // Neither name is lost.
        let next = current_thread().build().unwrap();
        watchdog.attach("dead", next.handle()).unwrap();
    }
}

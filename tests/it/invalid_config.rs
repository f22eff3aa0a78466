//! Tests of invalid configurations: each fails with a clear error and leaves nothing behind.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use pollwatch::{ErrorKind, Watchdog, WatchdogBuilder};

use test_support::*;

#[track_caller]
fn start_error(builder: WatchdogBuilder) -> String {
    let error = builder.start().expect_err("the call fails");
    assert!(error.kind() == ErrorKind::InvalidSetting && error.source().is_none(), "{error:?}");
    error.to_string()
}

#[test]
fn thresholds_out_of_range_are_errors() {
    let with = |threshold| Watchdog::builder().log(false).threshold(threshold);
    let (least, most) = (*WatchdogBuilder::THRESHOLDS.start(), *WatchdogBuilder::THRESHOLDS.end());
    let nano = Duration::from_nanos(1);
    for threshold in [Duration::ZERO, nano, least - nano, most + nano, Duration::MAX] {
        let text = start_error(with(threshold));
        let expected = format!("the threshold must be from 100µs to 3600s, not {threshold:?}; 10ms suits a service");
        assert_eq!(text, expected);
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
    drop(with(1).start().unwrap());
    drop(with(WatchdogBuilder::MAX_SITES).start().unwrap());
}

#[test]
fn a_runtime_is_unhealthy_after_some_time_or_never() {
    let with = |limit| Watchdog::builder().log(false).unhealthy_after(limit);
    for limit in [Duration::ZERO, Duration::from_millis(9)] {
        let text = start_error(with(limit));
        assert!(text.contains("unhealthy_after must be at least 10 ms"), "{text}");
    }
    for limit in [Duration::from_millis(10), Duration::MAX] {
        drop(with(limit).start().unwrap());
    }
}

#[test]
fn an_address_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let start = || Watchdog::builder().log(false).listen(addr).start();
    let error = start().expect_err("the address is taken");
    assert_eq!(error.kind(), ErrorKind::AddressInUse);
    assert!(error.to_string().contains(&addr.to_string()) && error.to_string().contains("port 0"), "{error}");
    let source = error.source().and_then(|s| s.downcast_ref::<std::io::Error>()).expect("the system's error");
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    // What a `main` that returns the error prints has the system's reason.
    assert_eq!([format!("{error:#}"), format!("{error:?}")], [(); 2].map(|()| format!("{error}: {source}")));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::AddrInUse);
    drop(taken);
    let watchdog = start().expect("the address is free again");
    assert_eq!(watchdog.local_addr(), Some(addr));
    assert!(Watchdog::builder().log(false).start().unwrap().local_addr().is_none());
}

/// tokio's runtimes panic when they are dropped there, and that of the server has to be dropped.
#[test]
fn an_address_in_use_is_an_error_within_a_runtime() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    for (name, mut builder) in flavours() {
        let start = || Watchdog::builder().log(false).listen(addr).start().map(drop);
        let error = builder.build().unwrap().block_on(async { start() }).expect_err("the address is taken");
        assert_eq!(error.kind(), ErrorKind::AddressInUse, "{name}");
    }
}

#[test]
fn an_invalid_address_is_an_error_at_the_start() {
    for address in ["9464", "127.0.0.1", "127.0.0.1:99999", "no host:80", ""] {
        let error = Watchdog::builder().log(false).listen(address).start().expect_err("the call fails");
        assert_eq!(error.kind(), ErrorKind::InvalidAddress, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("{address:?}")) && text.contains("such as 127.0.0.1:9464"), "{text}");
        assert!(error.source().is_some(), "{error:?}");
    }
    // A documentation address, which is that of no machine.
    let error = Watchdog::builder().log(false).listen("192.0.2.1:0").start().expect_err("the call fails");
    assert_eq!(error.kind(), ErrorKind::CannotListen, "{error:?}");
}

#[test]
fn an_address_is_a_text_a_pair_or_a_socket_address() {
    let serves = |builder: WatchdogBuilder| assert!(builder.log(false).start().unwrap().local_addr().is_some());
    serves(Watchdog::builder().listen("127.0.0.1:0"));
    serves(Watchdog::builder().listen("localhost:0"));
    serves(Watchdog::builder().listen(String::from("127.0.0.1:0")));
    serves(Watchdog::builder().listen(("127.0.0.1", 0)));
    serves(Watchdog::builder().listen(std::net::SocketAddr::from(([127, 0, 0, 1], 0))));
}

#[test]
fn empty_and_taken_names_are_errors() {
    let (watchdog, _) = start(THRESHOLD);
    let build_error = |name: &str| {
        let error = watchdog.build_runtime(name, current_thread()).expect_err("the call fails");
        let (kind, text) = (error.kind(), error.to_string());
        let io_kind = match kind {
            ErrorKind::NameInUse => std::io::ErrorKind::AlreadyExists,
            _ => std::io::ErrorKind::InvalidInput,
        };
        assert_eq!(std::io::Error::from(error).kind(), io_kind);
        (kind, text)
    };
    for name in ["", " ", "\t\n"] {
        let (kind, text) = build_error(name);
        assert!(kind == ErrorKind::InvalidSetting && text.contains("must not be empty"), "{text}");
    }
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    for name in ["main", "other"] {
        let (kind, text) = build_error(name);
        assert_eq!(kind, ErrorKind::NameInUse);
        assert!(text.contains(&format!("{name:?}")) && text.contains("another name"), "{text}");
    }
    let attach = |name| watchdog.attach(name, current_thread().build().unwrap().handle()).unwrap_err().kind();
    assert_eq!([attach("main"), attach("")], [ErrorKind::NameInUse, ErrorKind::InvalidSetting]);
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
            let [current, multi] = flavours();
            let (_, builder) = if (i + round) % 2 == 0 { current } else { multi };
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

/// A `build` that fails releases the name. tokio's `build_local` panics for such a builder.
#[test]
fn a_failed_build_releases_the_name() {
    let (watchdog, _) = start(THRESHOLD);
    let error = watchdog.runtime("main").with_builder(multi_thread(1)).build_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    let text = error.to_string();
    assert!(text.contains("\"main\"") && text.contains("Builder::new_current_thread()"), "{text}");
    let runtime = watchdog.build_runtime("main", multi_thread(1)).expect("the name is free");
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), yields(1));
    runtime.block_on(task).unwrap();
    drop(runtime);
    assert_eq!(polls(&watchdog, "main"), 2);
}

#[test]
fn an_attached_runtime_measures_watched_futures_only() {
    for (name, mut builder) in flavours() {
        let (watchdog, collected) = start(THRESHOLD);
        let runtime = builder.build().unwrap();
        watchdog.attach(name, runtime.handle()).unwrap();
        let again = watchdog.attach("again", runtime.handle()).expect_err("the runtime is watched");
        assert!(
            again.kind() == ErrorKind::AlreadyWatched && again.to_string().contains(&format!("{name:?}")),
            "{again}"
        );
        let coverage = watchdog.coverage();
        assert!(coverage.runtimes.len() == 1 && coverage.runtimes[0].alive && !coverage.runtimes[0].every_task);
        assert!(coverage.to_string().contains("watched futures only"), "{coverage}");
        let hooks = if HOOKS { "yes, but not in attached runtimes" } else { "no" };
        assert!(coverage.to_string().starts_with(&format!("task hooks (tokio_unstable): {hooks}\n")), "{coverage}");
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
        assert!(dead.kind() == ErrorKind::RuntimeShutDown && dead.to_string().contains("shut down"), "{dead}");
        // Neither name is lost.
        let next = current_thread().build().unwrap();
        watchdog.attach("dead", next.handle()).unwrap();
    }
}

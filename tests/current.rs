//! The current watchdog: `current()`, `layer()`, `span_layer()`, `spawn` and `FutureExt::watched`
//! with no watchdog, with several, and with one that comes later.
//!
//! No watchdog of this process is process-wide. The tests of the macros have such ones.

use std::convert::Infallible;
use std::panic::Location;
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use pollwatch::{FutureExt, Phase, Stall, Watchdog};
use test_support::{current_thread, runtime_of, undisturbed, wait_for, wait_until};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};

fn start() -> Watchdog {
    Watchdog::builder().log(false).start().unwrap()
}

fn build(watchdog: &Watchdog) -> Runtime {
    watchdog.build_runtime("main", current_thread()).unwrap()
}

/// Returns whether two handles share one watchdog: a runtime that one attaches is known to the
/// other.
fn is_same(one: &Watchdog, other: &Watchdog) -> bool {
    let runtime = current_thread().build().unwrap();
    let name = format!("{:?}", runtime.handle().id());
    one.attach(&name, runtime.handle()).unwrap();
    other.snapshot().runtimes.iter().any(|runtime| *runtime.name == *name)
}

/// A service of one route, below a layer of the current watchdog.
fn service() -> impl Service<Request<()>, Response = impl Sized, Error = Infallible, Future = impl Future> + Clone {
    let layer = pollwatch::layer().route_by(|_| Some("/hello".into()));
    layer.layer(service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(String::from("hello")))
    }))
}

fn requests(watchdog: &Watchdog) -> u64 {
    let snapshot = watchdog.snapshot();
    let route = snapshot.routes.iter().find(|route| *route.route == *"/hello");
    route.map_or(0, |route| route.requests.iter().map(|requests| requests.count).sum())
}

#[test]
fn without_a_watchdog_everything_passes_unchanged() {
    assert!(pollwatch::current().is_none());
    let runtime = current_thread().build().unwrap();
    runtime.block_on(async {
        assert!(pollwatch::current().is_none());
        assert_eq!(pollwatch::spawn(async { 1 }).await.unwrap(), 1);
        assert_eq!(async { 2 }.watched().await, 2);
        let service = service();
        assert!(service.clone().oneshot(Request::new(())).await.is_ok());
        assert!(service.oneshot(Request::new(())).await.is_ok());
        let panics = pollwatch::spawn(async { panic!("on purpose") });
        assert!(panics.await.unwrap_err().is_panic());
    });
    // Outside of any runtime.
    assert_eq!(futures_executor::block_on(async { 3 }.watched()), 3);
    assert!(futures_executor::block_on(service().oneshot(Request::new(()))).is_ok());
}

#[test]
#[should_panic(expected = "no reactor running")]
fn a_task_cannot_be_spawned_outside_of_a_runtime() {
    drop(pollwatch::spawn(async {}));
}

#[test]
fn the_runtime_decides_which_watchdog_it_is() {
    let watchdogs = [start(), start(), start()];
    let runtimes: Vec<Runtime> = watchdogs[..2].iter().map(build).collect();
    // The thread has polled for the others before, and caches its last answer.
    for _ in 0..3 {
        for (runtime, watchdog) in runtimes.iter().zip(&watchdogs) {
            let current = runtime.block_on(async { pollwatch::current() }).expect("there is one");
            assert!(is_same(&current, watchdog));
            let current = runtime.block_on(runtime.spawn(async { pollwatch::current() })).unwrap();
            assert!(is_same(&current.expect("there is one"), watchdog));
            let _context = runtime.enter();
            assert!(is_same(&pollwatch::current().unwrap(), watchdog));
        }
        assert!(pollwatch::current().is_none(), "outside of their runtimes");
    }
    let attached = current_thread().build().unwrap();
    assert!(attached.block_on(async { pollwatch::current().is_none() }));
    watchdogs[2].attach("attached", attached.handle()).unwrap();
    let current = attached.block_on(async { pollwatch::current() }).expect("since it is attached");
    assert!(is_same(&current, &watchdogs[2]));
}

/// A task for another runtime is counted there, also when a measured poll spawns it.
#[test]
fn the_runtime_that_is_entered_decides_also_within_a_poll() {
    let names = |watchdog: &Watchdog| {
        let snapshot = watchdog.snapshot();
        let names = snapshot.runtimes.iter().map(|runtime| runtime.name.to_string());
        names.filter(|name| name != "other").collect::<Vec<_>>()
    };
    let watchdogs = [start(), start()];
    // The second runtime is built on another thread, so that this one has a single watchdog.
    let second = thread::scope(|scope| scope.spawn(|| build(&watchdogs[1])).join().unwrap());
    let runtimes = [build(&watchdogs[0]), second];
    let unwatched = current_thread().build().unwrap();
    let (found, task) = runtimes[0].block_on(watchdogs[0].watch(async {
        let context = unwatched.enter();
        assert!(pollwatch::current().is_none(), "no watchdog watches it");
        drop(context);
        let context = runtimes[1].enter();
        let within = pollwatch::current().unwrap();
        let task = pollwatch::spawn(async { pollwatch::current().unwrap() });
        drop(context);
        ([pollwatch::current().unwrap(), within], task)
    }));
    assert!(is_same(&found[0], &watchdogs[0]) && is_same(&found[1], &watchdogs[1]));
    assert!(is_same(&runtimes[1].block_on(task).unwrap(), &watchdogs[1]));
    for watchdog in &watchdogs {
        // Those of `is_same` have names of their own.
        assert!(!names(watchdog).iter().any(|name| name.starts_with("runtime-")), "{:?}", names(watchdog));
    }
}

/// A poll outside of any runtime of tokio's has no other watchdog than its own.
#[test]
fn outside_of_runtimes_it_is_the_watchdog_of_the_poll() {
    let watchdog = start();
    let inside = futures_executor::block_on(watchdog.watch(async { pollwatch::current() }));
    assert!(is_same(&inside.expect("it measures the poll"), &watchdog));
    assert!(pollwatch::current().is_none());
}

#[test]
fn spawned_tasks_and_watched_futures_have_the_site_of_the_caller() {
    let watchdog = start();
    let runtime = build(&watchdog);
    let here = Location::caller();
    let (spawned, watched) = runtime.block_on(async {
        let at = format!("{}:{}", here.file(), line!() + 1);
        pollwatch::spawn(async {}).await.unwrap();
        let watched_at = format!("{}:{}", here.file(), line!() + 1);
        async {}.watched().await;
        (at, watched_at)
    });
    // Made outside of the runtime, where no watchdog is current.
    let root_at = format!("{}:{}", here.file(), line!() + 1);
    let root = async { tokio::task::yield_now().await }.watched();
    runtime.block_on(root);
    let sites: Vec<String> = watchdog.snapshot().sites.iter().map(|site| site.site.to_string()).collect();
    for site in [spawned, watched, root_at] {
        assert!(sites.iter().any(|known| known.starts_with(&site)), "{site}: {sites:?}");
    }
}

/// A router in a static outlives the watchdogs of a test process.
#[test]
fn a_layer_finds_each_watchdog_that_starts_later() {
    let service = service();
    let request = |runtime: &Runtime| {
        assert!(runtime.block_on(service.clone().oneshot(Request::new(()))).is_ok());
    };
    request(&current_thread().build().unwrap());
    for _ in 0..2 {
        let watchdog = start();
        let runtime = build(&watchdog);
        (0..3).for_each(|_| request(&runtime));
        assert_eq!(requests(&watchdog), 3);
        watchdog.shutdown();
        request(&runtime);
        assert_eq!(requests(&watchdog), 3, "it was shut down");
        assert!(runtime.block_on(async { pollwatch::current().is_none() }));
    }
}

#[test]
fn a_future_finds_a_watchdog_that_comes_after_its_first_poll() {
    let runtime = current_thread().build().unwrap();
    let watchdog = start();
    let line = line!() + 6;
    let polls = || {
        let snapshot = watchdog.snapshot();
        let site = snapshot.sites.iter().find(|site| site.site.to_string().contains(&format!("current.rs:{line}")));
        site.map_or(0, |site| site.polls)
    };
    let mut future = Box::pin(futures_util::future::poll_fn(|_| std::task::Poll::<()>::Pending).watched());
    let mut poll = || runtime.block_on(async { assert!(futures_util::poll!(future.as_mut()).is_pending()) });
    (0..3).for_each(|_| poll());
    assert_eq!(polls(), 0);
    watchdog.attach("main", runtime.handle()).unwrap();
    (0..3).for_each(|_| poll());
    assert_eq!(polls(), 3);
}

#[test]
fn a_handle_that_was_found_keeps_the_watchdog_running() {
    let watchdog = start();
    let runtime = build(&watchdog);
    let found = runtime.block_on(async { pollwatch::current() }).unwrap();
    drop(watchdog);
    assert!(found.coverage().watching);
    assert!(runtime.block_on(async { pollwatch::current().is_some() }));
    drop(found);
    assert!(runtime.block_on(async { pollwatch::current().is_none() }), "the last handle is gone");
    runtime.block_on(async { async {}.watched().await });
}

/// A thread that caches an answer and exits, while watchdogs come and go.
#[test]
fn watchdogs_come_and_go_while_others_ask() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let askers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        assert!(pollwatch::current().is_none());
                        let runtime = current_thread().build().unwrap();
                        assert!(runtime.block_on(async { pollwatch::current() }).is_none());
                        scope.spawn(|| assert!(pollwatch::current().is_none())).join().unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            let watchdog = start();
            let runtime = build(&watchdog);
            assert!(runtime.block_on(async { pollwatch::current().is_some() }));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    });
}

/// Returns the stall that is ongoing while the caller blocks.
fn ongoing(watchdog: &Watchdog) -> Stall {
    wait_for("a stall", || watchdog.stalls().into_iter().find(|stall| stall.phase != Phase::Resolved))
}

fn wait_resolved(watchdog: &Watchdog) {
    wait_until("their end", || watchdog.stalls().iter().all(|stall| stall.phase == Phase::Resolved));
}

/// Blocks a poll within two spans until its stall is reported, and returns the stall. It is found
/// with fewer spans where the machine delays the thread between its entries.
fn blocked_in_spans(watchdog: &Watchdog, runtime: &Runtime, number: u64) -> Result<Stall, String> {
    let stall = runtime.block_on(watchdog.watch(async {
        let span = tracing::info_span!("request", id = number, rows = tracing::field::Empty);
        let _entered = span.enter();
        span.record("rows", 7);
        let inner = tracing::info_span!("load").entered();
        let stall = ongoing(watchdog);
        drop(inner);
        stall
    }));
    wait_resolved(watchdog);
    if stall.spans.len() < 2 { Err(stall.to_string()) } else { Ok(stall) }
}

#[test]
fn a_span_layer_reports_to_the_watchdog_of_each_runtime() {
    use tracing_subscriber::layer::SubscriberExt;
    let subscriber = tracing_subscriber::registry().with(pollwatch::span_layer());
    tracing::subscriber::with_default(subscriber, || {
        drop(tracing::info_span!("before any watchdog").entered());
        let watchdogs = [start(), start()];
        let runtimes = [build(&watchdogs[0]), build(&watchdogs[1])];
        for (number, (watchdog, runtime)) in watchdogs.iter().zip(&runtimes).enumerate() {
            let stall = undisturbed(|| blocked_in_spans(watchdog, runtime, number as u64));
            let spans: Vec<&str> = stall.spans.iter().map(|span| &**span).collect();
            assert_eq!(spans, [&*format!("request{{id={number} rows=7}}"), "load"], "{stall}");
        }
    });
}

/// The spans are those of the thread that blocks, so they belong to the watchdog that measures it.
#[test]
fn spans_within_another_runtime_belong_to_the_poll() {
    use tracing_subscriber::layer::SubscriberExt;
    let subscriber = tracing_subscriber::registry().with(pollwatch::span_layer());
    tracing::subscriber::with_default(subscriber, || {
        let watchdogs = [start(), start()];
        let runtimes = [build(&watchdogs[0]), build(&watchdogs[1])];
        let blocked = || {
            let stall = runtimes[0].block_on(watchdogs[0].watch(async {
                let _context = runtimes[1].enter();
                let _entered = tracing::info_span!("entered").entered();
                ongoing(&watchdogs[0])
            }));
            wait_resolved(&watchdogs[0]);
            if stall.spans.is_empty() { Err(stall.to_string()) } else { Ok(stall) }
        };
        assert_eq!(undisturbed(blocked).spans.len(), 1);
    });
}

/// The span is entered outside of the runtime, in no watchdog's scope, and left within it.
#[test]
fn a_span_is_exited_where_it_was_entered() {
    use tracing_subscriber::layer::SubscriberExt;
    let subscriber = tracing_subscriber::registry().with(pollwatch::span_layer());
    tracing::subscriber::with_default(subscriber, || {
        let watchdog = start();
        let runtime = build(&watchdog);
        let unknown = tracing::info_span!("outside").entered();
        let context = runtime.enter();
        let known = tracing::info_span!("inside").entered();
        drop(unknown);
        drop(context);
        drop(known);
        let stall = undisturbed(|| blocked_in_spans(&watchdog, &runtime, 1));
        assert_eq!(stall.spans.len(), 2, "{:?}", stall.spans);
    });
}

#[test]
fn a_request_that_blocks_is_reported_by_the_current_watchdog() {
    let watchdog = Watchdog::builder().log(false).threshold(Duration::from_millis(20)).start().unwrap();
    let runtime = build(&watchdog);
    let layer = pollwatch::layer().route_by(|_| Some("/blocks".into()));
    let blocks = service_fn(|_: Request<()>| async {
        let mut response = Response::new(());
        let stall = ongoing(&pollwatch::current().expect("that of the runtime"));
        response.extensions_mut().insert(stall);
        Ok::<_, Infallible>(response)
    });
    let response =
        runtime.block_on(async { tokio::spawn(layer.layer(blocks).oneshot(Request::new(()))).await.unwrap().unwrap() });
    let stall: &Stall = response.extensions().get().expect("the handler has found it");
    assert_eq!(stall.route.as_deref(), Some("/blocks"));
    wait_resolved(&watchdog);
    let snapshot = watchdog.snapshot();
    assert_eq!(runtime_of(&snapshot, "main").blocked_workers, 0);
}

//! When incidents start and end, and when there must be none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use pollwatch::{Action, Incident, IncidentKind, Phase, Watchdog};

use super::fixture::*;
use test_support::*;
use tokio::runtime::Runtime;

fn count_incidents() -> (Arc<AtomicU64>, Action) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let action = Action::call(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (count, action)
}

#[test]
fn an_incident_has_its_stalls_and_threads_and_ends() {
    let (count, action) = count_incidents();
    let blockable = Blockable::new(Watchdog::builder().log(false).on_incident(AFTER, action));
    let (watchdog, gate) = (&blockable.watchdog, Gate::new());
    let start = Instant::now();
    blockable.block(&gate);
    wait_until("the callback is called", || count.load(Ordering::SeqCst) > 0);
    assert!(start.elapsed() >= AFTER);
    let only = |incidents: Vec<Incident>| {
        assert_eq!(incidents.len(), 1, "{incidents:?}");
        incidents.into_iter().next().unwrap()
    };
    let incident = only(watchdog.incidents());
    assert_eq!((incident.id, incident.kind, incident.phase), (1, IncidentKind::WorkersBlocked, Phase::Ongoing));
    assert_eq!(&*incident.runtime, "main");
    assert!(incident.duration >= AFTER && incident.duration <= start.elapsed(), "{incident}");
    assert_eq!(incident.stalls.len(), 2, "{incident}");
    assert!(incident.stalls.iter().all(|stall| stall.phase == Phase::Ongoing));
    assert!(incident.threads.is_some());
    gate.open();
    wait_until("it is over", || only(watchdog.incidents()).phase == Phase::Resolved);
    let of_runtime = runtime_of(&watchdog.snapshot(), "main");
    let blocked = of_runtime.incidents.iter().find(|of_kind| of_kind.kind == IncidentKind::WorkersBlocked).unwrap();
    assert_eq!((blocked.count, blocked.is_ongoing), (1, false));
    assert_eq!(count.load(Ordering::SeqCst), 1, "once in each incident");
}

/// Asserts that a state of `main` becomes one incident of this kind, with one call, and ends when
/// the state does. `start` brings the state about until its result is dropped.
#[track_caller]
fn assert_starts_and_ends<T>(kind: IncidentKind, reason: &str, start: impl FnOnce(&Runtime) -> T) {
    let (called, is_called) = mpsc::channel();
    let action = Action::call(move |incident| called.send((Instant::now(), incident.clone())).unwrap());
    let builder = Watchdog::builder().log(false).rescue_driver(false).threshold(THRESHOLD);
    let builder = builder.blocking_pool_full_after(AFTER).unhealthy_after(AFTER).on_incident(3 * AFTER, action);
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(2).enable_all().max_blocking_threads(2).build().unwrap();
    let addr = watchdog.local_addr().unwrap();
    assert_eq!(get(addr, "/healthz").status, 200);
    let began = Instant::now();
    let state = start(&runtime);
    let of_kind = || {
        let counted = runtime_of(&watchdog.snapshot(), "main").incidents;
        counted.into_iter().find(|of_kind| of_kind.kind == kind).map(|of_kind| (of_kind.count, of_kind.is_ongoing))
    };
    wait_equal("it is counted", &Some((1, true)), of_kind);
    assert!(began.elapsed() >= AFTER);
    let (called_at, incident) = is_called.recv_timeout(TIMEOUT).expect("the callback is called");
    assert!(called_at - began >= 3 * AFTER);
    assert_eq!((incident.id, incident.kind, &*incident.runtime, incident.phase), (1, kind, "main", Phase::Ongoing));
    assert!(incident.reason.contains(reason), "{incident}");
    assert!(incident.duration >= 3 * AFTER && incident.duration <= began.elapsed(), "{incident}");
    assert!(incident.stalls.is_empty(), "no poll blocks: {incident}");
    let unhealthy = get(addr, "/healthz");
    assert_eq!(unhealthy.status, 503);
    assert!(unhealthy.body.contains(reason), "{}", unhealthy.body);
    wait_until("the threads are kept", || watchdog.incidents()[0].threads.is_some());
    drop(state);
    wait_equal("it is over", &Some((1, false)), of_kind);
    wait_until("it is healthy again", || get(addr, "/healthz").status == 200);
    let [incident] = &watchdog.incidents()[..] else { panic!("{:?}", watchdog.incidents()) };
    assert_eq!((incident.id, incident.phase), (1, Phase::Resolved), "{incident}");
    assert!(is_called.try_recv().is_err(), "once in each incident");
}

/// The worker in the driver is blocked by a waker.
#[cfg(target_os = "linux")]
#[test]
fn a_hung_runtime_is_an_incident_until_it_continues() {
    let hang = |runtime: &Runtime| keep_driver(runtime.handle(), Duration::from_millis(50));
    assert_starts_and_ends(IncidentKind::RuntimeHung, "the runtime \"main\" hangs", hang);
}

/// Two calls wait for a reply, and two more calls for a thread.
#[cfg(tokio_unstable)]
#[test]
fn a_full_pool_is_an_incident_until_a_call_ends() {
    let reason = "all 2 threads are busy, and 2 calls wait for one";
    assert_starts_and_ends(IncidentKind::BlockingPoolFull, reason, |runtime| {
        let gate = Gate::new();
        for _ in 0..4 {
            let key = gate.key();
            runtime.spawn_blocking(move || key.pass());
        }
        gate
    });
}

#[test]
fn a_share_of_the_workers_is_enough_where_it_is_set() {
    let (count, action) = count_incidents();
    let blockable = Blockable::new(Watchdog::builder().log(false).blocked_share(0.5).on_incident(AFTER, action));
    let (gate, watchdog) = (Gate::new(), &blockable.watchdog);
    let key = gate.key();
    spawn_measured(watchdog, blockable.runtime.handle(), async move { key.pass() });
    wait_until("the callback is called", || count.load(Ordering::SeqCst) == 1);
    assert!(watchdog.incidents()[0].reason.starts_with("1 of 2 workers of \"main\" are blocked"));
    gate.open();
}

/// One of two workers is blocked, and the other computes without a break in short polls.
#[test]
fn a_busy_runtime_with_a_free_worker_has_no_incident() {
    let (count, action) = count_incidents();
    let blockable = Blockable::new(Watchdog::builder().log(false).on_incident(AFTER, action));
    let (gate, watchdog, handle) = (Gate::new(), &blockable.watchdog, blockable.runtime.handle());
    let key = gate.key();
    spawn_measured(watchdog, handle, async move { key.pass() });
    let is_over = Arc::new(AtomicU64::new(0));
    for _ in 0..4 {
        let is_over = is_over.clone();
        spawn_measured(watchdog, handle, async move {
            while is_over.load(Ordering::SeqCst) == 0 {
                block(Duration::from_millis(1));
                tokio::task::yield_now().await;
            }
        });
    }
    wait_until("one worker is blocked for long", || runtime_of(&watchdog.snapshot(), "main").oldest_stall > 10 * AFTER);
    assert!(watchdog.incidents().is_empty() && count.load(Ordering::SeqCst) == 0);
    is_over.store(1, Ordering::SeqCst);
    gate.open();
}

/// Every worker is handed on by `block_in_place`, and the polls last.
#[test]
fn block_in_place_is_no_incident() {
    let (count, action) = count_incidents();
    let blockable = Blockable::new(Watchdog::builder().log(false).on_incident(AFTER, action));
    let (gate, watchdog, handle) = (Gate::new(), &blockable.watchdog, blockable.runtime.handle());
    for _ in 0..4 {
        let key = gate.key();
        spawn_measured(watchdog, handle, async move { tokio::task::block_in_place(|| key.pass()) });
    }
    wait_until("all have left their workers for long", || {
        let runtime = runtime_of(&watchdog.snapshot(), "main");
        runtime.offworker_polls == 4 && runtime.oldest_offworker_poll > 10 * AFTER
    });
    assert!(watchdog.incidents().is_empty() && count.load(Ordering::SeqCst) == 0);
    gate.open();
}

/// After SIGCONT, polls that were running have lasted as long as the process was stopped.
#[cfg(target_os = "linux")]
#[test]
fn a_stopped_process_has_no_incident() {
    use test_support::sigstop::*;
    if is_child() {
        let (count, action) = count_incidents();
        // Much longer than any poll, and shorter than the stop.
        let builder = Watchdog::builder().log(false).on_incident(Duration::from_secs(1), action);
        let blockable = Blockable::new(builder);
        let is_over = continue_flag();
        for _ in 0..2 {
            let is_over = is_over.clone();
            spawn_measured(&blockable.watchdog, blockable.runtime.handle(), async move {
                while !is_over.load(Ordering::SeqCst) {
                    // Most of the poll is left when the process is continued.
                    (0..50).for_each(|_| std::thread::sleep(Duration::from_millis(5)));
                    tokio::task::yield_now().await;
                }
            });
        }
        wait_until("stalls are found", || blockable.watchdog.stalls().len() > 2);
        println!("ready");
        wait_until("it is continued", || is_over.load(Ordering::SeqCst));
        println!("incidents {}", blockable.watchdog.incidents().len() as u64 + count.load(Ordering::SeqCst));
        return;
    }
    undisturbed(|| {
        let (child, lines) = StoppableChild::start("lifecycle::a_stopped_process_has_no_incident");
        child.stop();
        std::thread::sleep(Duration::from_secs(2));
        let lines = child.finish(lines);
        let incidents = line_with(&lines, "incidents ");
        if incidents == "0" { Ok(()) } else { Err(format!("{incidents} incidents")) }
    });
}

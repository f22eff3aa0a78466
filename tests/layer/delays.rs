//! Requests that wait behind a stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use pollwatch::Watchdog;
use test_support::*;
use tokio::sync::Notify;

use super::client;
use super::fixture::serve;

/// Two requests are woken by another thread while a third one blocks the only worker.
#[test]
fn requests_that_wait_behind_a_stall_are_named_by_their_route() {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).track_delays(true);
    let (watchdog, collected) = start_with(builder.listen("127.0.0.1:0"));
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let fixture = LayerFixture { watchdog, collected, runtime };
    let (notify, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let (gate, entered) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (notified, waits) = (notify.clone(), waiting.clone());
    let ping = move || async move {
        let mut notified = std::pin::pin!(notified.notified());
        notified.as_mut().enable();
        waits.fetch_add(1, Ordering::Release);
        notified.await;
    };
    let (key, enters) = (gate.key(), entered.clone());
    let blocks = move || async move {
        enters.store(true, Ordering::Release);
        key.pass().to_string()
    };
    let app = Router::new().route("/ping", get(ping)).route("/block", get(blocks)).layer(fixture.watchdog.layer());
    let addr = serve(&fixture, app);
    let ask = |path: &'static str| std::thread::spawn(move || client::ask_once(addr, client::get(path)).unwrap());

    let pings = [ask("/ping"), ask("/ping")];
    wait_until("both requests wait", || waiting.load(Ordering::Acquire) == 2);
    let blocked = ask("/block");
    wait_until("the worker is blocked", || entered.load(Ordering::Acquire));
    notify.notify_waiters();
    let waited = block(3 * THRESHOLD);
    gate.open();
    assert_eq!(blocked.join().unwrap().body(), "true");
    pings.into_iter().for_each(|ping| drop(ping.join().unwrap()));

    let stall = wait_for("a stall with its victims", || {
        let has_both = |stall: &pollwatch::Stall| stall.victims.as_ref().is_some_and(|victims| victims.tasks == 2);
        fixture.watchdog.stalls().into_iter().find(has_both)
    });
    assert_eq!(stall.route.as_deref(), Some("/block"), "{stall}");
    let victims = stall.victims.clone().unwrap();
    assert_eq!(victims.groups.len(), 1, "{victims:?}");
    assert_eq!((victims.groups[0].route.as_deref(), victims.groups[0].tasks), (Some("/ping"), 2));
    assert!(victims.waited >= waited, "{victims} for {waited:?} each at least");
    assert!(stall.to_string().contains("\n  2 tasks waited ") && stall.to_string().contains("it: /ping x2"), "{stall}");
    let route = |name: &str| fixture.route(name).unwrap().delay;
    assert!(route("/ping") >= victims.waited, "{:?}", route("/ping"));
    assert!(route("/block") < victims.waited, "{:?}", route("/block"));
    let metrics = fixture.metrics();
    let delay = metrics.get("pollwatch_route_delay_seconds_total", &[("route", "/ping")]);
    assert!(delay >= victims.waited.as_secs_f64());
    assert_eq!(metrics.get("pollwatch_stall_victims_total", &[("runtime", "main")]), 2.0);
    wait_until("a delay of each poll", || {
        let (metrics, main) = (fixture.metrics(), [("runtime", "main")]);
        metrics.get("pollwatch_task_delay_seconds_count", &main) == metrics.get("pollwatch_polls_total", &main)
    });
}

/// A request spawns three tasks at three lines: they are one group, that of the request's route.
#[test]
fn tasks_that_a_route_spawned_at_several_sites_are_one_group() {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).track_delays(true);
    let (watchdog, collected) = start_with(builder);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let fixture = LayerFixture { watchdog, collected, runtime };
    let (notify, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let (notified, waits) = (notify.clone(), waiting.clone());
    let ping = move || async move {
        let wait = || {
            let (notified, waits) = (notified.clone(), waits.clone());
            async move {
                let mut notified = std::pin::pin!(notified.notified());
                notified.as_mut().enable();
                waits.fetch_add(1, Ordering::Release);
                notified.await;
            }
        };
        let handle = tokio::runtime::Handle::current();
        let sites = [spawn_on(&handle, wait()).1, spawn_on(&handle, wait()).1];
        [sites[0].clone(), sites[1].clone(), spawn_on(&handle, wait()).1].join(" ")
    };
    let app = Router::new().route("/ping", get(ping)).layer(fixture.watchdog.layer());
    let addr = serve(&fixture, app);
    let response = client::ask_once(addr, client::get("/ping")).unwrap();
    let sites: std::collections::HashSet<_> = response.body().split(|byte| *byte == b' ').collect();
    assert_eq!(sites.len(), 3, "{sites:?}");
    wait_until("the tasks wait", || waiting.load(Ordering::Acquire) == 3);
    let (gate, (entered, is_entered)) = (Gate::new(), std::sync::mpsc::channel());
    let key = gate.key();
    let (blocked, _) = spawn_on(fixture.runtime.handle(), async move {
        entered.send(()).unwrap();
        key.pass()
    });
    is_entered.recv_timeout(TIMEOUT).unwrap();
    notify.notify_waiters();
    block(3 * THRESHOLD);
    gate.open();
    assert!(fixture.runtime.block_on(blocked).unwrap());

    let victims = wait_for("a stall with its victims", || {
        let stalls = fixture.watchdog.stalls().into_iter();
        stalls.filter_map(|stall| stall.victims).find(|victims| victims.tasks == 3)
    });
    let [group] = &victims.groups[..] else { panic!("one group: {victims:?}") };
    assert_eq!((group.route.as_deref(), group.site, group.tasks), (Some("/ping"), None, 3));
    assert_eq!((group.waited, victims.others), (victims.waited, 0));
    assert!(victims.to_string().ends_with("behind it: /ping x3"), "{victims}");
}

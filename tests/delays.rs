//! Delays of polls, and the tasks that wait behind a stall (`tokio_unstable`, feature `delays`).
#![cfg(all(tokio_unstable, feature = "delays", not(pollwatch_loom)))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::{Stall, Victims, Watchdog};
use test_support::*;
use tokio::sync::oneshot;

/// The difference that two clocks may have over a stall: tokio measures the wait, and pollwatch the
/// stall.
const CLOCKS: Duration = Duration::from_millis(1);

fn start_tracking() -> (Watchdog, CollectedStalls) {
    start_with(Watchdog::builder().threshold(THRESHOLD).log(false).track_delays(true))
}

/// Waits for the stall of a runtime with the victims of all its tasks.
fn stall_with_victims(watchdog: &Watchdog, runtime: &str, tasks: u64) -> (Stall, Victims) {
    wait_for("a stall with its victims", || {
        let stalls = watchdog.stalls().into_iter().filter(|stall| &*stall.runtime == runtime);
        let mut stalls = stalls.filter_map(|stall| Some((stall.clone(), stall.victims?)));
        stalls.find(|(_, victims)| victims.tasks >= tasks)
    })
}

/// A task that waits for a message, and the moment at which it got it.
struct Receiver {
    sender: oneshot::Sender<Instant>,
    waited: tokio::task::JoinHandle<Duration>,
    site: String,
}

/// Spawns a task that returns how long the message took, and waits until it waits.
#[track_caller]
fn spawn_receiver(handle: &tokio::runtime::Handle) -> Receiver {
    let (sender, receiver) = oneshot::channel::<Instant>();
    let is_waiting = Arc::new(AtomicBool::new(false));
    let waits = is_waiting.clone();
    let receive = async move {
        let mut receiver = receiver;
        std::future::poll_fn(|cx| {
            let polled = std::pin::Pin::new(&mut receiver).poll(cx);
            waits.store(true, Ordering::Release);
            polled
        })
        .await
        .unwrap()
        .elapsed()
    };
    let (waited, site) = spawn_on(handle, receive);
    wait_until("the task waits", || is_waiting.load(Ordering::Acquire));
    Receiver { sender, waited, site }
}

/// A task wakes another one and blocks. The other one stays in the LIFO slot of the worker, from
/// which no idle worker steals.
#[test]
fn a_task_that_the_stalled_task_has_woken_waits_behind_it() {
    let (watchdog, stalls) = start_tracking();
    let runtime = watchdog.build_runtime("main", multi_thread(4)).unwrap();
    let Receiver { sender, waited, site } = spawn_receiver(runtime.handle());
    let blocked = runtime.block_on(async {
        let blocks = tokio::spawn(async move {
            sender.send(Instant::now()).unwrap();
            block(Duration::from_millis(300))
        });
        blocks.await.unwrap()
    });
    let waited = runtime.block_on(waited).unwrap();
    assert!(waited + CLOCKS >= blocked, "the scenario: it waited for {waited:?}, {blocked:?} were blocked");
    let (stall, victims) = stall_with_victims(&watchdog, "main", 1);
    assert_eq!((victims.tasks, victims.others, victims.groups.len()), (1, 0, 1), "{victims:?}");
    assert_eq!((victims.groups[0].site.map(|site| site.to_string()), victims.groups[0].tasks), (Some(site.clone()), 1));
    assert!(victims.waited + CLOCKS >= blocked, "{victims} of {waited:?}");
    assert!(victims.waited <= waited + CLOCKS && victims.waited <= stall.elapsed + CLOCKS, "{victims} of {waited:?}");
    assert_eq!((victims.longest, victims.groups[0].waited), (victims.waited, victims.waited));
    assert!(stall.to_string().contains(&format!("behind it: {site}")), "{stall}");
    // The last report has them, too.
    let reported = stalls.wait_resolved("main");
    assert!(reported.victims.is_some(), "{reported}");
    let of_site = site_of(&watchdog, "main", &site);
    assert!(of_site.delay >= victims.waited && of_site.delay_max >= victims.waited, "{of_site:?}");
    // The hook that ends a poll follows the wake of the join handle.
    let (snapshot, delays) = wait_for("a delay of each poll", || {
        let snapshot = runtime_of(&watchdog.snapshot(), "main");
        let delays = snapshot.delays.clone().expect("delays are tracked");
        (delays.count == snapshot.polls.count).then_some((snapshot, delays))
    });
    // Its serialized form is that of all distributions.
    let serialized = serde_json::to_value(watchdog.snapshot()).unwrap();
    let of_delays = &serialized["runtimes"][0]["delays"];
    assert_eq!(of_delays["count"], delays.count);
    assert!(of_delays["sum_seconds"].as_f64().unwrap() >= delays.sum.as_secs_f64(), "{of_delays}");
    let bounds = serialized["watchdog"]["bucket_bounds_seconds"].as_array().unwrap();
    assert_eq!(of_delays["buckets"].as_array().unwrap().len(), bounds.len());
    assert!(delays.sum >= victims.waited && delays.quantile(1.0) + delays.quantile(1.0) / 16 >= victims.waited);
    assert_eq!((snapshot.victims.tasks, snapshot.victims.waited), (1, victims.waited));
}

/// A hook gets what tokio measures, which a `TaskMeta` has as well.
#[test]
fn a_hook_knows_how_long_its_task_has_waited() {
    let (watchdog, _) = start_tracking();
    let (sender, waits) = std::sync::mpsc::channel();
    let hooks = pollwatch::Hooks::new().on_before_task_poll(move |task| {
        // The receiver may be gone.
        let _ = sender.send((task.id(), task.schedule_latency()));
    });
    let runtime = watchdog.runtime("main").current_thread().hooks(hooks).build().unwrap();
    let waited = Duration::from_millis(20);
    let id = runtime.block_on(async {
        let task = tokio::spawn(async {});
        let id = task.id();
        block(waited);
        task.await.unwrap();
        id
    });
    let of_task = waits.iter().find(|(task, _)| *task == id).expect("the hook was called");
    assert!(of_task.1.is_some_and(|latency| latency + CLOCKS >= waited), "{of_task:?}");
}

/// Tasks that other threads wake while the only worker is blocked.
#[test]
fn tasks_in_the_queue_of_the_stalled_worker_wait_behind_it() {
    const WOKEN: usize = 5;
    let (watchdog, _) = start_tracking();
    for (name, builder) in [("current", current_thread()), ("multi", multi_thread(1))] {
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let driver = std::thread::spawn(move || runtime.block_on(stopped).unwrap());
        let receivers: Vec<Receiver> = (0..WOKEN).map(|_| spawn_receiver(&handle)).collect();
        let site = receivers[0].site.clone();
        let (gate, entered) = (Gate::new(), Arc::new(AtomicBool::new(false)));
        let (key, enters) = (gate.key(), entered.clone());
        let blocks = handle.spawn(async move {
            enters.store(true, Ordering::Release);
            key.pass()
        });
        wait_until("the worker blocks", || entered.load(Ordering::Acquire));
        let mut waits = Vec::new();
        for Receiver { sender, waited, .. } in receivers {
            sender.send(Instant::now()).unwrap();
            waits.push(waited);
        }
        let woken = Instant::now();
        block(3 * THRESHOLD);
        let least = woken.elapsed();
        gate.open();
        let truth: Vec<Duration> = wait_all(&handle, waits);
        assert!(wait_all(&handle, vec![blocks])[0]);
        let (stall, victims) = stall_with_victims(&watchdog, name, WOKEN as u64);
        assert_eq!((victims.tasks, victims.groups[0].tasks), (WOKEN as u64, WOKEN as u64), "{name}: {stall}");
        assert_eq!(victims.groups[0].site.map(|site| site.to_string()), Some(site));
        let all: Duration = truth.iter().sum();
        assert!(victims.waited <= all + CLOCKS, "{name}: {victims}, the tasks measured {truth:?}");
        assert!(victims.waited + CLOCKS >= least * WOKEN as u32, "{name}: {victims}, {least:?} each at least");
        stop.send(()).unwrap();
        driver.join().unwrap();
    }
}

/// Returns what the tasks of another thread's runtime return.
fn wait_all<T: Send + 'static>(handle: &tokio::runtime::Handle, tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    handle.spawn(async move {
        for task in tasks {
            sender.send(task.await.unwrap()).unwrap();
        }
    });
    receiver.iter().collect()
}

#[test]
fn a_task_that_was_woken_after_the_stall_did_not_wait_behind_it() {
    let (watchdog, stalls) = start_tracking();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let receiver = spawn_receiver(runtime.handle());
    runtime.block_on(async { tokio::spawn(async { block(3 * THRESHOLD) }).await }).unwrap();
    receiver.sender.send(Instant::now()).unwrap();
    runtime.block_on(receiver.waited).unwrap();
    reported_so_far(&watchdog, &stalls);
    let victims = |stall: &Stall| stall.victims.as_ref().map(|victims| victims.to_string());
    let of_receiver = watchdog.stalls().iter().filter_map(victims).find(|victims| victims.contains(&receiver.site));
    assert_eq!(of_receiver, None);
}

/// A queue that is full loses delays, and counts them.
#[test]
fn a_flood_of_delays_is_bounded() {
    const WOKEN: u64 = 5_000;
    let (watchdog, _) = start_tracking();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let site = runtime.block_on(async {
        let blocks = tokio::spawn(async {
            let handle = tokio::runtime::Handle::current();
            let tasks: Vec<_> = (0..WOKEN).map(|_| spawn_on(&handle, async {})).collect();
            block(3 * THRESHOLD);
            tasks
        });
        let mut site = String::new();
        for (task, location) in blocks.await.unwrap() {
            task.await.unwrap();
            site = location;
        }
        site
    });
    wait_until("all delays are counted", || site_of(&watchdog, "main", &site).polls == WOKEN);
    let least = 3 * THRESHOLD * WOKEN as u32;
    assert!(site_of(&watchdog, "main", &site).delay >= least, "{:?}", site_of(&watchdog, "main", &site));
    wait_until("each delay is behind the stall, or lost", || {
        let victims = runtime_of(&watchdog.snapshot(), "main").victims.tasks;
        victims > 0 && victims + watchdog.coverage().lost_delays >= WOKEN
    });
}

#[test]
fn nothing_is_tracked_unless_it_was_asked_for() {
    let (watchdog, stalls) = start(THRESHOLD);
    assert!(!watchdog.coverage().delays);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let receiver = spawn_receiver(runtime.handle());
    runtime.block_on(async {
        tokio::spawn(async move {
            receiver.sender.send(Instant::now()).unwrap();
            block(3 * THRESHOLD)
        })
        .await
        .unwrap();
        receiver.waited.await.unwrap();
    });
    reported_so_far(&watchdog, &stalls);
    let snapshot = runtime_of(&watchdog.snapshot(), "main");
    assert_eq!((snapshot.delays.is_none(), snapshot.victims.tasks), (true, 0));
    assert!(stalls.of("main").iter().all(|stall| stall.victims.is_none()));
}

//! Tests that a watchdog leaves no threads and descriptors behind. They count those of the process,
//! so they are a test binary of their own and run one at a time.

#![cfg(target_os = "linux")]

use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use pollwatch::{Stall, Watchdog, WatchdogBuilder};
use test_support::*;

/// The kernel's flag of a thread that has finished all user code.
const PF_EXITING: u32 = 4;

fn serialized() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    lock(&ONE)
}

/// Counts pollwatch's threads in this process. A joined thread is listed for a moment longer, since
/// the kernel announces its end before it removes the thread.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted");
    let stat = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("stat")).ok();
    let runs = |stat: &String| {
        // `TID (NAME) STATE`, five more fields, then the flags.
        let (head, rest) = stat.rsplit_once(") ").expect("a name");
        let flags: u32 = rest.split(' ').nth(6).and_then(|flags| flags.parse().ok()).expect("flags");
        head.contains("(pollwatch") && flags & PF_EXITING == 0
    };
    tasks.filter_map(stat).filter(runs).count()
}

/// Calls `end`, and asserts that pollwatch's threads are joined, except `hanging` ones. Each is
/// waited for for at most two seconds. On a busy machine a thread may end later than that.
#[track_caller]
fn assert_ends(hanging: usize, end: impl FnOnce()) {
    let started = Instant::now();
    end();
    if started.elapsed() < Duration::from_secs(2) * (hanging as u32 + 1) {
        assert_eq!(threads(), hanging, "joined");
    }
    wait_until("the threads end", || threads() == hanging);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}

fn serving() -> WatchdogBuilder {
    Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0")
}

/// A watchdog that has opened what it keeps open, on its own thread.
fn settled() -> Watchdog {
    let watchdog = serving().start().unwrap();
    wait_until("the watchdog runs", || watchdog.snapshot().watchdog.wakeups > 0);
    watchdog
}

#[test]
fn threads_end_with_the_last_handle() {
    let _alone = serialized();
    assert_eq!(threads(), 0);
    let watchdog = serving().start().unwrap();
    let clone = watchdog.clone();
    // A thread sets its name once it runs.
    wait_until("all four run", || threads() == 4);
    drop(watchdog);
    assert_eq!(threads(), 4);
    let runtime = clone.build_runtime("main", multi_thread(2)).unwrap();
    let (watched, collector) = (clone.watch(yields(1)), clone.collector());
    // What is left keeps no thread alive.
    assert_ends(0, || drop(clone));
    runtime.block_on(watched);
    drop((runtime, collector));
}

#[test]
fn threads_end_at_shutdown() {
    let _alone = serialized();
    let watchdog = serving().start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    assert_eq!(get(addr, "/healthz").status, 200);
    assert_ends(0, || watchdog.shutdown());
    assert!(std::net::TcpStream::connect(addr).is_err(), "the port is closed");
    assert_eq!(Watchdog::builder().listen(addr).log(false).start().unwrap().local_addr(), Some(addr));
}

/// The server ends with requests in progress and connections open.
#[test]
fn an_open_connection_does_not_keep_the_server_alive() {
    let _alone = serialized();
    let watchdog = serving().start().unwrap();
    let idle: Vec<_> = (0..5).map(|_| connect(watchdog.local_addr().unwrap())).collect();
    assert_eq!(get(watchdog.local_addr().unwrap(), "/metrics").status, 200);
    assert_ends(0, || within_timeout("a drop", move || drop(watchdog)));
    drop(idle);
}

#[test]
fn the_last_handle_may_be_dropped_inside_the_callback() {
    let _alone = serialized();
    let last: Arc<Mutex<Option<Watchdog>>> = Arc::default();
    let (inside, dropped) = (last.clone(), CollectedStalls::default());
    let keep = dropped.callback();
    let watchdog = serving()
        .on_stall(move |stall: &Stall| {
            let handle = lock(&inside).take();
            if let Some(handle) = handle {
                drop(handle);
                keep(stall);
            }
        })
        .start()
        .unwrap();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let gate = Gate::new();
    let key = gate.key();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { key.pass() });
    *lock(&last) = Some(watchdog);
    dropped.wait(|_| true).expect("the last handle is dropped on the watchdog's own thread");
    wait_until("its threads are gone", || threads() == 0);
    gate.open();
    assert!(runtime.block_on(task).unwrap());
}

#[test]
fn the_last_handle_may_be_dropped_on_a_worker() {
    let _alone = serialized();
    for (name, builder) in flavours() {
        let watchdog = serving().start().unwrap();
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        runtime.block_on(async {
            tokio::spawn(async move { drop(watchdog) }).await.unwrap();
        });
        wait_until("its threads are gone", || threads() == 0);
        let (task, _) = spawn_on(runtime.handle(), yields(5));
        runtime.block_on(task).unwrap();
    }
}

/// The last handle is inside a task of a watched runtime, and is dropped with that runtime.
#[test]
fn the_last_handle_may_be_dropped_with_the_runtime() {
    let _alone = serialized();
    for (name, builder) in flavours() {
        let watchdog = serving().start().unwrap();
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(watchdog);
        });
        within_timeout("a drop", move || drop(runtime));
        wait_until("its threads are gone", || threads() == 0);
    }
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let _alone = serialized();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let before = descriptors();
    for _ in 0..10 {
        assert_ends(0, || {
            assert!(serving().listen(addr).start().is_err_and(|e| e.kind() == pollwatch::ErrorKind::AddressInUse))
        });
    }
    assert_eq!(descriptors(), before);
}

/// A hanging callback is left behind, and its thread ends when it can.
#[test]
fn the_thread_of_a_hanging_callback_ends_later() {
    let _alone = serialized();
    let gate = Gate::new();
    let key = gate.key();
    let (entered, is_entered) = mpsc::channel();
    let hang = move |_: &Stall| {
        let _ = entered.send(());
        key.pass();
    };
    let watchdog = serving().on_stall(hang).start().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { is_entered.recv_timeout(TIMEOUT).expect("the callback hangs") }));
    // The server's thread has ended, this one hangs.
    assert_ends(1, || drop(watchdog));
    gate.open();
    wait_until("the thread ends", || threads() == 0);
}

/// Dozens of runtimes come and go, in any order, and leave no descriptor open.
#[test]
fn descriptors_are_closed() {
    let _alone = serialized();
    let run = |watchdog: &Watchdog, i: usize| {
        let builder = if i.is_multiple_of(2) { multi_thread(2) } else { current_thread() };
        let runtime = watchdog.build_runtime("main", builder).unwrap();
        let (task, _) = spawn_measured(watchdog, runtime.handle(), yields(3));
        runtime.block_on(task).unwrap();
        runtime
    };
    // What is opened once per process is open after the first round.
    drop(run(&settled(), 0));
    let before = descriptors();
    let watchdog = settled();
    let serving_one = descriptors();
    for i in 0..50 {
        drop(run(&watchdog, i));
    }
    assert_eq!(descriptors(), serving_one, "a runtime that is gone holds none");
    assert_eq!(watchdog.coverage().runtimes.len(), 1);
    assert_ends(0, || drop(watchdog));
    assert_eq!(descriptors(), before);
    for i in 0..50 {
        let watchdog = serving().start().unwrap();
        let runtime = run(&watchdog, i);
        assert_eq!(get(watchdog.local_addr().unwrap(), "/metrics").status, 200);
        assert_ends(0, || if i % 3 == 0 { drop((watchdog, runtime)) } else { drop((runtime, watchdog)) });
    }
    assert_eq!(descriptors(), before);
}

/// An attached runtime and one registered by a watched future are released too.
#[test]
fn attached_runtimes_are_released() {
    let _alone = serialized();
    let watchdog = settled();
    let before = descriptors();
    for i in 0..20 {
        let runtime = multi_thread(1).build().unwrap();
        if i % 2 == 0 {
            watchdog.attach("main", runtime.handle()).unwrap();
        }
        runtime.block_on(watchdog.watch(yields(1)));
        drop(runtime);
    }
    assert_eq!(descriptors(), before);
}

//! Tests of thread dumps. They dump all threads of this process, and run one after the other.

#![cfg(target_os = "linux")]

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pollwatch::{ThreadActivity, ThreadDump, ThreadGroup, ThreadRole, Watchdog};

use test_support::*;

/// True where the stacks of threads that wait are captured without their help.
const HAS_STACKS: bool =
    cfg!(all(feature = "capture", target_os = "linux", target_env = "gnu", target_arch = "x86_64"));

fn serialized() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    lock(&ONE)
}

fn quiet() -> Watchdog {
    Watchdog::builder().log(false).start().unwrap()
}

/// Takes dumps until one satisfies the condition.
fn wait_for_dump(watchdog: &Watchdog, expected: &str, is_it: impl Fn(&ThreadDump) -> bool) -> ThreadDump {
    let (start, mut last) = (Instant::now(), String::new());
    loop {
        let dump = watchdog.threads();
        if is_it(&dump) {
            return dump;
        }
        if start.elapsed() > Duration::from_secs(60) {
            last = dump.to_string();
        }
        assert!(last.is_empty(), "{expected}: {last}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_pool(group: &ThreadGroup) -> bool {
    matches!(group.role, ThreadRole::BlockingPool { .. })
}

fn is_worker(group: &ThreadGroup) -> bool {
    matches!(group.role, ThreadRole::Worker { .. })
}

fn has_function(group: &ThreadGroup, name: &str) -> bool {
    group.stack.as_ref().is_some_and(|stack| stack.frames().iter().any(|frame| frame.name().contains(name)))
}

#[inline(never)]
fn waits_in_the_pool(gate: &Key) -> bool {
    std::hint::black_box(gate.pass())
}

#[inline(never)]
fn waits_in_a_poll(gate: &Key) -> bool {
    std::hint::black_box(gate.pass())
}

#[test]
fn threads_are_grouped_by_role_and_stack() {
    let _one = serialized();
    let watchdog = quiet();
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let _other = watchdog.build_runtime("other runtime", multi_thread(1)).unwrap();
    let gate = Gate::new();
    let blocked: Vec<_> = (0..3)
        .map(|_| {
            let key = gate.key();
            runtime.spawn_blocking(move || waits_in_the_pool(&key))
        })
        .collect();
    let key = gate.key();
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { waits_in_a_poll(&key) });
    let dump = wait_for_dump(&watchdog, "a dump with all of them", |dump| {
        let pool = dump.groups.iter().any(|group| group.count == 3 && has_function(group, "waits_in_the_pool"));
        let is_measured = |group: &ThreadGroup| group.count == 1 && group.threads[0].poll.is_some();
        let poll = dump.groups.iter().any(|group| is_measured(group) && has_function(group, "waits_in_a_poll"));
        // A worker that is just about to wait for events computes, and is listed first.
        let is_settled = |group: &ThreadGroup| !is_worker(group) || group.activity == ThreadActivity::Waiting;
        !HAS_STACKS || pool && poll && dump.groups.iter().all(is_settled)
    });
    println!("{dump}");
    let listed = |group: &ThreadGroup| group.threads.len() == group.count.min(16);
    assert!(dump.groups.iter().all(listed), "{dump}");
    assert_eq!(dump.groups.iter().map(|group| group.count).sum::<usize>(), dump.threads);
    assert!(dump.groups.iter().any(|group| group.role == ThreadRole::Pollwatch));
    if HAS_STACKS {
        let pool = dump.groups.iter().find(|group| has_function(group, "waits_in_the_pool")).unwrap();
        let ThreadRole::BlockingPool { runtime, .. } = &pool.role else { panic!("{dump}") };
        assert_eq!(runtime.as_deref(), Some("main"), "{dump}");
        assert!(is_pool(pool) && !pool.is_idle && pool.activity == ThreadActivity::Waiting, "{dump}");
        assert_eq!(pool.syscall.as_ref().map(|syscall| &*syscall.name), Some("futex"));
        let worker = &dump.groups[0];
        assert!(is_worker(worker) && has_function(worker, "waits_in_a_poll"), "{dump}");
        let info = &worker.threads[0];
        let ThreadRole::Worker { runtime, index, .. } = &info.role else { panic!("{dump}") };
        // In stable mode the index is known from the first park on.
        assert!(index.map_or(cfg!(not(tokio_unstable)), |index| index < 2), "{dump}");
        assert_eq!(runtime.as_deref(), Some("main"), "{dump}");
        assert_eq!(info.site.map(|site| site.to_string()), Some(location));
        assert!(info.poll.is_some(), "{dump}");
        let position = |wanted: &dyn Fn(&ThreadGroup) -> bool| dump.groups.iter().position(wanted);
        let own = position(&|group| group.role == ThreadRole::Pollwatch).unwrap();
        let idle = position(&|group| group.is_idle && is_worker(group)).expect("the other worker");
        assert!(position(&is_pool).unwrap() < idle && idle < own, "{dump}");
        // The threads have not run since the first dump, so the next one knows for how long.
        let later = wait_for_dump(&watchdog, "a later dump", |later| {
            let pool = later.groups.iter().find(|group| has_function(group, "waits_in_the_pool"));
            pool.is_some_and(|group| group.waits_at_least.is_some())
        });
        assert!(later.taken_at > dump.taken_at);
    }
    gate.open();
    runtime.block_on(async {
        for task in blocked {
            assert!(task.await.unwrap());
        }
        assert!(task.await.unwrap());
    });
}

#[inline(never)]
fn computes_in_the_pool(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// A thread of the pool that never waits is known as such, and has a stack.
#[test]
fn a_call_that_computes_has_a_stack() {
    let _one = serialized();
    let watchdog = quiet();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let task = runtime.spawn_blocking({
        let stop = stop.clone();
        move || computes_in_the_pool(&stop)
    });
    let dump = wait_for_dump(&watchdog, "the thread that computes", |dump| {
        let is_it = |group: &ThreadGroup| is_pool(group) && group.activity == ThreadActivity::Running;
        dump.groups.iter().any(|group| is_it(group) && (!HAS_STACKS || has_function(group, "computes_in_the_pool")))
    });
    assert!(dump.groups.iter().any(|group| is_pool(group) && group.cpu_share > 0.0), "{dump}");
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(task).unwrap();
}

/// Calls `call` until it is stopped, and counts how often it was interrupted.
fn interrupted_calls(stop: &Arc<AtomicBool>, call: impl Fn() -> i32 + Send + 'static) -> JoinHandle<usize> {
    let stop = stop.clone();
    thread::spawn(move || {
        let mut interrupted = 0;
        while !stop.load(Ordering::Relaxed) {
            let result = call();
            let error = std::io::Error::last_os_error();
            interrupted += usize::from(result < 0 && error.kind() == std::io::ErrorKind::Interrupted);
        }
        interrupted
    })
}

/// Threads in calls that a signal would end with `EINTR`, whether or not it restarts others. They
/// wait for most of the time.
#[test]
fn no_call_of_a_thread_that_waits_is_interrupted() {
    let _one = serialized();
    let watchdog = quiet();
    let stop = Arc::new(AtomicBool::new(false));
    let sleep = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let (idle, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    idle.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let fd = idle.as_raw_fd();
    let threads: Vec<_> = (0..4)
        .flat_map(|_| {
            [
                // SAFETY: the timespec is valid, and no remainder is wanted.
                interrupted_calls(&stop, move || unsafe { libc::nanosleep(&sleep, std::ptr::null_mut()) }),
                interrupted_calls(&stop, move || {
                    let mut wanted = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                    // SAFETY: the array has one entry.
                    unsafe { libc::poll(&mut wanted, 1, 20) }
                }),
                interrupted_calls(&stop, move || {
                    let mut byte = 0u8;
                    // SAFETY: the buffer has one byte. The descriptor is open until they end.
                    unsafe { libc::read(fd, (&raw mut byte).cast(), 1) as i32 }
                }),
            ]
        })
        .collect();
    let mut moments = Vec::new();
    while moments.len() < 5 {
        let dump = watchdog.threads();
        assert_eq!(dump.not_reached, 0, "{dump}");
        if !moments.contains(&dump.taken_at) {
            moments.push(dump.taken_at);
        }
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    let interrupted: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(interrupted.iter().all(|&count| count == 0), "{interrupted:?}");
}

/// Threads with small stacks that wait until they are released.
struct ManyThreads {
    gate: Arc<Barrier>,
    threads: Vec<JoinHandle<()>>,
}

impl ManyThreads {
    /// Starts as many threads as the machine allows, `wanted` at most.
    fn start(wanted: usize) -> ManyThreads {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        STARTED.store(0, Ordering::Relaxed);
        let stop = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        let gate = Arc::new(Barrier::new(2));
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for _ in 0..wanted {
            let stop = stop.clone();
            let wait = move || {
                STARTED.fetch_add(1, Ordering::Relaxed);
                let (stop, changed) = &*stop;
                let mut stopped = lock(stop);
                while !*stopped {
                    stopped = changed.wait(stopped).unwrap();
                }
            };
            match thread::Builder::new().stack_size(64 << 10).spawn(wait) {
                Ok(thread) => threads.push(thread),
                Err(_) => break,
            }
        }
        let count = threads.len();
        wait_until("all have started", || STARTED.load(Ordering::Relaxed) == count);
        let release = gate.clone();
        threads.push(thread::spawn(move || {
            release.wait();
            *lock(&stop.0) = true;
            stop.1.notify_all();
        }));
        ManyThreads { gate, threads }
    }

    fn len(&self) -> usize {
        self.threads.len()
    }

    fn end(self) {
        self.gate.wait();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// The documented limits, 600 ms for the readings and 2.5 s for the call, with a margin.
const MAX_TOOK: Duration = Duration::from_secs(1);
const MAX_ANSWERED: Duration = Duration::from_secs(3);

/// Returns a dump, and how long the call took.
fn timed_dump(watchdog: &Watchdog) -> (ThreadDump, Duration) {
    let start = Instant::now();
    (watchdog.threads(), start.elapsed())
}

/// Stalls are found while thousands of threads are read, and the dump is bounded in time and size.
#[test]
fn thousands_of_threads_are_dumped_within_the_limits() {
    let _one = serialized();
    let collected = CollectedStalls::default();
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).on_stall(collected.callback());
    let watchdog = builder.start().unwrap();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let many = ManyThreads::start(4_000);
    println!("{} threads", many.len());
    let dumped = watchdog.clone();
    let dumping = thread::spawn(move || timed_dump(&dumped));
    let observer = collected.clone();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { observer.wait_ongoing("main").is_some() });
    assert!(runtime.block_on(task).unwrap(), "found while the threads are read");
    let mut first = Some(dumping.join().unwrap());
    let dump = undisturbed(|| {
        let (dump, answered) = first.take().unwrap_or_else(|| timed_dump(&watchdog));
        let times = format!("read in {:?}, answered in {answered:?}, {} not reached", dump.took, dump.not_reached);
        if dump.took > MAX_TOOK || answered > MAX_ANSWERED {
            thread::sleep(Duration::from_millis(200)); // The same dump is returned for some time.
            return Err(times);
        }
        Ok(dump)
    });
    assert!(dump.threads >= many.len(), "{} of {}", dump.threads, many.len());
    assert_eq!(dump.groups.iter().map(|group| group.count).sum::<usize>() + dump.in_omitted_groups, dump.threads);
    assert!(dump.groups.len() <= 256 && dump.groups.iter().all(|group| group.threads.len() <= 16));
    assert!(dump.to_string().len() < 4 << 20);
    if HAS_STACKS {
        let largest = dump.groups.iter().filter(|group| group.stack.is_some()).map(|group| group.count).max();
        assert!(largest.is_some_and(|count| count >= dump.with_stack / 2), "they are one group: {largest:?}");
        // What was read once is not read again, so that a later dump reaches all of them.
        let all = wait_for_dump(&watchdog, "all are reached", |dump| dump.not_reached == 0);
        let largest = all.groups.iter().map(|group| group.count).max();
        assert!(largest.is_some_and(|count| count >= many.len() - 1), "{largest:?}");
    }
    many.end();
}

#[test]
fn threads_that_come_and_go_are_no_error() {
    let _one = serialized();
    let watchdog = quiet();
    let stop = Arc::new(AtomicBool::new(false));
    let spawners: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let threads: Vec<_> = (0..20).map(|_| thread::spawn(thread::yield_now)).collect();
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                }
            })
        })
        .collect();
    let first = watchdog.threads().taken_at;
    let later = wait_for_dump(&watchdog, "three dumps later", |dump| {
        assert_eq!(dump.groups.iter().map(|group| group.count).sum::<usize>(), dump.threads);
        dump.taken_at.duration_since(first).is_ok_and(|passed| passed > Duration::from_secs(3))
    });
    assert!(later.threads > 0);
    stop.store(true, Ordering::Relaxed);
    spawners.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Many callers at a time get the same dumps.
#[test]
fn a_flood_of_requests_gets_few_dumps() {
    let _one = serialized();
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    let start = Instant::now();
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let watchdog = watchdog.clone();
            thread::spawn(move || {
                (0..20)
                    .map(|_| match n % 2 {
                        0 => watchdog.threads().taken_at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64(),
                        _ => {
                            let reply = get(addr, "/threads?format=json");
                            assert_eq!(reply.status, 200, "{}", reply.body);
                            let dump: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
                            dump["taken_at_unix_seconds"].as_f64().unwrap()
                        }
                    })
                    .collect::<Vec<f64>>()
            })
        })
        .collect();
    let mut moments: Vec<f64> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    let took = start.elapsed();
    moments.sort_by(f64::total_cmp);
    moments.dedup_by(|a, b| (*a - *b).abs() < 1e-3);
    // A dump is returned again for a second at least, unless it lacks the names of functions: such
    // a dump is returned once it has taken 2.5 s.
    assert!(moments.len() as f64 <= 2.0 + took.as_secs_f64(), "{} dumps in {took:?}", moments.len());
    assert_eq!(get(addr, "/metrics").status, 200);
}

#[test]
fn threads_have_states_without_stacks() {
    let _one = serialized();
    let watchdog = Watchdog::builder().log(false).capture_stacks(false).start().unwrap();
    let dump = watchdog.threads();
    assert!(dump.with_stack == 0 && dump.threads > 2, "{dump}");
    assert!(dump.groups.iter().all(|group| group.stack.is_none() && group.stack_missing.is_some()), "{dump}");
    assert!(dump.groups.iter().any(|group| group.activity == ThreadActivity::Waiting), "{dump}");
    let why = dump.stacks_missing.as_deref().unwrap_or_default();
    let expected = if cfg!(feature = "capture") { "switched off" } else { "not compiled" };
    assert!(why.contains(expected), "{why}");
    assert!(dump.to_string().contains(&format!("stacks are missing: {why}")), "{dump}");
}

/// A watchdog that was shut down still answers, and waits for a dump that is being taken.
#[test]
fn a_dump_survives_the_shutdown() {
    let _one = serialized();
    let watchdog = quiet();
    let dumping = thread::spawn({
        let watchdog = watchdog.clone();
        move || watchdog.threads()
    });
    watchdog.shutdown();
    assert!(dumping.join().unwrap().threads > 0);
    assert!(watchdog.threads().threads > 0);
}

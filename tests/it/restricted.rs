//! Tests of processes that may see little of themselves, or that have very many threads: what
//! cannot be done is said once, with the reason and the remedy, and the rest works as before.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use pollwatch::{Cause, StackCoverage, Stall, Watchdog};
use tokio::runtime::Runtime;

use test_support::*;

/// A user without rights.
const NOBODY: u32 = 65_534;

fn passes(command: &mut Command) {
    let output = command.output().expect("a child starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}\n{errors}");
}

/// Gives up the rights of root, if this process has them.
fn become_nobody() {
    // SAFETY: integers. glibc changes the user of all threads.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
            assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
            assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
        }
    }
}

fn set_dumpable(dumpable: bool) {
    // SAFETY: integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) }, 0);
}

/// Blocks the worker in polls of their own until `find` finds a stall.
fn block_until_reported(
    watchdog: &Watchdog,
    runtime: &Runtime,
    block: fn(),
    find: impl Fn() -> Option<Stall> + Send + 'static,
) -> Stall {
    let (task, _) = spawn_measured(watchdog, runtime.handle(), async move {
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            block();
            if let Some(stall) = find() {
                return Some(stall);
            }
            yield_once().await;
        }
        None
    });
    runtime.block_on(task).unwrap().expect("a stall is reported as expected")
}

fn computes() {
    let start = Instant::now();
    while start.elapsed() < THRESHOLD * 2 {
        std::hint::spin_loop();
    }
}

fn sleeps() {
    thread::sleep(THRESHOLD * 2);
}

fn locks() {
    let mutex = Arc::new(Mutex::new(()));
    let held = mutex.clone();
    let (send, receive) = std::sync::mpsc::channel();
    let holder = thread::spawn(move || {
        let guard = lock(&held);
        send.send(()).unwrap();
        thread::sleep(THRESHOLD * 2);
        drop(guard);
    });
    receive.recv().unwrap();
    drop(lock(&mutex));
    holder.join().unwrap();
}

/// The text that `tracing` has written.
#[derive(Clone, Default)]
struct LogText(Arc<Mutex<Vec<u8>>>);

impl LogText {
    fn start() -> LogText {
        let log = LogText::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    fn count(&self, words: &str) -> usize {
        String::from_utf8(lock(&self.0).clone()).unwrap().matches(words).count()
    }
}

impl Write for LogText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Checks that running threads have stacks and waiting ones have none, and that the coverage and
/// one line of the log say why.
fn check_running_threads_only(watchdog: &Watchdog, collected: &CollectedStalls, log: &LogText) {
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let find = |collected: &CollectedStalls, wanted: fn(&Stall) -> bool| {
        let collected = collected.clone();
        move || collected.of("main").into_iter().find(wanted)
    };
    // The kernel's function in which it sleeps can be read nevertheless.
    let sleeping = find(collected, |stall| stall.cause == Cause::Syscall);
    let sleeping = block_until_reported(watchdog, &runtime, sleeps, sleeping);
    let function = sleeping.syscall.as_ref().map(|syscall| syscall.name.to_string());
    assert!(function.as_ref().is_some_and(|name| name.contains("nanosleep")), "{sleeping}");
    assert!(sleeping.stack.is_none() && sleeping.reason == "a sleep", "{sleeping}");
    let locking = block_until_reported(watchdog, &runtime, locks, find(collected, |stall| stall.cause == Cause::Lock));
    assert!(locking.stack.is_none() && locking.reason == "a lock", "{locking}");
    let computing = find(collected, |stall| stall.cause == Cause::Cpu && stall.stack.is_some());
    block_until_reported(watchdog, &runtime, computes, computing);
    let StackCoverage::RunningThreadsOnly(why) = watchdog.coverage().stacks else { panic!("{}", watchdog.coverage()) };
    assert!(why.contains("not dumpable") && why.contains("prctl(PR_SET_DUMPABLE, 1)"), "{why}");
    assert!(watchdog.coverage().to_string().contains(why), "{}", watchdog.coverage());
    let captures = watchdog.snapshot().watchdog.captures;
    assert!(captures.iter().any(|of| of.outcome.as_str() == "unavailable" && of.count > 0), "{captures:?}");
    wait_until("the reason is logged", || log.count(why) > 0);
    watchdog.shutdown();
    assert_eq!(log.count(why), 1);
}

/// The kernel hides what a thread waits for from a process that may not be dumped, such as one with
/// file capabilities or one that was root.
#[test]
fn a_process_that_is_not_dumpable_is_told_so() {
    if !is_child() {
        return passes(&mut rerun("restricted::a_process_that_is_not_dumpable_is_told_so"));
    }
    become_nobody();
    set_dumpable(false);
    if File::open("/proc/thread-self/syscall").is_ok() {
        return skipped("this user may read it nevertheless");
    }
    let log = LogText::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let stacks = watchdog.coverage().stacks;
    assert!(matches!(stacks, StackCoverage::RunningThreadsOnly(_)), "{stacks}");
    check_running_threads_only(&watchdog, &collected, &log);
}

/// As above, when that changes while the watchdog runs.
#[test]
fn a_process_that_is_no_longer_dumpable_is_told_so() {
    if !is_child() {
        return passes(&mut rerun("restricted::a_process_that_is_no_longer_dumpable_is_told_so"));
    }
    become_nobody();
    set_dumpable(true);
    let log = LogText::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
    set_dumpable(false);
    if File::open("/proc/thread-self/syscall").is_ok() {
        return skipped("this user may read it nevertheless");
    }
    check_running_threads_only(&watchdog, &collected, &log);
}

/// `hidepid` hides other users' processes, not this one.
#[test]
fn hidden_processes_see_themselves() {
    if is_child() {
        become_nobody();
        set_dumpable(true);
        assert!(!std::path::Path::new("/proc/1").exists(), "the process of root is hidden");
        let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
        assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let find = move || collected.of("main").into_iter().find(|s| s.cause == Cause::Syscall && s.stack.is_some());
        let stall = block_until_reported(&watchdog, &runtime, sleeps, find);
        return assert_eq!(stall.reason, "a sleep", "{stall}");
    }
    let mount = || {
        let none = std::ptr::null();
        let options = c"hidepid=2".as_ptr().cast();
        // SAFETY: system calls with C strings that outlive them; nothing is allocated between fork
        // and exec.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, options) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let mut child = rerun("restricted::hidden_processes_see_themselves");
    // SAFETY: the closure only makes system calls.
    unsafe {
        if let Err(error) = Command::new("true").pre_exec(mount).status() {
            return skipped(&format!("cannot give a child another /proc: {error}"));
        }
        child.pre_exec(mount);
    }
    passes(&mut child);
}

/// The number of threads, as far as this machine allows them.
const THREADS: usize = 10_000;
/// The number of threads that are measured.
const MEASURED: usize = 4_096;
/// The stack of each thread.
const STACK: usize = 128 << 10;

/// A stall is found and captured among very many threads. Those that cannot be measured are
/// counted, and logged once.
#[test]
fn very_many_threads() {
    if !is_child() {
        return passes(&mut rerun("restricted::very_many_threads"));
    }
    let log = LogText::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    runtime.block_on(spawn_on(runtime.handle(), async {}).0).unwrap();
    let before = watchdog.coverage().measured_threads;
    let end = Arc::new(Mutex::new(()));
    let held = lock(&end);
    let mut threads = Vec::new();
    for _ in 0..THREADS {
        let (watchdog, end) = (watchdog.clone(), end.clone());
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            let mut future = Box::pin(watchdog.watch(async {}));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_ready());
            drop(end.lock());
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(_) => break,
        }
    }
    println!("{} threads", threads.len());
    let refused = (before + threads.len()).saturating_sub(MEASURED) as u64;
    if refused == 0 {
        return skipped("too few threads are allowed here");
    }
    wait_equal("the threads that are not measured", &refused, || watchdog.coverage().unmeasured_threads);
    assert_eq!(watchdog.coverage().measured_threads, MEASURED);
    assert!(watchdog.coverage().to_string().contains(&format!("threads not measured: {refused}")));
    let find = move || collected.of("main").into_iter().find(|s| s.cause == Cause::Syscall && s.stack.is_some());
    block_until_reported(&watchdog, &runtime, sleeps, find);
    wait_until("the unmeasured threads are logged", || log.count("threads are not measured") > 0);
    drop(held);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    wait_until("threads that end make room", || watchdog.coverage().measured_threads <= before);
    watchdog.shutdown();
    assert_eq!(log.count("threads are not measured"), 1);
}

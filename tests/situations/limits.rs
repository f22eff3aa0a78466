//! Restricted processes, in which stacks cannot be captured and everything else is reported. Each
//! test runs a child process.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pollwatch::{Cause, StackCoverage, Watchdog};

use crate::children::private_mounts;
use crate::fixture::{EARLY, Expected, Situation, check};
use test_support::*;

/// Runs a test of this binary as a child, which has to pass.
fn passes(command: &mut Command) {
    let output = command.output().expect("a child starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}\n{errors}");
}

/// Makes the kernel deny a system call to this thread and to those that it starts from now on.
/// Returns false where that is not possible.
fn deny(call: libc::c_long) -> bool {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        // The number of the call is the first field of the filter's input.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, errno),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: integers, and a filter that lives during the call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    }
}

#[inline(never)]
fn waits(gate: &Mutex<()>) {
    drop(gate.lock()); // blocks here
    std::hint::black_box(());
}

fn waits_for_a_lock() {
    let (reason, advice, function) = ("a Mutex", "tokio::sync::Mutex", "limits::waits");
    check(Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }, || {
        let gate = crate::fixture::leak(Mutex::new(()));
        let held = gate.lock().unwrap();
        Situation::new(|| waits(gate), || drop(held))
    });
}

/// Without the call, memory is read through a file.
#[test]
fn stacks_are_taken_without_process_vm_readv() {
    if !is_child() {
        return passes(&mut rerun("limits::stacks_are_taken_without_process_vm_readv"));
    }
    if !deny(libc::SYS_process_vm_readv) {
        return skipped("no seccomp filter here");
    }
    let mut byte = [1u8];
    let part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: one byte is copied onto itself.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &part, 1, &part, 1, 0) };
    assert_eq!(copied, -1, "the call is not permitted");
    waits_for_a_lock();
    let (watchdog, _) = start(THRESHOLD);
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
}

/// Runs a computing task until its stall is reported. Returns `None` when it never is.
fn compute_until_reported(
    watchdog: &Watchdog,
    runtime: &tokio::runtime::Runtime,
    collected: &CollectedStalls,
) -> Option<pollwatch::Stall> {
    let observer = collected.clone();
    let find = move || observer.of("main").into_iter().find(|stall| stall.cause == Cause::Cpu);
    let busy = async move {
        let started = std::time::Instant::now();
        while find().is_none() && started.elapsed() < TIMEOUT {
            // Each attempt is a poll of its own: on a busy machine it may be starved.
            let part = std::time::Instant::now();
            while part.elapsed() < THRESHOLD * 3 / 2 {}
            yield_once().await;
        }
        find()
    };
    let (task, _) = spawn_measured(watchdog, runtime.handle(), busy);
    runtime.block_on(task).unwrap()
}

/// Without signals, a waiting thread is read as before, and a computing one is reported without its
/// stack.
#[test]
fn waiting_threads_have_stacks_without_signals() {
    if !is_child() {
        return passes(&mut rerun("limits::waiting_threads_have_stacks_without_signals"));
    }
    if !deny(libc::SYS_tgkill) {
        return skipped("no seccomp filter here");
    }
    let log = Log::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(EARLY));
    let stacks = watchdog.coverage().stacks;
    let StackCoverage::WaitingThreadsOnly(why) = stacks else { panic!("{stacks}") };
    assert!(why.contains("tgkill") && stacks.to_string().contains(why), "{stacks}");
    assert_eq!(log.text().matches("of threads that compute are reported without stacks").count(), 1, "{}", log.text());
    waits_for_a_lock();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let computing = compute_until_reported(&watchdog, &runtime, &collected).expect("the CPU's clock needs no signals");
    assert!(computing.stack.is_none() && computing.advice.is_some(), "{computing}");
}

/// A worker blocks the signal, since it inherits the mask of a program that waits for signals on a
/// thread of its own. The watchdog detects that.
#[test]
fn a_blocked_signal_is_detected() {
    if !is_child() {
        return passes(&mut rerun("limits::a_blocked_signal_is_detected"));
    }
    let log = Log::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(EARLY));
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
    // SAFETY: the set is initialized before it is read. Threads started from here on inherit the
    // mask.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGURG);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
    }
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    wait_until("the stall is found out", || {
        let busy = async {
            let started = std::time::Instant::now();
            while started.elapsed() < THRESHOLD * 3 {}
        };
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), busy);
        runtime.block_on(task).unwrap();
        watchdog.coverage().stacks != StackCoverage::Taken
    });
    let why = match watchdog.coverage().stacks {
        StackCoverage::WaitingThreadsOnly(why) | StackCoverage::Unavailable(why) => why,
        other => panic!("{other}"),
    };
    assert!(why.contains("block SIGURG"), "{why}");
    wait_until("the growth is logged", || log.text().contains(why));
    let computing = compute_until_reported(&watchdog, &runtime, &collected).expect("the CPU's clock needs no signals");
    assert!(computing.stack.is_none() && computing.advice.is_some(), "{computing}");
    watchdog.shutdown();
    assert_eq!(log.text().matches(why).count(), 1, "{}", log.text());
}

/// The text that `tracing` has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> Log {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn stalls_are_reported_without_procfs() {
    if !is_child() {
        let mut child = rerun("limits::stalls_are_reported_without_procfs");
        return match private_mounts(&mut child, None, c"/proc", c"tmpfs") {
            Ok(()) => passes(&mut child),
            Err(error) => skipped(&format!("cannot give a child an empty /proc: {error}")),
        };
    }
    assert!(std::fs::read_dir("/proc").unwrap().next().is_none(), "nothing is there");
    let log = Log::start();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(EARLY));
    let StackCoverage::Unavailable(why) = watchdog.coverage().stacks else { panic!("{}", watchdog.coverage()) };
    assert!(why.contains("/proc"), "{why}");
    assert!(watchdog.coverage().to_string().contains(&format!("stacks: unavailable: {why}")));
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let observer = collected.clone();
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { observer.wait_ongoing("main") });
    let stall = runtime.block_on(task).unwrap().expect("the stall is reported while it lasts");
    assert_eq!(stall.site.to_string(), location);
    assert!(stall.stack.is_none() && stall.syscall.is_none(), "{stall}");
    // Without procfs sleeping and starved threads cannot be distinguished.
    assert_eq!((stall.cause, stall.reason), (Cause::Unknown, ""));
    let computing = compute_until_reported(&watchdog, &runtime, &collected).expect("the CPU's clock needs no procfs");
    assert!(computing.stack.is_none(), "{computing}");
    let captures = watchdog.snapshot().watchdog.captures;
    let of = |result| captures.iter().find(|c| c.outcome.as_str() == result).map_or(0, |c| c.count);
    assert!(of("unavailable") > 0 && of("ok") + of("incomplete") == 0, "{captures:?}");
    assert_eq!(log.text().matches("without stacks").count(), 1, "logged once: {}", log.text());
}

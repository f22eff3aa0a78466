//! Processes that may not do everything: what stacks need is missing, and everything else is told. Each in a child.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pollwatch::{Cause, StackCoverage, Watchdog};

use crate::children::private_mounts;
use crate::scene::{EARLY, Expected, Situation, check};
use crate::support::*;

/// Runs a test of this binary as a child, which has to pass.
fn passes(command: &mut Command) {
    let output = command.output().expect("a child starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{errors}");
}

/// From here on, this thread and those that it starts are refused a system call. Tells whether that could be arranged.
fn refuse(call: libc::c_long) -> bool {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        // The number is the first field of what a filter is given.
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
        let gate = crate::scene::leak(Mutex::new(()));
        let held = gate.lock().unwrap();
        Situation::new(|| waits(gate), || drop(held))
    });
}

/// Then memory is read through a file.
#[test]
fn without_process_vm_readv() {
    if !is_child() {
        return passes(&mut again("limits::without_process_vm_readv"));
    }
    if !refuse(libc::SYS_process_vm_readv) {
        return eprintln!("skipped: no seccomp filter here");
    }
    let mut byte = [1u8];
    let part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: one byte onto itself.
    assert_eq!(unsafe { libc::process_vm_readv(libc::getpid(), &part, 1, &part, 1, 0) }, -1, "it is refused");
    waits_for_a_lock();
    let (watchdog, _) = start(THRESHOLD);
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
}

/// Has a task compute until that is told; `None` when it never is.
fn computes_until_told(
    watchdog: &Watchdog,
    runtime: &tokio::runtime::Runtime,
    told: &Told,
) -> Option<pollwatch::Stall> {
    let heard = told.clone();
    let find = move || heard.of("main").into_iter().find(|stall| stall.cause == Cause::Cpu);
    let busy = async move {
        let begin = std::time::Instant::now();
        while find().is_none() && begin.elapsed() < PATIENCE {
            // A poll of its own each time: on a busy machine it may be starved.
            let part = std::time::Instant::now();
            while part.elapsed() < THRESHOLD * 3 / 2 {}
            yield_once().await;
        }
        find()
    };
    let (task, _) = spawn_seen(watchdog, runtime.handle(), busy);
    runtime.block_on(task).unwrap()
}

/// Then a thread that waits is read as ever, and one that computes is told without its stack.
#[test]
fn without_signals() {
    if !is_child() {
        return passes(&mut again("limits::without_signals"));
    }
    if !refuse(libc::SYS_tgkill) {
        return eprintln!("skipped: no seccomp filter here");
    }
    let log = Log::start();
    let (watchdog, told) = start_with(Watchdog::builder().threshold(EARLY));
    let stacks = watchdog.coverage().stacks;
    let StackCoverage::WaitingThreadsOnly(why) = stacks else {
        return assert!(matches!(stacks, StackCoverage::Unavailable(_)) && cfg!(target_arch = "aarch64"), "{stacks}");
    };
    assert!(why.contains("tgkill") && stacks.to_string().contains(why), "{stacks}");
    assert_eq!(log.text().matches("of threads that compute are reported without stacks").count(), 1, "{}", log.text());
    waits_for_a_lock();
    let runtime = watchdog.build_runtime("main", &mut multi_thread(1)).unwrap();
    let computing = computes_until_told(&watchdog, &runtime, &told).expect("the CPU's clock needs no signals");
    assert!(computing.stack.is_none() && computing.advice.is_some(), "{computing}");
}

/// A worker that blocks the signal (its mask is inherited, as from a program that waits for signals on a thread of its own): that is
/// found out.
#[test]
fn without_an_arriving_signal() {
    if !is_child() {
        return passes(&mut again("limits::without_an_arriving_signal"));
    }
    let log = Log::start();
    let (watchdog, told) = start_with(Watchdog::builder().threshold(EARLY));
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
    // SAFETY: the set is made before it is read; threads that are started from here on have the mask.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGURG);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
    }
    let runtime = watchdog.build_runtime("main", &mut multi_thread(1)).unwrap();
    wait_until("it is found out", || {
        let busy = async {
            let begin = std::time::Instant::now();
            while begin.elapsed() < THRESHOLD * 3 {}
        };
        let (task, _) = spawn_seen(&watchdog, runtime.handle(), busy);
        runtime.block_on(task).unwrap();
        watchdog.coverage().stacks != StackCoverage::Taken
    });
    let why = match watchdog.coverage().stacks {
        StackCoverage::WaitingThreadsOnly(why) | StackCoverage::Unavailable(why) => why,
        other => panic!("{other}"),
    };
    assert!(why.contains("block SIGURG"), "{why}");
    wait_until("it is logged", || log.text().contains(why));
    let computing = computes_until_told(&watchdog, &runtime, &told).expect("the CPU's clock needs no signals");
    assert!(computing.stack.is_none() && computing.advice.is_some(), "{computing}");
    watchdog.shutdown();
    assert_eq!(log.text().matches(why).count(), 1, "{}", log.text());
}

/// What `tracing` was given, as text.
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
fn without_procfs() {
    if !is_child() {
        let mut child = again("limits::without_procfs");
        return match private_mounts(&mut child, None, c"/proc", c"tmpfs") {
            Ok(()) => passes(&mut child),
            Err(error) => eprintln!("skipped: cannot give a child an empty /proc: {error}"),
        };
    }
    assert!(std::fs::read_dir("/proc").unwrap().next().is_none(), "nothing is there");
    let log = Log::start();
    let (watchdog, told) = start_with(Watchdog::builder().threshold(EARLY));
    let StackCoverage::Unavailable(why) = watchdog.coverage().stacks else { panic!("{}", watchdog.coverage()) };
    assert!(why.contains("/proc"), "{why}");
    assert!(watchdog.coverage().to_string().contains(&format!("stacks: not here: {why}")));
    let runtime = watchdog.build_runtime("main", &mut multi_thread(1)).unwrap();
    let heard = told.clone();
    let (task, place) = spawn_seen(&watchdog, runtime.handle(), async move { heard.wait_ongoing("main") });
    let stall = runtime.block_on(task).unwrap().expect("it is told while it lasts");
    assert_eq!(stall.site.to_string(), place);
    assert!(stall.stack.is_none() && stall.syscall.is_none(), "{stall}");
    // Asleep or starved: nobody can tell.
    assert_eq!((stall.cause, stall.reason), (Cause::Unknown, ""));
    let computing = computes_until_told(&watchdog, &runtime, &told).expect("the CPU's clock needs no procfs");
    assert!(computing.stack.is_none(), "{computing}");
    let captures = watchdog.snapshot().watchdog.captures;
    let of = |result| captures.iter().find(|c| c.result == result).map_or(0, |c| c.count);
    assert!(of("unavailable") > 0 && of("ok") + of("incomplete") == 0, "{captures:?}");
    assert_eq!(log.text().matches("without stacks").count(), 1, "said once: {}", log.text());
}

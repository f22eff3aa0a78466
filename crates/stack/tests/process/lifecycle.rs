//! Processes that end, fork, run other programs, or may not be read.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pollwatch_stack::procfs::RunState;
use pollwatch_stack::{Denial, Pid, Process, ProcessChange, ProcessError, StopError, Stopper};

use super::support::{Folder, PATIENCE, Target, build, build_from, capture_waiting, has, named};

#[test]
fn what_cannot_be_opened_says_why() {
    assert!(matches!(Process::open(Pid::from_raw(i32::MAX)), Err(ProcessError::NotFound { .. })));
    assert!(matches!(Process::open(Pid::from_raw(-1)), Err(ProcessError::NotFound { .. })));
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(zombie.id() as i32);
    let start = Instant::now();
    loop {
        match Process::open(pid) {
            Err(ProcessError::Zombie { pid: found }) if found == pid => break,
            other => assert!(start.elapsed() < PATIENCE, "{other:?}"),
        }
    }
    drop(zombie.wait());
    assert!(matches!(Process::open(pid), Err(ProcessError::NotFound { .. })));
    // The first process of the kernel's own threads, where they are in this namespace.
    let is_kernel = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
    if is_kernel {
        assert!(matches!(Process::open(Pid::from_raw(2)), Err(ProcessError::KernelThread { .. })));
    } else {
        println!("skipped: the kernel's threads are hidden here");
    }
}

#[test]
fn a_thread_stands_for_its_process() {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let target = Target::run(&mut Command::new(&program));
    let process = Process::open(target.pid()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    assert_eq!(Process::open(Pid::from_raw(sleeper.as_raw())).unwrap().pid(), target.pid());
}

/// Opens a process as a user without rights, in a copy of this test. `run_as` is the user of the
/// process. The result is the text of the error, or `None` where users cannot be changed.
fn open_without_rights(test: &str, run_as: Option<&str>, argument: &str) -> Option<String> {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let mut command = Command::new(&program);
    if let Some(user) = run_as {
        command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]).arg(&program);
    }
    let probe = Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: the user cannot be changed here");
        return None;
    }
    let target = Target::run(command.args(["1", argument]));
    // The test program may lie where another user cannot read it.
    let public = folder.path("test");
    std::fs::copy(std::env::current_exe().unwrap(), &public).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&public);
    let output = command.args(["--exact", test, "--nocapture"]).env(CHILD, target.pid().to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("denied: "));
    Some(line.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr))).to_owned())
}

/// The process that a copy of this test opens.
const CHILD: &str = "POLLWATCH_TEST_PID";

/// Opens the process, if this is such a copy.
fn is_copy() -> bool {
    let Ok(pid) = std::env::var(CHILD) else { return false };
    match Process::open(pid.parse().unwrap()) {
        Err(error @ ProcessError::Denied { .. }) => println!("denied: {error}"),
        other => panic!("{other:?}"),
    }
    true
}

#[test]
fn a_process_of_another_user() {
    if is_copy() {
        return;
    }
    let Some(text) = open_without_rights("lifecycle::a_process_of_another_user", None, "") else { return };
    println!("{text}");
    let other = Denial::OtherUser { user: 0, own: 65534 };
    assert!(text.ends_with(&other.to_string()), "{text}");
}

#[test]
fn a_process_that_is_not_dumpable() {
    if is_copy() {
        return;
    }
    let test = "lifecycle::a_process_that_is_not_dumpable";
    let Some(text) = open_without_rights(test, Some("65534"), "not-dumpable") else { return };
    println!("{text}");
    assert!(text.ends_with(&Denial::NotDumpable.to_string()), "{text}");
}

#[test]
fn the_first_thread_has_ended_before_the_others() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let target = Target::run(Command::new(&program).args(["1", "main-exits"]));
    let start = Instant::now();
    let has_ended = || {
        let folder = pollwatch_stack::procfs::ProcessFolder::of(target.pid());
        folder.stat(target.pid().first_thread()).is_some_and(|stat| stat.state == RunState::Ended)
    };
    while !has_ended() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let mut process = Process::open(target.pid()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    assert_eq!(process.refresh().unwrap(), ProcessChange::Nothing);
}

#[test]
fn a_library_that_is_loaded_meanwhile() {
    let (folder, libraries) = (Folder::new(), Folder::new());
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let library = build_from(&libraries, "library.rs", &["-Copt-level=3", "-Cdebuginfo=1", "--crate-type=cdylib"]);
    let mut target = Target::run(Command::new(&program).args(["1", "loading"]));
    let mut process = Process::open(target.pid()).unwrap();
    let version = process.version();
    let path = format!("{}\n", library.display());
    target.input.as_mut().unwrap().write_all(path.as_bytes()).unwrap();
    assert_eq!(target.output.next().unwrap().unwrap(), "loaded");
    let main = target.pid().first_thread();
    let stack = capture_waiting(&mut process, main, |raw, stack| raw.is_complete() && has(stack, "sleeps_in_library"));
    assert!(has(&stack, "loads_a_library"), "{stack:#}");
    assert!(process.version() > version);
    assert!(process.module_paths().contains(&library));
    assert_eq!(process.execs(), 0);
}

#[test]
fn a_process_that_ends() {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let mut target = Target::run(Command::new(&program).args(["1", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let (sleeper, computer) = (named(&process, "sleeper")[0], named(&process, "computer")[0]);
    let state = process.folder().syscall(sleeper);
    target.child.kill().unwrap();
    let start = Instant::now();
    while process.threads().is_ok() {
        assert!(start.elapsed() < PATIENCE, "a process that nobody has waited for has ended, too");
    }
    target.child.wait().unwrap();
    assert!(process.capture_waiting(sleeper, state).is_err());
    assert_eq!(Stopper::new().capture(&mut process, computer, None).unwrap_err(), StopError::NotRunning);
    assert!(matches!(process.threads(), Err(ProcessError::Exited { .. })));
    assert!(matches!(process.refresh(), Err(ProcessError::Exited { .. })));
}

#[test]
fn a_process_that_runs_another_program() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let mut target = Target::run(Command::new(&program).args(["1", "exec"]));
    let mut process = Process::open(target.pid()).unwrap();
    assert_eq!(process.refresh().unwrap(), ProcessChange::Nothing);
    assert_eq!(named(&process, "sleeper").len(), 1);
    target.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(target.output.next().unwrap().unwrap(), "ready", "the program has started again");
    let sleepers = named(&process, "sleeper");
    assert_eq!(sleepers.len(), 3);
    // The addresses of the program are others now.
    for sleeper in sleepers {
        capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    }
    assert_eq!(process.execs(), 1);
}

/// What was read before an `exec` says nothing about the program after it, however young it is.
#[test]
fn no_stack_is_made_with_the_tables_of_the_program_before() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let mut target = Target::run(Command::new(&program).args(["1", "exec"]));
    let mut process = Process::open(target.pid()).unwrap();
    target.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(target.output.next().unwrap().unwrap(), "ready", "the program has started again");
    let (mut captures, start) = (0, Instant::now());
    while captures == 0 {
        for tid in process.threads().unwrap() {
            let state = process.folder().syscall(tid);
            if process.capture_waiting(tid, state).is_ok() {
                assert_eq!(process.execs(), 1, "the new program has been opened before");
                captures += 1;
            }
        }
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn a_process_that_forks_and_starts_threads_meanwhile() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let target = Target::run(Command::new(&program).args(["1", "churning", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let mut stopper = Stopper::with_budget(pollwatch_stack::StopBudget::percent(20));
    let (mut captures, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs(3) {
        for tid in process.threads().unwrap() {
            let state = process.folder().syscall(tid);
            captures += u32::from(process.capture_waiting(tid, state).is_ok());
            captures += u32::from(stopper.capture(&mut process, tid, None).is_ok());
        }
    }
    println!("{captures} captures, {:?}", stopper.stats());
    assert!(captures > 0);
    let is_stopped = |state| matches!(state, Some(RunState::Stopped | RunState::Traced));
    for tid in process.threads().unwrap() {
        assert!(!is_stopped(process.folder().stat(tid).map(|stat| stat.state)), "{tid}");
    }
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
}

#[test]
fn a_process_of_a_thousand_threads() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let target = Target::run(Command::new(&program).arg("1000"));
    let mut process = Process::open(target.pid()).unwrap();
    let sleepers = named(&process, "sleeper");
    assert_eq!(sleepers.len(), 1_000);
    let wait = |process: &mut Process, tid| {
        capture_waiting(process, tid, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    };
    // The first one reads the debug information.
    wait(&mut process, sleepers[0]);
    let start = Instant::now();
    sleepers.iter().for_each(|&tid| wait(&mut process, tid));
    println!("1,000 threads in {:?}", start.elapsed());
}

/// A target that was stopped by its user is read and is not started again.
#[test]
fn a_stopped_process_stays_stopped() {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let target = Target::run(Command::new(&program).args(["1", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let computer = named(&process, "computer")[0];
    let stop = Command::new("kill").args(["-STOP", &target.pid().to_string()]).status().unwrap();
    assert!(stop.success());
    let state = || process.folder().stat(computer).map(|stat| stat.state);
    let start = Instant::now();
    while state() != Some(RunState::Stopped) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(Stopper::new().capture(&mut process, computer, None).unwrap_err(), StopError::NotRunning);
    assert_eq!(process.folder().stat(computer).map(|stat| stat.state), Some(RunState::Stopped));
}

#[test]
fn a_thread_that_another_tool_has_attached_to() {
    let folder = Folder::new();
    let program = build(&folder, &[]);
    let target = Target::run(Command::new(&program).args(["1", "computing"]));
    let mut process = Process::open(target.pid()).unwrap();
    let computer = named(&process, "computer")[0];
    let mut tracer = Command::new("sleep");
    let raw = computer.as_raw();
    // SAFETY: one system call, without memory of this process.
    unsafe {
        tracer.pre_exec(move || {
            let seized = libc::ptrace(libc::PTRACE_SEIZE, raw, 0usize, 0usize);
            if seized == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let mut tracer = match tracer.arg("600").stdin(Stdio::null()).spawn() {
        Ok(tracer) => tracer,
        Err(error) => return println!("skipped: {error}"),
    };
    let start = Instant::now();
    loop {
        match Stopper::new().capture(&mut process, computer, None) {
            Err(StopError::AlreadyTraced) => break,
            other => assert!(start.elapsed() < PATIENCE, "{other:?}"),
        }
    }
    tracer.kill().unwrap();
    tracer.wait().unwrap();
}

//! Processes that are odd, or that were made to harm whoever reads them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pollwatch_stack::{Process, ReadLosses, Symbolizer, Tid};

use super::deployment::can_mount;
use super::support::{Folder, Target, build, capture_waiting, has, named};

const RELEASE: [&str; 2] = ["-Copt-level=3", "-Cdebuginfo=1"];

/// The time in which all has to end, also on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn memory_that_never_comes() {
    // SAFETY: no memory is involved.
    let faults = unsafe { libc::syscall(libc::SYS_userfaultfd, 0) };
    if faults < 0 {
        return println!("skipped: userfaultfd is not permitted here");
    }
    // SAFETY: nothing else has the descriptor.
    unsafe { libc::close(faults as i32) };
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let target = Target::run(Command::new(&program).args(["1", "never-comes"]));
    let start = Instant::now();
    let mut process = Process::open(target.pid()).unwrap();
    println!("opened in {:?}, {:?}", start.elapsed(), process.losses());
    assert!(start.elapsed() < BOUND && process.losses().memory > 0);
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    let found = process.find_functions("sleeps_for_long", |_| Some(()));
    assert!(found.iter().any(|module| module.is_program && !module.functions.is_empty()));
}

/// Links a stripped program to a debug file that is made by `make`. Returns whether functions were
/// found, in bounded time; `None` where the program cannot be made.
fn finds_functions_with(make: impl Fn(&Path, &Path)) -> Option<bool> {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let [stripped, debug, link] = ["stripped", "debug", "app.debug"].map(|name| folder.path(name));
    let objcopy = |args: &[&str], from: &Path, to: &Path| {
        Command::new("objcopy").args(args).args([from, to]).status().is_ok_and(|status| status.success())
    };
    std::fs::copy(&program, &link).unwrap();
    let debug_link = format!("--add-gnu-debuglink={}", link.display());
    if !objcopy(&["--only-keep-debug"], &program, &debug)
        || !objcopy(&["--strip-all", &debug_link], &program, &stripped)
    {
        println!("skipped: there is no objcopy here");
        return None;
    }
    std::fs::remove_file(&link).unwrap();
    make(&debug, &link);
    let target = Target::run(&mut Command::new(&stripped));
    let mut process = Process::open(target.pid()).unwrap();
    let start = Instant::now();
    let found = process.find_functions("sleeps_for_long", |_| Some(()));
    // Without functions, the stack has offsets.
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, _| raw.is_complete());
    println!("{:?} {:?}", start.elapsed(), Symbolizer::shared().take_problems());
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    Some(found.iter().any(|module| module.is_program && module.has_symbols))
}

#[test]
fn debug_files_that_are_none() {
    let pipe = |_: &Path, link: &Path| {
        assert!(Command::new("mkfifo").arg(link).status().is_ok_and(|status| status.success()));
    };
    let Some(found) = finds_functions_with(pipe) else { return };
    assert!(!found);
    let endless = |_: &Path, link: &Path| symlink("/dev/zero", link).unwrap();
    assert_eq!(finds_functions_with(endless), Some(false));
    let sparse = |_: &Path, link: &Path| {
        let file = std::fs::File::create(link).unwrap();
        file.set_len(1 << 42).or_else(|_| file.set_len(1 << 34)).unwrap();
    };
    assert_eq!(finds_functions_with(sparse), Some(false));
    let circle = |_: &Path, link: &Path| symlink(link, link).unwrap();
    assert_eq!(finds_functions_with(circle), Some(false));
    // A link to the right file is followed.
    assert_eq!(finds_functions_with(|debug, link| symlink(debug, link).unwrap()), Some(true));
}

#[test]
fn a_process_of_ten_thousand_threads() {
    const THREADS: usize = 10_000;
    let limit = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let limits = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max", "/sys/fs/cgroup/pids.max"].map(limit);
    if limits.into_iter().flatten().any(|limit| limit < 2 * THREADS) {
        return println!("skipped: so many threads are not permitted here");
    }
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let target = Target::run(Command::new(&program).arg(THREADS.to_string()));
    let start = Instant::now();
    let mut process = Process::open(target.pid()).unwrap();
    let sleepers = named(&process, "sleeper");
    assert_eq!(sleepers.len(), THREADS);
    println!("opened and listed in {:?}", start.elapsed());
    let start = Instant::now();
    for &tid in sleepers.iter().step_by(20) {
        capture_waiting(&mut process, tid, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    }
    println!("{} threads in {:?}", THREADS / 20, start.elapsed());
    let ReadLosses { memory, modules, .. } = process.losses();
    assert_eq!((memory, modules), (0, 0));
}

#[test]
fn a_program_in_a_mount_and_a_pid_namespace() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let inner = folder.path("inner");
    std::fs::create_dir(&inner).unwrap();
    let probe = Command::new("unshare").args(["-mpf", "true"]).stderr(Stdio::null()).status();
    if !can_mount() || !probe.is_ok_and(|status| status.success()) {
        return println!("skipped: namespaces cannot be made here");
    }
    let script = format!(
        "mount -t tmpfs none {inner} && cp {program} {inner}/hidden && exec {inner}/hidden",
        inner = inner.display(),
        program = program.display()
    );
    let target = Target::run(Command::new("unshare").args(["-mpf", "--kill-child", "sh", "-c", &script]));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid())).unwrap();
    let mut process = Process::open(children.trim().parse().unwrap()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    let stack = capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    assert!(stack.frames().iter().any(|frame| frame.line.is_some()), "{stack:#}");
    // The first process of the namespace is the program.
    assert_eq!(process.inner_id(process.pid().first_thread()), Some(Tid::from_raw(1)));
}

/// A program of another C library, which is linked with it in each way.
#[test]
fn a_program_of_another_c_library() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/target.c");
    for flags in [&["-static"][..], &["-static-pie", "-fPIE"], &[]] {
        let folder = Folder::new();
        let program = folder.path("target");
        let mut compiler = Command::new("musl-gcc");
        let compiler = compiler.args(["-O1", "-g", "-funwind-tables", "-o"]).arg(&program).args(flags).arg(&source);
        match compiler.stderr(Stdio::null()).status() {
            Ok(status) if status.success() => {}
            Ok(_) => {
                println!("skipped: musl-gcc cannot link with {flags:?}");
                continue;
            }
            Err(error) => return println!("skipped: {error}"),
        }
        let target = Target::run(&mut Command::new(&program));
        let mut process = Process::open(target.pid()).unwrap();
        // The library's own functions may have no unwind tables.
        let main = target.pid().first_thread();
        let stack = capture_waiting(&mut process, main, |_, stack| !stack.frames().is_empty());
        println!("{flags:?}\n{stack:#}");
        let found = process.find_functions("waits_for_input", |_| Some(()));
        assert!(found.iter().any(|module| module.is_program && !module.functions.is_empty()), "{found:?}");
    }
}

//! Programs in the forms in which they are deployed.

use std::path::Path;
use std::process::{Command, Stdio};

use pollwatch_stack::{Process, Symbolizer};

use super::support::{Folder, Target, build, capture_waiting, has, named};

const RELEASE: [&str; 2] = ["-Copt-level=3", "-Cdebuginfo=1"];

/// Checks that the sleeping thread of a target has its function, with the line.
fn assert_lines(target: &Target) {
    let mut process = Process::open(target.pid()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    let stack = capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    let frame = stack.frames().iter().find(|frame| frame.name().contains("sleeps_for_long")).unwrap();
    assert!(frame.line.is_some(), "{frame:?}");
}

#[test]
fn a_program_at_a_fixed_address() {
    let folder = Folder::new();
    let program = build(&folder, &[&RELEASE[..], &["-Crelocation-model=static"]].concat());
    assert_lines(&Target::run(&mut Command::new(program)));
}

#[test]
fn a_program_that_was_started_through_the_loader() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    if !loader.exists() {
        return println!("skipped: the loader is elsewhere here");
    }
    let target = Target::run(Command::new(loader).arg(&program));
    assert_lines(&target);
    let mut process = Process::open(target.pid()).unwrap();
    let found = process.find_functions("sleeps_for_long", |_| Some(()));
    let own = found.iter().find(|module| module.is_program).unwrap();
    assert!(own.module.path == program && own.functions.len() == 1, "{own:?}");
    let sleeper = named(&process, "sleeper")[0];
    let stack = capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    let frame = stack.frames().iter().find(|frame| frame.name().contains("sleeps_for_long")).unwrap();
    assert!(!frame.library, "{frame:?}");
}

#[test]
fn a_static_program() {
    let folder = Folder::new();
    for flags in [&["-Ctarget-feature=+crt-static"][..], &["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]]
    {
        let program = build(&folder, &[&RELEASE[..], flags].concat());
        let target = Target::run(&mut Command::new(program));
        assert_lines(&target);
        let process = Process::open(target.pid()).unwrap();
        let modules = process.module_paths();
        assert!(modules.iter().all(|path| !path.to_string_lossy().contains("libc.so")), "{modules:?}");
    }
}

#[test]
fn a_stripped_program_has_offsets_and_says_so() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cstrip=symbols", "-Clink-arg=-Wl,--build-id"]);
    let target = Target::run(&mut Command::new(&program));
    let mut process = Process::open(target.pid()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    let in_program = |stack: &pollwatch_stack::Stack| stack.frames().iter().any(|frame| !frame.library);
    let stack = capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && in_program(stack));
    let frame = stack.frames().iter().find(|frame| !frame.library).unwrap();
    let module = frame.module_info.as_ref().unwrap();
    assert!(frame.function.is_none() && frame.offset > 0, "{frame:?}");
    assert_eq!(module.path, program);
    assert!(module.build_id.is_some());
    let found = process.find_functions("sleeps_for_long", |_| Some(()));
    let own = found.iter().find(|module| module.is_program).expect("the program is among the modules");
    assert!(!own.has_symbols && own.functions.is_empty());
}

#[test]
fn functions_are_found_by_name() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let target = Target::run(&mut Command::new(&program));
    let mut process = Process::open(target.pid()).unwrap();
    let found = process.find_functions("sleeps_for_long", |name| name.contains("15sleeps_for_long").then_some(7));
    let own = found.iter().find(|module| module.is_program).unwrap();
    assert!(own.has_symbols && own.functions.len() == 1, "{own:?}");
    let (range, kind) = &own.functions[0];
    assert_eq!(*kind, 7);
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, _| raw.addresses().any(|address| range.contains(&address)));
    assert!(found.iter().any(|module| module.module.name().starts_with("libc.so")), "{found:?}");
}

#[test]
fn a_deleted_program_has_its_functions() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let target = Target::run(&mut Command::new(&program));
    std::fs::remove_file(&program).unwrap();
    assert_lines(&target);
    let process = Process::open(target.pid()).unwrap();
    assert_eq!(process.module_paths()[0], program, "without the kernel's mark");
}

#[test]
fn a_replaced_program_is_not_confused_with_the_new_one() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let target = Target::run(&mut Command::new(&program));
    let kept = folder.path("kept");
    std::fs::rename(&program, &kept).unwrap();
    // Another program by the same name, of which no function is at the same place.
    build(&folder, &["-Copt-level=0", "-Cdebuginfo=2"]);
    assert_lines(&target);
    // The same without the kernel's links, as they are for a library.
    Symbolizer::shared().release_all();
    std::fs::remove_file(&kept).unwrap();
    assert_lines(&target);
}

/// Returns whether this user may make mount namespaces.
pub(crate) fn can_mount() -> bool {
    let mut probe = Command::new("unshare");
    let probe = probe.args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

#[test]
fn a_program_in_another_mount_namespace() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let inner = folder.path("inner");
    std::fs::create_dir(&inner).unwrap();
    // The program is on a file system that exists in the namespace alone.
    let script = format!(
        "mount -t tmpfs none {inner} && cp {program} {inner}/hidden && exec {inner}/hidden",
        inner = inner.display(),
        program = program.display()
    );
    if !can_mount() {
        return println!("skipped: mount namespaces cannot be made here");
    }
    let target = Target::run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    assert!(!Path::new(&inner.join("hidden")).exists(), "it is hidden from here");
    assert_lines(&target);
}

/// A stripped program in a container, whose debug file is in the container, too.
#[test]
fn a_debug_file_in_another_mount_namespace() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let (stripped, debug) = (folder.path("stripped"), folder.path("stripped.debug"));
    let objcopy = |args: &[&str], from: &Path, to: &Path| {
        Command::new("objcopy").args(args).args([from, to]).status().is_ok_and(|status| status.success())
    };
    let link = format!("--add-gnu-debuglink={}", debug.display());
    if !objcopy(&["--only-keep-debug"], &program, &debug) || !objcopy(&["--strip-all", &link], &program, &stripped) {
        return println!("skipped: there is no objcopy here");
    }
    let inner = folder.path("inner");
    std::fs::create_dir(&inner).unwrap();
    let script = format!(
        "mount -t tmpfs none {inner} && mv {stripped} {debug} {inner} && exec {inner}/stripped",
        inner = inner.display(),
        stripped = stripped.display(),
        debug = debug.display()
    );
    if !can_mount() {
        return println!("skipped: mount namespaces cannot be made here");
    }
    let target = Target::run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    assert!(!inner.join("stripped.debug").exists(), "it is hidden from here");
    assert_lines(&target);
    let process = Process::open(target.pid()).unwrap();
    let found = process.find_functions("sleeps_for_long", |_| Some(()));
    let own = found.iter().find(|module| module.is_program).unwrap();
    assert!(own.has_symbols && !own.functions.is_empty(), "{own:?}");
}

#[test]
fn a_program_in_another_pid_namespace() {
    let folder = Folder::new();
    let program = build(&folder, &RELEASE);
    let probe = Command::new("unshare").args(["-pf", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return println!("skipped: pid namespaces cannot be made here");
    }
    let target = Target::run(Command::new("unshare").args(["-pf", "--kill-child"]).arg(&program));
    // The child of `unshare` is the program, and the first process in its namespace.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid())).unwrap();
    let pid: pollwatch_stack::Pid = children.trim().parse().unwrap();
    let mut process = Process::open(pid).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    assert_eq!(process.inner_id(sleeper), Some(pollwatch_stack::Tid::from_raw(2)));
}

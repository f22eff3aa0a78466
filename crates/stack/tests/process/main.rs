//! Other processes, read from outside: programs that are built here, in all the forms in which
//! programs are deployed.

#![cfg(all(feature = "capture", target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod deployment;
mod hammer;
mod hostile;
mod lifecycle;
mod locked_memory;
mod running;
mod support;

use std::process::Command;

use pollwatch_stack::Process;
use support::{Folder, Target, build, capture_waiting, has, named};

#[test]
fn waiting_threads_of_a_release_build() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let target = Target::run(&mut Command::new(&program));
    let mut process = Process::open(target.pid()).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    let stack = capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleep"));
    let frame = stack.frames().iter().find(|frame| frame.name().contains("sleeps_for_long")).expect("its frame");
    assert!(frame.file.as_deref().is_some_and(|file| file.ends_with("target.rs")) && frame.line.is_some(), "{frame:?}");
    assert!(!frame.library);
    let main = target.pid().first_thread();
    capture_waiting(&mut process, main, |raw, stack| raw.is_complete() && has(stack, "waits_for_input"));
}

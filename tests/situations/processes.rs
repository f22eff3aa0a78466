//! Situations of tasks that start child processes and wait for them.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use pollwatch::Cause;

use crate::calls::Temporary;
use crate::fixture::{CHILD_START, CHILD_WAIT, Expected, Situation, check};

fn child(reason: &'static str, advice: &'static str, function: &'static str) -> Expected {
    // The parent waits for an exit status, or first reads the child's output or the result of exec.
    let syscalls = &["wait4", "waitid", "read", "recvfrom", "poll", "ppoll"];
    Expected { cause: Cause::Syscall, syscalls, reason, advice, function }
}

/// A child that ends once something is written to the fifo.
fn reader_of(fifo: &Temporary) -> Command {
    let mut command = Command::new("cat");
    command.arg(&fifo.0);
    command
}

fn write_to(fifo: &Temporary) {
    std::fs::write(&fifo.0, "x").unwrap();
}

#[inline(never)]
fn collects_the_output(command: &mut Command) -> Vec<u8> {
    command.output().unwrap().stdout // blocks here
}

#[test]
fn the_output_of_a_command_is_diagnosed() {
    let expected = child(CHILD_WAIT, "tokio::process", "processes::collects_the_output");
    check(expected, || {
        let fifo = Temporary::fifo();
        let mut command = reader_of(&fifo);
        Situation::new(move || assert_eq!(collects_the_output(&mut command), b"x"), move || write_to(&fifo))
    });
}

#[inline(never)]
fn runs(command: &mut Command) -> bool {
    command.status().unwrap().success() // blocks here
}

#[test]
fn the_status_of_a_command_is_diagnosed() {
    let expected = child(CHILD_WAIT, "tokio::process", "processes::runs");
    check(expected, || {
        let fifo = Temporary::fifo();
        let mut command = reader_of(&fifo);
        command.stdout(std::process::Stdio::null());
        Situation::new(move || assert!(runs(&mut command)), move || write_to(&fifo))
    });
}

#[inline(never)]
fn starts(command: &mut Command) -> std::process::Child {
    command.spawn().unwrap() // blocks here
}

/// The parent waits until the forked child has called exec, so for all that it does before.
#[test]
fn the_start_of_a_child_is_diagnosed() {
    check(child(CHILD_START, "pre_exec", "processes::starts"), || {
        let fifo = Temporary::fifo();
        let path = CString::new(fifo.0.to_str().unwrap()).unwrap();
        let mut command = Command::new("true");
        // SAFETY: the closure only makes a system call.
        unsafe {
            command.pre_exec(move || match libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
        let block = move || assert!(starts(&mut command).wait().unwrap().success());
        Situation::new(block, move || write_to(&fifo))
    });
}

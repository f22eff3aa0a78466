//! Situations of threads that wait for objects of the kernel other than files and sockets: signals,
//! event descriptors, terminals, message queues, asynchronous I/O, a process that starts.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use pollwatch::Cause;

use crate::calls::Temporary;
use crate::fixture::{Expected, Situation, check, leak, not_the_last_call};
use test_support::*;

fn call(
    syscalls: &'static [&'static str],
    reason: &'static str,
    advice: &'static str,
    function: &'static str,
) -> Expected {
    Expected { cause: Cause::Syscall, syscalls, reason, advice, function }
}

/// Panics with the error of a call of C that returned -1.
#[track_caller]
fn succeeds(result: i64) -> i64 {
    assert_ne!(result, -1, "{}", std::io::Error::last_os_error());
    result
}

fn thread_id() -> i64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

#[inline(never)]
fn waits_for_a_signal(set: &libc::sigset_t) -> i32 {
    // SAFETY: the set is initialised.
    let signal = unsafe { libc::sigwaitinfo(set, null_mut()) }; // blocks here
    not_the_last_call();
    signal
}

#[test]
fn a_wait_for_a_signal_is_diagnosed() {
    let expected =
        call(&["rt_sigtimedwait"], "a wait for a signal", "tokio::signal", "kernel_objects::waits_for_a_signal");
    check(expected, || {
        let waiter = Arc::new(AtomicI64::new(0));
        let thread = waiter.clone();
        let block = move || {
            // SAFETY: the sets are initialised by the calls before they are read.
            unsafe {
                let (mut set, mut before) = (std::mem::zeroed(), std::mem::zeroed());
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGUSR2);
                assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before), 0);
                thread.store(thread_id(), Ordering::Release);
                assert_eq!(waits_for_a_signal(&set), libc::SIGUSR2);
                assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut()), 0);
            }
        };
        let release = move || {
            let (process, thread) = (std::process::id(), waiter.load(Ordering::Acquire));
            // SAFETY: a signal that the thread blocks and waits for.
            succeeds(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR2) });
        };
        Situation::new(block, release)
    });
}

#[inline(never)]
fn reads(mut file: &File) -> u8 {
    let mut bytes = [0; 8];
    assert_ne!(file.read(&mut bytes).unwrap(), 0); // blocks here
    bytes[0]
}

#[test]
fn an_event_descriptor_is_diagnosed() {
    let reason = "a sync read of an event descriptor";
    let stall = check(call(&["read"], reason, "AsyncFd", "kernel_objects::reads"), || {
        // SAFETY: a new descriptor, which the file owns.
        let file = unsafe { File::from_raw_fd(succeeds(libc::eventfd(0, libc::EFD_CLOEXEC).into()) as i32) };
        let mut writer = file.try_clone().unwrap();
        Situation::new(move || assert_eq!(reads(&file), 1), move || writer.write_all(&1u64.to_ne_bytes()).unwrap())
    });
    assert!(stall.to_string().contains("anon_inode:[eventfd]"), "{stall}");
}

#[test]
fn a_terminal_is_diagnosed() {
    check(call(&["read"], "a sync terminal call", "std::thread", "kernel_objects::reads"), || {
        let (mut controller, mut terminal) = (-1, -1);
        // SAFETY: both descriptors are written by the call, and owned by the files.
        let (controller, terminal) = unsafe {
            let opened = libc::openpty(&mut controller, &mut terminal, null_mut(), null(), null());
            succeeds(opened.into());
            (File::from_raw_fd(controller), File::from_raw_fd(terminal))
        };
        // A read of a terminal whose other end has been closed fails.
        let mut controller: &'static File = leak(controller);
        Situation::new(move || assert_eq!(reads(&terminal), b'x'), move || controller.write_all(b"x\n").unwrap())
    });
}

#[repr(C)]
struct Message {
    kind: libc::c_long,
    byte: u8,
}

#[inline(never)]
fn receives(queue: i32) -> u8 {
    let mut message = Message { kind: 0, byte: 0 };
    // SAFETY: a message of one byte.
    succeeds(unsafe { libc::msgrcv(queue, (&raw mut message).cast(), 1, 0, 0) } as i64); // blocks here
    message.byte
}

#[test]
fn a_message_queue_is_diagnosed() {
    let reason = "a semaphore or message queue between processes";
    check(call(&["msgrcv"], reason, "std::thread", "kernel_objects::receives"), || {
        // SAFETY: integers.
        let queue = succeeds(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) }.into()) as i32;
        let block = move || {
            assert_eq!(receives(queue), 7);
            // SAFETY: no buffer is needed to remove a queue.
            succeeds(unsafe { libc::msgctl(queue, libc::IPC_RMID, null_mut()) }.into());
        };
        let message = Message { kind: 1, byte: 7 };
        // SAFETY: a message of one byte.
        Situation::new(block, move || assert_eq!(unsafe { libc::msgsnd(queue, (&raw const message).cast(), 1, 0) }, 0))
    });
}

#[inline(never)]
fn awaits_asynchronous_io(context: u64) -> i64 {
    let mut event = [0u64; 4];
    // SAFETY: room for one event, and no time limit.
    unsafe { libc::syscall(libc::SYS_io_getevents, context, 1i64, 1i64, event.as_mut_ptr(), null::<u8>()) } // blocks here
}

#[test]
fn asynchronous_io_is_diagnosed() {
    let reason = "a wait for I/O that the kernel was given (io_uring, AIO)";
    let expected = call(&["io_getevents"], reason, "AsyncFd", "kernel_objects::awaits_asynchronous_io");
    check(expected, || {
        let mut context = 0u64;
        // SAFETY: the context is written by the call.
        succeeds(unsafe { libc::syscall(libc::SYS_io_setup, 1, &mut context) });
        // SAFETY: an integer. The end of its context ends the wait with an error.
        let release = move || assert_eq!(unsafe { libc::syscall(libc::SYS_io_destroy, context) }, 0);
        Situation::new(move || assert_eq!(awaits_asynchronous_io(context), -1), release)
    });
}

#[inline(never)]
fn starts(program: &CString, actions: &libc::posix_spawn_file_actions_t) -> libc::pid_t {
    let (mut child, arguments) = (0, [program.as_ptr().cast_mut(), null_mut()]);
    let (program, arguments) = (program.as_ptr(), arguments.as_ptr());
    // SAFETY: C strings, and lists that end with null.
    let error = unsafe { libc::posix_spawnp(&mut child, program, actions, null(), arguments, [null_mut()].as_ptr()) }; // blocks here
    assert_eq!(error, 0);
    child
}

/// The parent waits until the child has opened its files and called exec.
#[test]
fn a_start_of_a_process_is_diagnosed() {
    let (reason, advice) = ("the start of a process or thread", "tokio::task::spawn_blocking");
    check(call(&["clone", "clone3", "vfork"], reason, advice, "kernel_objects::starts"), || {
        let fifo = Temporary::fifo();
        let path = CString::new(fifo.0.to_str().unwrap()).unwrap();
        let block = move || {
            // SAFETY: the actions are initialised before they are used, and the child is this
            // test's.
            unsafe {
                let mut actions = std::mem::zeroed();
                assert_eq!(libc::posix_spawn_file_actions_init(&mut actions), 0);
                assert_eq!(
                    libc::posix_spawn_file_actions_addopen(&mut actions, 0, path.as_ptr(), libc::O_RDONLY, 0),
                    0
                );
                let child = starts(&c"true".to_owned(), &actions);
                succeeds(libc::waitpid(child, null_mut(), 0).into());
                libc::posix_spawn_file_actions_destroy(&mut actions);
            }
        };
        // To open it is enough. The child may have ended before anything is written.
        Situation::new(block, move || drop(std::fs::OpenOptions::new().write(true).open(&fifo.0).unwrap()))
    });
}

/// Waits until a word is no longer 0, for an hour at most. When its process has been stopped and
/// continued, the kernel resumes this call by `restart_syscall`. It does not do so for `ppoll`,
/// which is what `poll` calls on aarch64.
fn waits_for_a_word(word: &AtomicU32) {
    let limit = libc::timespec { tv_sec: 3_600, tv_nsec: 0 };
    while word.load(Ordering::SeqCst) == 0 {
        // SAFETY: the word and the limit live as long as the call.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, &limit) };
    }
}

/// Ends [`waits_for_a_word`] when it is dropped, in a panic, too.
struct EndsWait(&'static AtomicU32);

impl Drop for EndsWait {
    fn drop(&mut self) {
        self.0.store(1, Ordering::SeqCst);
        // SAFETY: the word is static.
        unsafe { libc::syscall(libc::SYS_futex, self.0, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
    }
}

/// A wait with a time limit is another system call once its process has been stopped and continued.
#[test]
fn a_wait_that_is_resumed_is_diagnosed() {
    if is_child() {
        return stop_while_blocked();
    }
    let mut child = rerun("kernel_objects::a_wait_that_is_resumed_is_diagnosed");
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // A pipe that is full would block the child.
    let errors = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || std::io::read_to_string(errors).unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // Continues the child whenever it has stopped itself.
        assert!(Command::new("kill").args(["-CONT", &child.id().to_string()]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{}", errors.join().unwrap());
}

fn stop_while_blocked() {
    let (watchdog, collected) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let word = leak(AtomicU32::new(0));
    let ends = EndsWait(word);
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { waits_for_a_word(word) });
    collected.wait_ongoing("main").expect("the wait is reported");
    // SAFETY: the parent continues this process.
    assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    let is_resumed =
        |stall: &pollwatch::Stall| stall.syscall.as_ref().is_some_and(|call| call.name == "restart_syscall");
    let stall = collected.wait(is_resumed).unwrap_or_else(|| panic!("{:#?}", collected.all()));
    drop(ends);
    runtime.block_on(task).unwrap();
    assert_eq!(stall.reason, "a wait that the kernel resumed after a stop of the process", "{stall}");
}

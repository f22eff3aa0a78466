//! Situations of threads that wait in system calls.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check};
use test_support::*;

fn call(
    syscalls: &'static [&'static str],
    reason: &'static str,
    advice: &'static str,
    function: &'static str,
) -> Expected {
    Expected { cause: Cause::Syscall, syscalls, reason, advice, function }
}

/// A path in the temporary directory, removed on drop.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Temporary {
    fn new() -> Temporary {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pollwatch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Temporary(std::env::temp_dir().join(name))
    }

    pub(crate) fn fifo() -> Temporary {
        let fifo = Temporary::new();
        let path = std::ffi::CString::new(fifo.0.to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        fifo
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[inline(never)]
fn sleeps(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200)); // blocks here
    }
}

#[test]
fn a_sleep_is_diagnosed() {
    let calls = &["clock_nanosleep", "nanosleep"];
    check(call(calls, "a sleep", "tokio::time::sleep", "calls::sleeps"), || {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        Situation::new(move || sleeps(&seen), move || stop.store(true, Ordering::Relaxed))
    });
}

#[inline(never)]
fn reads(file: &mut File) -> usize {
    file.read(&mut [0; 8]).unwrap() // blocks here
}

#[test]
fn a_read_from_a_fifo_is_diagnosed() {
    let stall = check(call(&["read"], "a sync file read", "tokio::fs", "calls::reads"), || {
        let fifo = Temporary::fifo();
        // Both ends are opened at once, so that no open waits.
        let mut writer = File::options().read(true).write(true).open(&fifo.0).unwrap();
        let mut reader = File::open(&fifo.0).unwrap();
        let release = move || {
            writer.write_all(b"x").unwrap();
            drop(fifo);
        };
        Situation::new(move || assert_eq!(reads(&mut reader), 1), release)
    });
    let target = stall.syscall.unwrap().target.unwrap();
    assert!(target.contains("/pollwatch-"), "{target}");
}

#[inline(never)]
fn writes(file: &mut File) {
    file.write_all(&[0; 1 << 20]).unwrap(); // blocks here
}

#[test]
fn a_write_to_a_fifo_is_diagnosed() {
    check(call(&["write"], "a sync file write", "tokio::fs", "calls::writes"), || {
        let fifo = Temporary::fifo();
        let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo.0).unwrap();
        let mut writer = File::options().write(true).open(&fifo.0).unwrap();
        let release = move || {
            let mut seen = 0;
            wait_until("all is read", || {
                seen += reader.read(&mut [0; 1 << 16]).unwrap_or(0);
                seen == 1 << 20
            });
            drop(fifo);
        };
        Situation::new(move || writes(&mut writer), release)
    });
}

#[inline(never)]
fn opens(path: &Path) -> File {
    File::open(path).unwrap() // blocks here
}

#[test]
fn an_open_of_a_fifo_is_diagnosed() {
    check(call(&["openat", "open"], "a sync file call", "tokio::fs", "calls::opens"), || {
        let fifo = Temporary::fifo();
        let path = fifo.0.clone();
        let release = move || {
            File::options().write(true).open(&fifo.0).unwrap();
        };
        Situation::new(move || drop(opens(&path)), release)
    });
}

#[inline(never)]
fn receives(stream: &mut TcpStream) -> usize {
    stream.read(&mut [0; 8]).unwrap() // blocks here
}

fn socket(time_out: Option<Duration>) {
    let stall = check(call(&["recvfrom"], "a sync socket call", "tokio::net", "calls::receives"), || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(time_out).unwrap();
        let mut server = listener.accept().unwrap().0;
        // A signal would end a read with a time-out by EINTR.
        Situation::new(move || assert_eq!(receives(&mut client), 1), move || server.write_all(b"x").unwrap())
    });
    let target = stall.syscall.unwrap().target.unwrap();
    assert!(target.starts_with("socket to 127.0.0.1:"), "{target}");
}

#[test]
fn a_read_from_a_socket_is_diagnosed() {
    socket(None);
}

#[test]
fn a_read_from_a_socket_with_a_time_out_is_diagnosed() {
    socket(Some(TIMEOUT * 2));
}

#[inline(never)]
fn accepts(listener: &TcpListener) {
    listener.accept().unwrap(); // blocks here
}

#[test]
fn an_accept_is_diagnosed() {
    check(call(&["accept4", "accept"], "a sync socket call", "tokio::net", "calls::accepts"), || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Situation::new(move || accepts(&listener), move || drop(TcpStream::connect(address).unwrap()))
    });
}

#[inline(never)]
fn polls(stream: &TcpStream) -> i32 {
    let mut fd = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, valid for the call.
    unsafe { libc::poll(&mut fd, 1, -1) } // blocks here
}

#[test]
fn a_poll_is_diagnosed() {
    check(call(&["poll", "ppoll"], "a wait for I/O", "async driver", "calls::polls"), || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        Situation::new(move || assert_eq!(polls(&client), 1), move || server.write_all(b"x").unwrap())
    });
}

#[inline(never)]
fn waits_for_a_child(child: &mut Child) {
    assert!(child.wait().unwrap().success()); // blocks here
}

#[test]
fn a_child_process_is_diagnosed() {
    let calls = &["wait4", "waitid"];
    check(call(calls, "a wait for a child process", "tokio::process", "calls::waits_for_a_child"), || {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        Situation::new(move || waits_for_a_child(&mut child), || drop(input))
    });
}

#[inline(never)]
fn reads_what_a_child_says(child: &mut Child) -> String {
    std::io::read_to_string(child.stdout.as_mut().unwrap()).unwrap() // blocks here
}

#[test]
fn the_output_of_a_child_process_is_diagnosed() {
    check(call(&["read"], "a sync pipe call", "tokio::process", "calls::reads_what_a_child_says"), || {
        let mut command = Command::new("cat");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let block = move || {
            assert_eq!(reads_what_a_child_says(&mut child), "");
            child.wait().unwrap();
        };
        Situation::new(block, || drop(input))
    });
}

#[inline(never)]
fn locks(file: &File) {
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0); // blocks here
}

#[test]
fn a_lock_of_a_file_is_diagnosed() {
    let stall = check(call(&["flock"], "a file lock", "tokio::task::spawn_blocking", "calls::locks"), || {
        let path = Temporary::new();
        let held = File::create(&path.0).unwrap();
        locks(&held);
        let file = File::open(&path.0).unwrap();
        Situation::new(move || locks(&file), move || drop((held, path)))
    });
    let target = stall.syscall.unwrap().target.unwrap();
    assert!(target.contains("/pollwatch-"), "{target}");
}

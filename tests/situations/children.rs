//! Situations that need a separate process: a standard output that is not read, a resolver that
//! never answers.

use std::ffi::{CStr, CString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{ToSocketAddrs, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check};
use test_support::{is_child, rerun, skipped};

#[inline(never)]
fn prints(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        println!("{:1000}", "into a pipe"); // blocks here
    }
}

/// Prints a line on standard error when the stall has been reported: then the parent reads.
fn prints_until_reported() {
    let (reason, advice) = ("a print to standard output or error", "tracing_appender::non_blocking");
    let expected =
        Expected { cause: Cause::Syscall, syscalls: &["write"], reason, advice, function: "children::prints" };
    check(expected, || until_reported(prints));
}

fn until_reported(block: fn(&AtomicBool)) -> Situation {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let release = move || {
        stop.store(true, Ordering::Relaxed);
        eprintln!("\nreported");
    };
    Situation::new(move || block(&seen), release)
}

#[test]
fn printing_into_a_full_pipe_is_diagnosed() {
    if is_child() {
        return prints_until_reported();
    }
    read_when_reported(&mut rerun("children::printing_into_a_full_pipe_is_diagnosed"));
}

#[inline(never)]
fn logs(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tracing::info!("{:1000}", "into a pipe"); // blocks here
    }
}

/// The expected report of a log whose output is not read.
const LOG: Expected = Expected {
    cause: Cause::Syscall,
    syscalls: &["write"],
    reason: "the writer of the program's own log",
    advice: "tracing_appender::non_blocking",
    function: "children::logs",
};

#[test]
fn a_log_that_nobody_reads_is_diagnosed() {
    if !is_child() {
        return read_when_reported(&mut rerun("children::a_log_that_nobody_reads_is_diagnosed"));
    }
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    check(LOG, || until_reported(logs));
}

/// Another thread waits for the reader, and holds the lock of the standard output.
#[test]
fn the_lock_of_a_log_that_nobody_reads_is_diagnosed() {
    if !is_child() {
        return read_when_reported(&mut rerun("children::the_lock_of_a_log_that_nobody_reads_is_diagnosed"));
    }
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    check(Expected { cause: Cause::Lock, syscalls: &["futex"], ..LOG }, || {
        // The lock is taken once at a time, so that the parent can read between two attempts.
        let (held, is_held) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let lock = std::io::stdout().lock();
            held.send(()).unwrap();
            let _ = released.recv();
            drop(lock);
        });
        is_held.recv().unwrap();
        let Situation { block, release: report } = until_reported(logs);
        let release = move || {
            report();
            drop(release);
            holder.join().unwrap();
        };
        Situation { block, release: Box::new(release) }
    });
}

#[inline(never)]
fn reads_a_line() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap(); // blocks here
    line
}

#[test]
fn a_read_from_standard_input_is_diagnosed() {
    if is_child() {
        let (reason, advice) = ("a read from standard input", "std::thread");
        let (syscalls, function) = (&["read"], "children::reads_a_line");
        let expected = Expected { cause: Cause::Syscall, syscalls, reason, advice, function };
        check(expected, || Situation::new(|| assert_eq!(reads_a_line(), "line\n"), || println!("\nreported")));
        return;
    }
    let mut child = rerun("children::a_read_from_standard_input_is_diagnosed");
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    for _ in output.lines().map_while(Result::ok).filter(|line| line == "reported") {
        input.write_all(b"line\n").unwrap();
    }
    passes(child);
}

/// Waits for a child that must succeed.
#[track_caller]
fn passes(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[inline(never)]
fn panics() {
    let _ = std::panic::catch_unwind(|| panic!("formats a backtrace")); // blocks here
}

#[test]
fn the_backtrace_of_a_panic_is_diagnosed() {
    if is_child() {
        let (reason, advice) = ("formatting the backtrace of a panic", "RUST_BACKTRACE=0");
        let expected = Expected { cause: Cause::Cpu, syscalls: &[], reason, advice, function: "children::panics" };
        check(expected, || {
            until_reported(|stop| {
                while !stop.load(Ordering::Relaxed) {
                    panics();
                }
            })
        });
        return;
    }
    let mut child = rerun("children::the_backtrace_of_a_panic_is_diagnosed");
    let output = child.env("RUST_BACKTRACE", "1").stdout(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a child, and reads a part of its output for each line "reported" on its standard error.
#[track_caller]
fn read_when_reported(child: &mut Command) {
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let mut output = child.stdout.take().unwrap();
    let mut printed = Vec::new();
    // One page of a pipe holds more than an attempt prints after its report.
    let mut page = vec![0; 1 << 20];
    for line in errors.lines().map_while(Result::ok) {
        if line == "reported" {
            let _ = output.read(&mut page);
        }
        printed.push(line);
    }
    drop(output);
    assert!(child.wait().unwrap().success(), "{printed:#?}");
}

#[inline(never)]
fn looks_up(name: &str) -> bool {
    (name, 80).to_socket_addrs().is_ok() // blocks here
}

fn looks_up_until_reported() {
    let (reason, function) = ("a name look-up (DNS)", "children::looks_up");
    let (syscalls, advice) = (&["poll", "ppoll"], "tokio::net::lookup_host");
    check(Expected { cause: Cause::Syscall, syscalls, reason, advice, function }, || {
        static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
        let attempt = format!("attempt-{}", ATTEMPTS.fetch_add(1, Ordering::Relaxed));
        let name = format!("{attempt}.invalid.");
        // The parent answers.
        Situation::new(move || assert!(!looks_up(&name)), move || println!("\nreported {attempt}"))
    });
}

/// Gives a child mounts of its own: a file in place of another, or an empty file system of this
/// kind. Only root may do that; the error of a child that ends at once says whether it may.
pub(crate) fn private_mounts(
    child: &mut Command,
    from: Option<CString>,
    to: &'static CStr,
    kind: &'static CStr,
) -> std::io::Result<()> {
    let mount = move || {
        let (root, none) = (c"/".as_ptr(), std::ptr::null());
        let (from, flags) = from.as_ref().map_or((none, 0), |from| (from.as_ptr(), libc::MS_BIND));
        // SAFETY: system calls with C strings that outlive them; nothing is allocated between fork
        // and exec.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(from, to.as_ptr(), kind.as_ptr(), flags, none.cast()) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure only makes system calls.
    unsafe {
        Command::new("true").pre_exec(mount.clone()).status()?;
        child.pre_exec(mount);
    }
    Ok(())
}

#[test]
fn a_name_look_up_is_diagnosed() {
    if is_child() {
        return looks_up_until_reported();
    }
    let Ok(server) = UdpSocket::bind(("127.83.4.19", 53)) else {
        return skipped("cannot listen on port 53 here");
    };
    let settings = std::env::temp_dir().join(format!("pollwatch-resolv-{}", std::process::id()));
    std::fs::write(&settings, "nameserver 127.83.4.19\noptions timeout:30 attempts:2\n").unwrap();
    let from = CString::new(settings.to_str().unwrap()).unwrap();
    let mut child = rerun("children::a_name_look_up_is_diagnosed");
    let child = private_mounts(&mut child, Some(from), c"/etc/resolv.conf", c"")
        .and_then(|()| child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn());
    let _ = std::fs::remove_file(&settings);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return skipped(&format!("cannot give a child a resolver of its own: {error}")),
    };
    let output = BufReader::new(child.stdout.take().unwrap());
    let (collected, is_told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| answer(&server, is_told));
        for line in output.lines().map_while(Result::ok) {
            if let Some(attempt) = line.strip_prefix("reported ") {
                let _ = collected.send(attempt.to_owned());
            }
        }
        drop(collected);
    });
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success(), "{errors}");
}

/// Answers a query with "no such name", but only once its attempt was reported.
fn answer(server: &UdpSocket, collected: mpsc::Receiver<String>) {
    server.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let (mut may, mut waiting) = (Vec::new(), Vec::new());
    loop {
        let mut question = [0; 512];
        if let Ok((len, from)) = server.recv_from(&mut question) {
            waiting.push((question[..len].to_vec(), from));
        }
        match collected.try_recv() {
            Ok(attempt) => may.push(attempt),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return,
        }
        waiting.retain(|(question, from)| {
            let is_for = |attempt: &String| question.windows(attempt.len()).any(|part| part == attempt.as_bytes());
            if !may.iter().any(is_for) {
                return true;
            }
            let mut reply = question.clone();
            // A response, recursion available, no such name.
            reply[2] |= 0x80;
            reply[3] = 0x83;
            server.send_to(&reply, from).is_err()
        });
    }
}

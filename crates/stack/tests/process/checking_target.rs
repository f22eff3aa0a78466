//! A program whose threads check that nobody disturbs them: no system call ends with `EINTR`, no
//! transfer is short, no result of a computation is wrong. It fails at once when a check does. For
//! each line that it reads it prints how far each thread has come, how many signals it got, or how
//! many calls of `epoll_wait` ended with `EINTR`. Without `--epoll-eintr` these fail it.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

unsafe extern "C" {
    fn nanosleep(time: *const Timespec, rest: *mut Timespec) -> c_int;
    fn poll(fds: *mut PollFd, count: u64, timeout_millis: c_int) -> c_int;
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_wait(epoll: c_int, events: *mut c_void, count: c_int, timeout_millis: c_int) -> c_int;
    fn pipe(ends: *mut c_int) -> c_int;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
}

/// A real-time signal: each one that is sent is delivered once.
const SIGNAL: c_int = 40;

static SIGNALS: AtomicU64 = AtomicU64::new(0);
/// The calls of `epoll_wait` that ended with `EINTR`.
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_number: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

static PROGRESS: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());

fn fail(what: &str) -> ! {
    println!("FAILED: {what}: {}", std::io::Error::last_os_error());
    std::process::exit(1);
}

fn pipe_ends() -> [File; 2] {
    let mut ends = [0; 2];
    // SAFETY: the kernel fills the array with two new descriptors.
    unsafe {
        assert_eq!(pipe(ends.as_mut_ptr()), 0);
        ends.map(|end| File::from_raw_fd(end))
    }
}

/// Starts a thread that repeats a step, and counts how often.
fn repeat(name: &str, mut step: impl FnMut() + Send + 'static) {
    let progress: &'static AtomicU64 = Box::leak(Box::default());
    PROGRESS.lock().unwrap().push(progress);
    let run = move || loop {
        step();
        progress.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::Builder::new().name(name.into()).spawn(run).unwrap();
}

#[inline(never)]
fn checksum(rounds: u64) -> u64 {
    (0..rounds).fold(0xcbf2_9ce4_8422_2325, |hash, i| (hash ^ black_box(i)).wrapping_mul(0x100_0000_01b3))
}

#[inline(never)]
fn float_checksum(rounds: u64) -> f64 {
    (1..rounds).fold(0.0, |sum, i| sum + (black_box(i) as f64).sqrt())
}

fn sleep_for(nanos: i64) {
    let time = Timespec { seconds: 0, nanos };
    // SAFETY: the time is valid for the call, and no rest is asked for.
    if unsafe { nanosleep(&time, std::ptr::null_mut()) } != 0 {
        fail("nanosleep");
    }
}

fn wait_for_events(epoll: c_int, millis: c_int) {
    let mut event = [0u8; 12];
    // SAFETY: there is room for one event.
    if unsafe { epoll_wait(epoll, event.as_mut_ptr().cast(), 1, millis) } == 0 {
        return;
    }
    let is_interrupted = std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
    if !is_interrupted || std::env::args().nth(1).as_deref() != Some("--epoll-eintr") {
        fail("epoll_wait");
    }
    INTERRUPTED.fetch_add(1, Ordering::Relaxed);
}

fn main() {
    repeat("sleeps", || sleep_for(300_000));
    // SAFETY: a new descriptor, which is never closed.
    let epoll = unsafe { epoll_create1(0) };
    repeat("epolls", move || wait_for_events(epoll, 1));
    let [never_ready, writer] = pipe_ends();
    repeat("polls", move || {
        let mut fd = PollFd { fd: never_ready.as_raw_fd(), events: 1, revents: 0 };
        // SAFETY: one descriptor is given.
        if unsafe { poll(&mut fd, 1, 1) } != 0 {
            fail("poll");
        }
        black_box(&writer);
    });
    let [mut reader, mut writer] = pipe_ends();
    let (mut sent, mut received) = (0u64, 0u64);
    repeat("writes", move || {
        sent += 1;
        if writer.write(&sent.to_le_bytes()).ok() != Some(8) {
            fail("write");
        }
        sleep_for(200_000);
    });
    repeat("reads", move || {
        let mut bytes = [0; 8];
        received += 1;
        if reader.read(&mut bytes).ok() != Some(8) || u64::from_le_bytes(bytes) != received {
            fail("read");
        }
    });
    let (silent, _peer) = UnixDatagram::pair().unwrap();
    silent.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    repeat("receives", move || {
        let error = silent.recv(&mut [0; 8]).expect_err("nobody sends");
        black_box(&_peer);
        if error.kind() != std::io::ErrorKind::WouldBlock {
            fail("recv");
        }
    });
    // `write` and `writev` to a full socket with a timeout wait, and then say that it is full.
    let (full, _reader) = UnixStream::pair().unwrap();
    full.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut full = File::from(OwnedFd::from(full));
    while full.write(&[0; 4096]).is_ok() {}
    repeat("is full", move || {
        // Computing first: the thread is stopped at the moment between the two.
        black_box(checksum(3_000));
        let results = [full.write(&[0; 4096]), full.write_vectored(&[IoSlice::new(&[0; 4096])])];
        black_box(&_reader);
        let is_full = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        if !results.into_iter().all(|result| result.is_err_and(is_full)) {
            fail("write to a full socket");
        }
    });
    // Between computing and waiting: the moments in which a thread is stopped too late.
    repeat("alternates", move || {
        let expected = checksum(black_box(2_000));
        if checksum(black_box(2_000)) != expected {
            fail("checksum");
        }
        wait_for_events(epoll, 1);
        black_box(checksum(3_000));
        sleep_for(50_000);
    });
    let (integers, floats) = (checksum(black_box(100_000)), float_checksum(black_box(100_000)));
    repeat("computes", move || {
        if checksum(black_box(100_000)) != integers || float_checksum(black_box(100_000)) != floats {
            fail("checksum");
        }
    });
    // SAFETY: the handler adds to an atomic, which is async-signal-safe.
    unsafe { signal(SIGNAL, count_signal) };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let counter = match line.as_deref() {
            Ok("signals") => Some(&SIGNALS),
            Ok("interrupted") => Some(&INTERRUPTED),
            _ => None,
        };
        if let Some(counter) = counter {
            println!("{}", counter.load(Ordering::Relaxed));
            continue;
        }
        let progress = PROGRESS.lock().unwrap();
        let counts: Vec<_> = progress.iter().map(|count| count.load(Ordering::Relaxed).to_string()).collect();
        println!("{}", counts.join(" "));
    }
}

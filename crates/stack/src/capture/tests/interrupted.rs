//! The effect of captures on the user's system calls. The test counts the calls that are
//! interrupted: without captures, with them, with captures that may stay pending, and with signals
//! alone.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

/// The number of captures over all calls.
const CAPTURES: u64 = 2_000;
/// One capture in this many may interrupt a call, when the thread enters it just after it was
/// observed running.
const RARE: u64 = 50;
/// The time limit for the captures of one kind of call. A slow machine makes fewer in it.
const TIME: Duration = Duration::from_secs(2);
/// The number of attempts. On a busy machine a thread may be preempted between the observation and
/// the signal.
const ATTEMPTS: usize = 3;
const WAIT: Duration = Duration::from_millis(2);
/// The time that the thread computes between calls.
const WORK: Duration = Duration::from_micros(500);

/// A function that makes a call which ends after about [`WAIT`], and returns whether it was
/// interrupted.
type Call = fn(&Peer) -> bool;

/// The other side of a call, which answers every [`WAIT`].
struct Peer {
    stream: UnixStream,
    pipe: (std::io::PipeReader, std::io::PipeWriter),
}

fn interrupted() -> bool {
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
}

fn timespec() -> libc::timespec {
    libc::timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos() as i64 }
}

fn nanosleep(_: &Peer) -> bool {
    // SAFETY: the time is valid; the remaining time is not requested.
    unsafe { libc::nanosleep(&timespec(), std::ptr::null_mut()) != 0 }
}

fn poll(peer: &Peer) -> bool {
    let mut fd = libc::pollfd { fd: peer.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor.
    unsafe { libc::poll(&mut fd, 1, WAIT.as_millis() as i32) < 0 && interrupted() }
}

fn select(_: &Peer) -> bool {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: WAIT.as_micros() as i64 };
    let none = std::ptr::null_mut();
    // SAFETY: no descriptors at all.
    unsafe { libc::select(0, none, none, none, &mut time) < 0 && interrupted() }
}

fn receive_with_a_timeout(peer: &Peer) -> bool {
    let mut buffer = [0u8; 8];
    // SAFETY: the buffer has that length.
    unsafe { libc::recv(peer.stream.as_raw_fd(), buffer.as_mut_ptr().cast(), 8, 0) < 0 && interrupted() }
}

fn futex_with_a_timeout(_: &Peer) -> bool {
    let word = 0u32;
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the time are valid during the call.
    unsafe { libc::syscall(libc::SYS_futex, &word, wait, 0, &timespec()) < 0 && interrupted() }
}

fn read_of_a_pipe(peer: &Peer) -> bool {
    let mut byte = [0u8; 1];
    // SAFETY: the buffer has that length.
    unsafe { libc::read(peer.pipe.0.as_raw_fd(), byte.as_mut_ptr().cast(), 1) != 1 }
}

fn write_to_a_pipe(peer: &Peer) -> bool {
    let much = [0u8; 1 << 14];
    // SAFETY: the buffer has that length.
    let written = unsafe { libc::write(peer.pipe.1.as_raw_fd(), much.as_ptr().cast(), much.len()) };
    written != much.len() as isize
}

const CALLS: [(&str, Call); 7] = [
    ("nanosleep", nanosleep),
    ("poll", poll),
    ("select", select),
    ("recv, SO_RCVTIMEO", receive_with_a_timeout),
    ("futex, timeout", futex_with_a_timeout),
    ("read, pipe", read_of_a_pipe),
    ("write, pipe", write_to_a_pipe),
];

#[derive(Clone, Copy, Default)]
struct Counts {
    calls: u64,
    interrupted: u64,
}

#[inline(never)]
fn calls(call: Call, peer: &Peer, stop: &AtomicBool) -> Counts {
    let mut counts = Counts::default();
    while !stop.load(Ordering::Relaxed) {
        counts.calls += 1;
        counts.interrupted += u64::from(black_box(call)(peer));
        let start = Instant::now();
        while start.elapsed() < WORK {}
    }
    counts
}

/// The ends of the pipes that the peer's ends belong to.
struct OtherEnds {
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
}

/// Writes a byte to the peer's reader, or reads from its writer, every [`WAIT`]. At the end, a
/// thread that still waits reads the end of the file.
fn answers(name: &str, mut ends: OtherEnds, stop: &AtomicBool) {
    use std::io::{Read, Write};
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(WAIT);
        match name {
            "read, pipe" => drop(ends.writer.write(b"x")),
            "write, pipe" => drop(ends.reader.read(&mut [0; 1 << 14])),
            _ => {}
        }
    }
}

/// Makes one call repeatedly, while `disturb` is called with the thread that makes it.
fn run(name: &'static str, call: Call, mut disturb: impl FnMut(Target)) -> Counts {
    let (stream, _other) = UnixStream::pair().unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let (input, output) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let peer = Peer { stream, pipe: (input.0, output.1) };
    let ends = OtherEnds { reader: output.0, writer: input.1 };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let answering = thread::spawn(move || answers(name, ends, &stopped));
    let (send, counts) = mpsc::channel();
    let subject = Subject::start(move |stop| send.send(calls(call, &peer, stop)).unwrap());
    let (mut seed, start) = (1u64, Instant::now());
    for _ in 0..CAPTURES / CALLS.len() as u64 {
        if start.elapsed() > TIME {
            break;
        }
        disturb(subject.target);
        // A random pause, so that the next one comes at any moment of the call.
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        thread::sleep(Duration::from_micros(seed >> 53));
    }
    subject.stop.store(true, Ordering::Relaxed);
    thread::sleep(WAIT);
    stop.store(true, Ordering::Relaxed);
    answering.join().unwrap();
    counts.recv().unwrap()
}

#[test]
fn few_system_calls_are_interrupted() {
    in_child_process(module_path!(), "few_system_calls_are_interrupted", Duration::from_secs(180), || {
        // SAFETY: the signal is ignored, so that a writer without a reader gets an error.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let counts: Vec<_> = (0..ATTEMPTS).map_while(|_| counted().err()).collect();
        assert!(counts.len() < ATTEMPTS, "interrupted calls, and captures: {counts:?}");
    });
}

/// Captures one after the other, each of which may stay pending until the next.
struct Pends {
    activity: Activity,
    pending: Option<PendingCapture>,
    captures: u64,
}

impl Pends {
    fn new() -> Pends {
        Pends { activity: Activity::new(Arc::new(AtomicU64::new(1)), |word| word), pending: None, captures: 0 }
    }

    fn capture(&mut self, capturer: &mut Capturer, target: Target) {
        if let Some(pending) = self.pending.take_if(|pending| pending.is_ready()) {
            let _ = capturer.collect(pending, || true);
        }
        let state = procfs::syscall(target.tid);
        if let Ok(Capture::Pending(pending)) = capturer.capture_or_wait(target, state, &self.activity, || true) {
            self.pending = Some(pending);
        }
        self.captures += 1;
    }
}

/// Counts the calls that captures interrupt, and the captures. Returns both as an error when there
/// are too many, of those that are waited for or of those that may stay pending.
fn counted() -> Result<(), [u64; 4]> {
    let mut capturer = Capturer::default();
    let (mut captures, mut taken, mut starved) = (0u64, 0, 0);
    let mut pending_captures = 0;
    let mut table = [[Counts::default(); 4]; CALLS.len()];
    for ((name, call), row) in CALLS.into_iter().zip(&mut table) {
        row[0] = run(name, call, |_| {});
        row[1] = run(name, call, |target| {
            let result = capturer.capture(target).map(|raw| raw.is_complete());
            captures += 1;
            taken += u64::from(result == Ok(true));
            starved += u64::from(result == Err(CaptureError::Timeout));
        });
        let mut pends = Pends::new();
        row[2] = run(name, call, |target| pends.capture(&mut capturer, target));
        pending_captures += pends.captures;
        row[3] = run(name, call, |target| {
            let _ = copy_by_signal(target, &mut Vec::new());
        });
    }
    let total = |column: usize| table.iter().map(|row| row[column].interrupted).sum::<u64>();
    let columns = ["no captures", "captures", "may be pending", "signals only"].map(|name| format!(" {name:>14}"));
    println!("{:<18}{}", "interrupted of all", columns.concat());
    for ((name, _), row) in CALLS.iter().zip(&table) {
        let cell = |counts: Counts| format!("{} of {}", counts.interrupted, counts.calls);
        println!("{name:<18}{}", row.map(|counts| format!(" {:>14}", cell(counts))).concat());
    }
    let totals = [0, 1, 2, 3].map(|column| format!(" {:>14}", total(column)));
    println!("{:<18}{}; {taken} stacks of {captures}", "all", totals.concat());
    assert!(table.iter().flatten().all(|counts| counts.calls > 0));
    // A pipe's last write may be interrupted by the end of its reader.
    assert!(total(0) * 100 <= total(3), "{} without", total(0));
    assert!(total(3) * RARE > 2 * captures, "only {} by signals alone: this test proves nothing", total(3));
    assert!(taken > 0 && (taken + starved) * 10 >= captures * 8, "only {taken} stacks were taken");
    let [with, with_pending] = [1, 2].map(|column| total(column).saturating_sub(total(0)));
    let is_rare = with * RARE <= captures && with_pending * RARE <= pending_captures;
    if is_rare { Ok(()) } else { Err([with, captures, with_pending, pending_captures]) }
}

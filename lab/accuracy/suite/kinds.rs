//! The kinds of blocks, each in a function of its own, which is the leaf of its stack.

use std::io::PipeReader;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pollwatch::Cause;

use super::cpu_monitor;
use super::ground_truth::{Block, Span, at};
use super::poll_recorder;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Computes,
    Sleeps,
    Locks,
    ReadsPipe,
    ReadsSocket,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::Computes, Kind::Sleeps, Kind::Locks, Kind::ReadsPipe, Kind::ReadsSocket];

    /// Returns the name of the function that blocks.
    pub(crate) fn leaf(self) -> &'static str {
        match self {
            Kind::Computes => "kinds::compute",
            Kind::Sleeps => "kinds::sleep_for",
            Kind::Locks => "kinds::locks",
            Kind::ReadsPipe => "kinds::reads_pipe",
            Kind::ReadsSocket => "kinds::reads_socket",
        }
    }

    pub(crate) fn route(self) -> &'static str {
        match self {
            Kind::Computes => "/computes",
            Kind::Sleeps => "/sleeps",
            Kind::Locks => "/locks",
            Kind::ReadsPipe => "/reads-pipe",
            Kind::ReadsSocket => "/reads-socket",
        }
    }

    /// Returns true if the block waits in a single system call.
    pub(crate) fn waits_in_syscall(self) -> bool {
        self != Kind::Computes
    }

    pub(crate) fn cause(self) -> Cause {
        match self {
            Kind::Computes => Cause::Cpu,
            Kind::Locks => Cause::Lock,
            Kind::Sleeps | Kind::ReadsPipe | Kind::ReadsSocket => Cause::Syscall,
        }
    }
}

/// The event that a block waits for. An injector releases it, except where the block ends by
/// itself.
pub(crate) enum Wait {
    Itself(Duration),
    Lock(Arc<Mutex<()>>),
    Pipe(PipeReader),
    Socket(UnixStream),
}

/// A block that is still to run. Run within a poll, it blocks the thread and records for how long.
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) wait: Wait,
    /// Receives a message when the block starts.
    pub(crate) started: Sender<()>,
}

impl Job {
    pub(crate) fn run(self) {
        let _ = self.started.send(());
        let before = cpu_monitor::own_run_delay();
        let (start, end) = match (self.kind, self.wait) {
            (Kind::Computes, Wait::Itself(time)) => compute(time),
            (_, Wait::Itself(time)) => sleep_for(time),
            (_, Wait::Lock(gate)) => locks(&gate),
            (_, Wait::Pipe(pipe)) => reads_pipe(pipe),
            (_, Wait::Socket(socket)) => reads_socket(socket),
        };
        let waited = cpu_monitor::own_run_delay().saturating_sub(before);
        let inner = Span { start: at(start), end: at(end) };
        poll_recorder::record_block(Block { kind: self.kind, inner, waited, request: None });
    }
}

#[inline(never)]
pub(crate) fn compute(time: Duration) -> (Instant, Instant) {
    let start = Instant::now();
    let mut word = 1u64;
    loop {
        for _ in 0..200 {
            word = std::hint::black_box(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1);
        }
        let end = Instant::now();
        if end - start >= time {
            return (start, end);
        }
    }
}

#[inline(never)]
fn sleep_for(time: Duration) -> (Instant, Instant) {
    let start = Instant::now();
    std::thread::sleep(time);
    (start, Instant::now())
}

#[inline(never)]
fn locks(gate: &Mutex<()>) -> (Instant, Instant) {
    let start = Instant::now();
    drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
    (start, Instant::now())
}

#[inline(never)]
fn reads_pipe(mut pipe: PipeReader) -> (Instant, Instant) {
    let start = Instant::now();
    let _ = pipe.read(&mut [0]);
    (start, Instant::now())
}

#[inline(never)]
fn reads_socket(mut socket: UnixStream) -> (Instant, Instant) {
    let start = Instant::now();
    let _ = socket.read(&mut [0]);
    (start, Instant::now())
}

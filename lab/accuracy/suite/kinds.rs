//! The ways to block, each in a function of its own: the leaf of its stack.

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

    /// The function that blocks.
    pub(crate) fn leaf(self) -> &'static str {
        match self {
            Kind::Computes => "kinds::computes",
            Kind::Sleeps => "kinds::sleeps",
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

    /// It waits in one system call.
    pub(crate) fn stands(self) -> bool {
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

/// What a block waits for; somebody else lets it go on.
pub(crate) enum Wait {
    Itself(Duration),
    Lock(Arc<Mutex<()>>),
    Pipe(PipeReader),
    Socket(UnixStream),
}

/// A block to be: run within a poll, it keeps the thread and writes down for how long.
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) wait: Wait,
    /// Told that it begins.
    pub(crate) go: Sender<()>,
}

impl Job {
    pub(crate) fn run(self) {
        let _ = self.go.send(());
        let before = cpu_monitor::own_run_delay();
        let (begin, end) = match (self.kind, self.wait) {
            (Kind::Computes, Wait::Itself(time)) => computes(time),
            (_, Wait::Itself(time)) => sleeps(time),
            (_, Wait::Lock(gate)) => locks(&gate),
            (_, Wait::Pipe(pipe)) => reads_pipe(pipe),
            (_, Wait::Socket(socket)) => reads_socket(socket),
        };
        let waited = cpu_monitor::own_run_delay().saturating_sub(before);
        let inner = Span { begin: at(begin), end: at(end) };
        poll_recorder::note(Block { kind: self.kind, inner, waited, request: None });
    }
}

#[inline(never)]
pub(crate) fn computes(time: Duration) -> (Instant, Instant) {
    let begin = Instant::now();
    let mut word = 1u64;
    loop {
        for _ in 0..200 {
            word = std::hint::black_box(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1);
        }
        let end = Instant::now();
        if end - begin >= time {
            return (begin, end);
        }
    }
}

#[inline(never)]
fn sleeps(time: Duration) -> (Instant, Instant) {
    let begin = Instant::now();
    std::thread::sleep(time);
    (begin, Instant::now())
}

#[inline(never)]
fn locks(gate: &Mutex<()>) -> (Instant, Instant) {
    let begin = Instant::now();
    drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
    (begin, Instant::now())
}

#[inline(never)]
fn reads_pipe(mut pipe: PipeReader) -> (Instant, Instant) {
    let begin = Instant::now();
    let _ = pipe.read(&mut [0]);
    (begin, Instant::now())
}

#[inline(never)]
fn reads_socket(mut socket: UnixStream) -> (Instant, Instant) {
    let begin = Instant::now();
    let _ = socket.read(&mut [0]);
    (begin, Instant::now())
}

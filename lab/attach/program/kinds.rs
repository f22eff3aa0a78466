//! The kinds of blocks, each in a function of its own, which is the innermost of the program.

use std::io::{PipeReader, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The event that a block waits for.
pub(crate) enum Wait {
    Itself(Duration),
    Lock(Arc<Mutex<()>>),
    Channel(Receiver<()>),
    Pipe(PipeReader),
    Socket(UnixStream),
}

/// Computes for some time. Returns the line of its loop.
#[inline(never)]
pub(crate) fn computes(time: Duration) -> u32 {
    let start = Instant::now();
    let mut word = 1u64;
    let line = line!();
    while start.elapsed() < time {
        for _ in 0..2000 {
            word = std::hint::black_box(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1);
        }
    }
    line
}

// Each of these returns the line of its call.

#[inline(never)]
pub(crate) fn sleeps(time: Duration) -> u32 {
    (std::thread::sleep(time), line!()).1
}

#[inline(never)]
pub(crate) fn locks(gate: &Mutex<()>) -> u32 {
    (drop(gate.lock().unwrap_or_else(PoisonError::into_inner)), line!()).1
}

#[inline(never)]
pub(crate) fn receives(channel: &Receiver<()>) -> u32 {
    (channel.recv(), line!()).1
}

#[inline(never)]
pub(crate) fn reads_pipe(mut pipe: PipeReader) -> u32 {
    (pipe.read(&mut [0]), line!()).1
}

#[inline(never)]
pub(crate) fn reads_socket(mut socket: UnixStream) -> u32 {
    (socket.read(&mut [0]), line!()).1
}

#[inline(never)]
pub(crate) fn in_place(time: Duration) -> u32 {
    tokio::task::block_in_place(|| (std::thread::sleep(time), line!()).1)
}

#[inline(never)]
pub(crate) fn pool(time: Duration) -> u32 {
    (std::thread::sleep(time), line!()).1
}

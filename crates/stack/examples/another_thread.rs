//! A service hangs, or a thread uses a whole CPU, and you want to know where it is, from inside the
//! process and without a debugger: prints the stacks of two other threads.
//!
//! `cargo run --release -p pollwatch-stack --example another_thread`

use std::hint::black_box;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pollwatch_stack::{CaptureError, Capturer, RawStack, Symbolizer, Target, capability, preload, procfs};

static LOCK: Mutex<u64> = Mutex::new(0);

#[inline(never)]
fn computes() {
    for i in 0u64.. {
        black_box(i.wrapping_mul(i));
    }
}

#[inline(never)]
fn waits_for_a_lock() {
    *LOCK.lock().unwrap() += 1;
}

/// Starts a thread and returns its target, which only the thread itself can make.
fn start(name: &str, run: fn()) -> Option<Target> {
    let (send, receive) = mpsc::channel();
    let builder = thread::Builder::new().name(name.to_owned());
    let body = move || {
        send.send(Target::current()).unwrap();
        run();
    };
    builder.spawn(body).expect("a thread can be started");
    receive.recv().expect("the thread sends its target")
}

/// Captures a stack. While the thread gets no CPU, or moves, it tries again for a second.
fn capture(capturer: &mut Capturer, target: Target) -> Result<(RawStack, Duration), CaptureError> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let start = Instant::now();
        match capturer.capture(target) {
            Err(CaptureError::Timeout | CaptureError::Moved) if start < deadline => {}
            result => return Ok((result?, start.elapsed())),
        }
    }
}

fn main() {
    preload();
    println!("stacks can be captured of {}\n", capability());
    let _held = LOCK.lock().unwrap();
    let threads = [("computes", computes as fn()), ("waits", waits_for_a_lock)];
    let targets = threads.map(|(name, run)| (name, start(name, run)));
    thread::sleep(Duration::from_millis(50));

    let mut capturer = Capturer::new();
    for (name, target) in targets {
        let Some(target) = target else { continue };
        println!("thread {name} (id {}), {:?}", target.tid, procfs::syscall(target.tid));
        match capture(&mut capturer, target) {
            Ok((raw, took)) => {
                let stack = Symbolizer::shared().symbolize(&raw);
                println!("  captured in {took:?}: {stack}\n{stack:#}");
            }
            Err(error) => println!("  no stack: {error}"),
        }
    }
}

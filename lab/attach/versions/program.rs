//! A program whose blocks are known, for each version of tokio: `run` builds it and says what
//! `pollwatch attach` has to report. It compiles with every version of tokio since 1.30.
//!
//! It blocks in four places, and waits in three that block nobody. It ends with its standard input.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The shortest time of a block. Each function adds some of its own, so that the compiler merges
/// none with another. It returns the line of its call, so that it does not end with a jump.
const BLOCK: Duration = Duration::from_millis(60);

const fn longer(millis: u64) -> Duration {
    BLOCK.saturating_add(Duration::from_millis(millis))
}

/// The time between two blocks.
const PAUSE: Duration = Duration::from_millis(30);

/// Blocks a worker in a system call.
#[inline(never)]
fn sleeps_on_worker() -> u32 {
    (thread::sleep(longer(1)), line!()).1 // found
}

/// Blocks a worker in a lock.
#[inline(never)]
fn locks_on_worker(gate: &Mutex<()>) -> u32 {
    (drop(gate.lock().unwrap()), line!()).1 // found
}

/// Blocks a current-thread runtime in the root of `block_on`.
#[inline(never)]
fn sleeps_in_root() -> u32 {
    (thread::sleep(longer(2)), line!()).1 // found
}

/// Blocks a current-thread runtime in a task of a `LocalSet`.
#[inline(never)]
fn sleeps_in_local() -> u32 {
    (thread::sleep(longer(3)), line!()).1 // found
}

/// Blocks nobody: a thread of the blocking pool.
#[inline(never)]
fn sleeps_in_pool() -> u32 {
    (thread::sleep(longer(4)), line!()).1 // silent
}

/// Blocks nobody: the worker is handed on before.
#[inline(never)]
fn sleeps_in_place() -> u32 {
    tokio::task::block_in_place(|| (thread::sleep(longer(5)), line!()).1) // silent
}

/// Blocks nobody: a thread that has nothing to do with tokio.
#[inline(never)]
fn sleeps_elsewhere() -> u32 {
    (thread::sleep(longer(6)), line!()).1 // silent
}

fn workers(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

/// Calls the function again and again, with pauses that block nobody.
async fn repeat(mut block: impl FnMut() -> u32) {
    loop {
        std::hint::black_box(block());
        tokio::time::sleep(PAUSE).await;
    }
}

/// Becomes ready at the second poll, as `tokio::task::yield_now` does.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

/// A task that is polled all the time, in bursts, and never for long.
async fn is_busy() {
    loop {
        for _ in 0..20_000 {
            Yield(false).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn main() {
    let gate = Arc::new(Mutex::new(()));
    let holder = Arc::clone(&gate);
    thread::spawn(move || loop {
        let held = holder.lock().unwrap();
        thread::sleep(BLOCK);
        drop(held);
        thread::sleep(PAUSE);
    });
    thread::spawn(|| loop {
        std::hint::black_box(sleeps_elsewhere());
    });

    let blocked = workers("blocked");
    blocked.spawn(repeat(sleeps_on_worker));
    blocked.spawn(repeat(move || locks_on_worker(&gate)));

    let silent = workers("silent");
    silent.spawn(is_busy());
    silent.spawn(repeat(sleeps_in_place));
    silent.spawn(async {
        loop {
            tokio::task::spawn_blocking(sleeps_in_pool).await.unwrap();
        }
    });

    let root = Builder::new_current_thread().enable_all().build().unwrap();
    thread::Builder::new().name("root".into()).spawn(move || root.block_on(repeat(sleeps_in_root))).unwrap();
    let local = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = tokio::task::LocalSet::new();
        tasks.spawn_local(repeat(sleeps_in_local));
        runtime.block_on(tasks);
    };
    thread::Builder::new().name("local".into()).spawn(local).unwrap();

    println!("ready");
    // Ends with whoever started it.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

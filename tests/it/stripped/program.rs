//! A program that blocks a worker in three ways, each until its stack is reported, and prints the
//! expected report.

use std::hint::black_box;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use pollwatch::{Phase, Watchdog};

/// The limit of all attempts. On a busy machine a thread may be starved before it blocks.
const TIMEOUT: Duration = Duration::from_secs(120);

#[inline(never)]
fn sleeps(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[inline(never)]
fn computes(stop: &AtomicBool) {
    let mut sum = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
}

#[inline(never)]
fn locks(mutex: &Mutex<u8>) {
    *mutex.lock().unwrap() += 1;
}

pub(crate) fn main() {
    tracing_subscriber::fmt().with_ansi(false).without_time().init();
    until_reported(&["a sleep"], sleeps as *const (), |block| {
        let stop = block.stop.clone();
        block.run(async move { sleeps(&stop) }, || ());
    });
    until_reported(&["computing"], computes as *const (), |block| {
        let stop = block.stop.clone();
        block.run(async move { computes(&stop) }, || ());
    });
    // With symbols the kind of lock is known.
    until_reported(&["a lock", "a Mutex"], locks as *const (), |block| {
        let mutex: &'static Mutex<u8> = Box::leak(Box::default());
        let held = mutex.lock().unwrap();
        block.run(async move { locks(mutex) }, || drop(held));
    });
}

/// One attempt.
struct Block {
    watchdog: Watchdog,
    /// The reasons of the stalls reported with a stack.
    collected: mpsc::Receiver<&'static str>,
    stop: Arc<AtomicBool>,
    /// The offset of the blocking function in the file.
    offset: usize,
    is_right: bool,
    /// The reasons that are right: without symbols, and with them.
    reasons: &'static [&'static str],
}

impl Block {
    /// Polls a blocking future until its stall is reported with a stack.
    #[track_caller]
    fn run(&mut self, future: impl Future<Output = ()> + Send + 'static, release: impl FnOnce()) {
        let runtime = self.watchdog.runtime("main").worker_threads(1).build().unwrap();
        let _guard = runtime.enter();
        let task = self.watchdog.spawn(future);
        let (offset, id, location) = (self.offset, task.id(), Location::caller());
        self.is_right = self.collected.recv_timeout(TIMEOUT).is_ok_and(|reason| self.reasons.contains(&reason));
        self.stop.store(true, Ordering::Relaxed);
        release();
        runtime.block_on(task).unwrap();
        println!("expected of {}: task {id} spawned at {location} in {offset:#x}", self.reasons[0]);
    }
}

fn until_reported(reasons: &'static [&'static str], function: *const (), attempt: impl Fn(&mut Block)) {
    let started = Instant::now();
    while started.elapsed() < TIMEOUT {
        let (tell, collected) = mpsc::channel();
        let on_stall = move |stall: &pollwatch::Stall| {
            if stall.phase == Phase::Ongoing && stall.stack.is_some() {
                let _ = tell.send(stall.reason);
            }
        };
        let watchdog = Watchdog::builder().on_stall(on_stall).start().unwrap();
        let (stop, offset) = (Arc::default(), function as usize - base());
        let mut block = Block { watchdog, collected, stop, offset, is_right: false, reasons };
        attempt(&mut block);
        if block.is_right {
            return;
        }
    }
    panic!("{} was never reported", reasons[0]);
}

/// The address at which the program's file is mapped.
fn base() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let program = std::env::current_exe().unwrap();
    let first = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
    usize::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
}

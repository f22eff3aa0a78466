//! A program that verifies its own work, to find whether an observer disturbs it: no system call is
//! interrupted, no sum is wrong, no thread stays stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Options, ready, runtime};

/// The longest time for which a thread may make no progress. An observer that died and left a
/// thread stopped exceeds it; a busy machine does not.
const STOPPED: Duration = Duration::from_secs(10);

/// One loop: how often it has completed, and how often its check failed.
#[derive(Default)]
struct Progress {
    rounds: AtomicU64,
    failures: AtomicU64,
}

/// Does one round of a check. Returns true if it was right.
type Check = fn() -> bool;

const CHECKS: [(&str, Check); 5] =
    [("nanosleep", sleeps), ("poll", polls), ("futex", waits_for_a_lock), ("pipe", reads_a_pipe), ("checksum", sums)];

/// Runs the checks for some time, on threads of their own and in tasks. An error names what failed.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let stop = AtomicBool::new(false);
    let progress: [Progress; 2 * CHECKS.len()] = Default::default();
    let runtime = runtime(options);
    std::thread::scope(|scope| {
        let (threads, tasks) = progress.split_at(CHECKS.len());
        for (progress, (name, check)) in threads.iter().zip(CHECKS) {
            let stop = &stop;
            let named = std::thread::Builder::new().name(format!("check-{name}"));
            named.spawn_scoped(scope, move || repeat(progress, check, stop)).expect("a thread");
        }
        scope.spawn(|| runtime.block_on(in_tasks(tasks, &stop)));
        ready(std::process::id());
        let stopped = watch(options, &progress);
        stop.store(true, Ordering::Relaxed);
        if let Some(stopped) = stopped {
            // The thread would never be joined.
            eprintln!("attach-target: {stopped}");
            std::process::exit(1);
        }
    });
    let (mut rounds, mut failed) = (0, Vec::new());
    for (i, progress) in progress.iter().enumerate() {
        rounds += progress.rounds.load(Ordering::Relaxed);
        match progress.failures.load(Ordering::Relaxed) {
            0 => {}
            failures => failed.push(format!("{failures} failures of {}", name(i))),
        }
    }
    println!("{rounds} rounds");
    if failed.is_empty() { Ok(()) } else { Err(failed.join(", ")) }
}

fn name(i: usize) -> String {
    let place = if i < CHECKS.len() { "on a thread" } else { "in a task" };
    format!("{} {place}", CHECKS[i % CHECKS.len()].0)
}

fn repeat(progress: &Progress, check: Check, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        round(progress, check);
    }
}

fn round(progress: &Progress, check: Check) {
    if !check() {
        progress.failures.fetch_add(1, Ordering::Relaxed);
    }
    progress.rounds.fetch_add(1, Ordering::Relaxed);
}

/// Runs the same in tasks, which block their workers.
async fn in_tasks(all: &[Progress], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for (progress, (_, check)) in all.iter().zip(CHECKS) {
            round(progress, check);
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Returns what made no progress for too long, if anything did. Ends after some time, or at a line
/// on the standard input.
fn watch(options: &Options, all: &[Progress]) -> Option<String> {
    let end = Instant::now() + options.time;
    let is_over = Arc::new(AtomicBool::new(false));
    if options.waits {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_line(&mut String::new());
            is_over.store(true, Ordering::Relaxed);
        });
    }
    let mut last: Vec<_> = all.iter().map(|_| (0, Instant::now())).collect();
    while Instant::now() < end && !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        for (i, (progress, (rounds, since))) in all.iter().zip(&mut last).enumerate() {
            let now = progress.rounds.load(Ordering::Relaxed);
            if now != *rounds {
                (*rounds, *since) = (now, Instant::now());
            } else if since.elapsed() > STOPPED {
                return Some(format!("{} has stopped", name(i)));
            }
        }
    }
    None
}

fn last_error() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn sleeps() -> bool {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 700_000 };
    // SAFETY: the structure lives until the call returns; the kernel may leave out the other one.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) == 0 }
}

fn polls() -> bool {
    // SAFETY: no descriptor is given.
    unsafe { libc::poll(std::ptr::null_mut(), 0, 1) == 0 }
}

/// A futex that nobody wakes ends with a timeout, and never with `EINTR`.
fn waits_for_a_lock() -> bool {
    let word = 7u32;
    let time = libc::timespec { tv_sec: 0, tv_nsec: 500_000 };
    // SAFETY: the word and the time live until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 7, &raw const time)
    };
    result == -1 && last_error() == libc::ETIMEDOUT
}

/// A read that waits until another thread writes. It gets the byte, or it was interrupted.
fn reads_a_pipe() -> bool {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let Ok((reader, mut writer)) = std::io::pipe() else { return false };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_micros(300));
            drop(writer.write_all(b"x"));
        });
        let mut byte = 0u8;
        // SAFETY: the buffer has the length that is given.
        let read = unsafe { libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
        read == 1 && byte == b'x'
    })
}

/// A computation with a known result, in registers and on the stack, whose values a wrong stop
/// would change.
fn sums() -> bool {
    let mut words = [0u64; 256];
    for (i, word) in words.iter_mut().enumerate() {
        *word = std::hint::black_box(i as u64 + 1);
    }
    let mut floats = 0.0f64;
    for _ in 0..200 {
        for word in &mut words {
            *word = std::hint::black_box(word.rotate_left(17));
            floats += 0.5;
        }
    }
    let expected = |i: usize| (i as u64 + 1).rotate_left((17 * 200) % 64);
    floats == 25_600.0 && words.iter().enumerate().all(|(i, word)| *word == expected(i))
}

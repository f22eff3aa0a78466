//! The threads of rayon's pools: which of them are busy, and where.

use std::time::{Duration, Instant};

use pollwatch_stack::{CaptureError, Frame, LockSearch, Stack, Symbolizer, Tid, procfs};

use super::snapshot;
use crate::measure::runtime::meter::Meter;
use crate::model::pool::PoolActivity;

/// The most threads that are read.
const MAX_THREADS: usize = 256;
/// The time after which no further thread is read.
const MAX_TIME: Duration = Duration::from_millis(50);
/// The number of attempts to read a thread that moves.
const ATTEMPTS: u32 = 2;

/// The functions in which a thread waits for a pool that it is no part of.
const WAITS: &str = "rayon_core::latch::LockLatch::";
/// The functions that every thread of a pool is in.
const WORKER: &[&str] = &["rayon_core::registry::main_loop", "rayon_core::registry::ThreadBuilder::run"];
/// The functions in which a thread of a pool searches for a job or sleeps.
const IDLE: &[&str] = &[
    "rayon_core::sleep::",
    "rayon_core::registry::WorkerThread::wait_until",
    "rayon_core::registry::WorkerThread::find_work",
    "rayon_core::registry::main_loop",
];
/// The functions that run a job.
const JOB: &[&str] = &["rayon_core::job::", "rayon_core::registry::WorkerThread::execute"];
/// Functions that are not the program's, also where the files of functions are not known.
const RAYON: &[&str] = &["rayon::", "rayon_core::", "crossbeam_deque::", "crossbeam_epoch::"];

/// A busy thread of a pool.
struct BusyThread {
    location: Frame,
    cpu_time: Duration,
    stack: Stack,
}

fn is_any(frame: &Frame, starts: &[&str]) -> bool {
    frame.function.as_ref().is_some_and(|name| starts.iter().any(|start| name.starts_with(start)))
}

/// Returns whether a thread with this stack waits for a pool that it is no part of.
pub(super) fn is_waited_for(stack: &Stack) -> bool {
    stack.frames().iter().any(|frame| is_any(frame, &[WAITS]))
}

fn is_worker(stack: &Stack) -> bool {
    stack.frames().iter().any(|frame| is_any(frame, WORKER))
}

/// Returns the function that a thread of a pool is busy with: the innermost one of the program in
/// its current job, else the innermost of all. `None` if it has no job, or waits for the job of
/// another thread.
fn busy_location(frames: &[Frame]) -> Option<&Frame> {
    for frame in frames {
        if is_any(frame, IDLE) {
            return None;
        }
        if is_any(frame, JOB) {
            return frames.first();
        }
        if !(frame.library || frame.dependency || is_any(frame, RAYON)) {
            return Some(frame);
        }
    }
    None
}

/// Returns what the threads of rayon do; `None` if none of them is busy. The thread `waiting` is
/// not read.
pub(super) fn activity(search: &mut LockSearch, meter: &Meter, waiting: Tid) -> Option<PoolActivity> {
    let started = Instant::now();
    let own = Tid::current();
    let mut tids = procfs::threads()?;
    tids.retain(|tid| *tid != waiting && Some(*tid) != own);
    // Threads of rayon are rarely those of a runtime.
    let measured: Vec<_> = meter.threads().iter().filter_map(|thread| thread.tid).collect();
    tids.sort_by_key(|tid| measured.contains(tid));
    let (mut threads_read, mut busy) = (0, Vec::new());
    for tid in tids.into_iter().take(MAX_THREADS) {
        if started.elapsed() > MAX_TIME {
            break;
        }
        if snapshot::is_own(tid) {
            continue;
        }
        let Some(stack) = read(search, tid).filter(is_worker) else { continue };
        threads_read += 1;
        if let Some(location) = busy_location(stack.frames()).cloned() {
            busy.push(BusyThread { location, cpu_time: tid.cpu_time().unwrap_or_default(), stack });
        }
    }
    busiest(busy, threads_read)
}

/// Captures and symbolizes the stack of a thread.
fn read(search: &mut LockSearch, tid: Tid) -> Option<Stack> {
    for _ in 0..ATTEMPTS {
        match search.stack(tid) {
            Ok(raw) => return Some(Symbolizer::shared().symbolize(&raw)),
            Err(CaptureError::Moved | CaptureError::Timeout) => {}
            Err(_) => return None,
        }
    }
    None
}

/// Returns the function that most threads are in; of several, the one of the thread with the most
/// CPU time.
fn busiest(busy: Vec<BusyThread>, threads_read: usize) -> Option<PoolActivity> {
    let function = |thread: &BusyThread| (thread.location.file.clone(), thread.location.name());
    let functions: Vec<_> = busy.iter().map(function).collect();
    let threads_in = |function| functions.iter().filter(|other| *other == function).count();
    let counts: Vec<_> = functions.iter().map(threads_in).collect();
    let (thread, threads) = busy.into_iter().zip(counts).max_by_key(|(thread, count)| (*count, thread.cpu_time))?;
    Some(PoolActivity { location: thread.location, threads, threads_read, stack: thread.stack })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn frame(name: &str) -> Frame {
        let mut frame = Frame::default();
        frame.function = Some(name.into());
        frame.dependency = name.starts_with("dependency");
        frame.library = name.starts_with("std") || name.starts_with("core");
        frame
    }

    /// The frames of a thread of a pool, innermost first.
    fn frames(inner: &[&str]) -> Vec<Frame> {
        let outer =
            ["rayon_core::registry::main_loop", "rayon_core::registry::ThreadBuilder::run", "std::thread::main"];
        inner.iter().chain(&outer).map(|name| frame(name)).collect()
    }

    #[test]
    fn a_thread_is_busy_with_the_innermost_function_of_its_job() {
        let of = |inner: &[&str]| busy_location(&frames(inner)).map(Frame::name);
        let is_in = |name: &str| Some(name.to_owned());
        let (job, wait) = ("rayon_core::job::StackJob::execute", "rayon_core::registry::WorkerThread::wait_until_cold");
        assert_eq!(of(&["core::f64::sqrt", "app::pixel", "app::render", job, wait]), is_in("app::pixel"));
        assert_eq!(of(&["std::thread::sleep", "dependency::f", "app::f", job, wait]), is_in("app::f"));
        assert_eq!(of(&["core::iter::sum", "rayon::iter::sum::run", job, wait]), is_in("core::iter::sum"));
        // One that has no job, and ones that wait for the other half of a join.
        let sleep = ["std::sys::futex_wait", "rayon_core::sleep::Sleep::sleep", wait];
        assert_eq!(of(&sleep), None);
        assert_eq!(of(&["std::thread::yield_now", wait, "rayon_core::join::join", "app::f", job, wait]), None);
        assert_eq!(of(&[&sleep[..], &["app::f", job, wait]].concat()), None);
        assert_eq!(
            of(&["app::stolen", job, wait, "rayon_core::join::join", "app::f", job, wait]),
            is_in("app::stolen")
        );
        assert_eq!(of(&["crossbeam_deque::steal", "rayon_core::registry::WorkerThread::find_work", wait]), None);
    }

    #[test]
    fn the_busiest_function_is_that_of_most_threads_then_of_most_cpu_time() {
        let thread = |name: &str, line, millis| {
            let mut location = frame(name);
            location.line = Some(line);
            let stack = Stack::new(vec![location.clone()], true, |_| false);
            BusyThread { location, cpu_time: Duration::from_millis(millis), stack }
        };
        let found =
            busiest(vec![thread("a", 1, 5), thread("b", 2, 90), thread("a", 3, 7), thread("a", 4, 6)], 8).unwrap();
        assert_eq!((found.location.line, found.threads, found.threads_read), (Some(3), 3, 8));
        assert_eq!(found.to_string(), "of the 8 rayon threads that were read, 3 are in a");
        let found = busiest(vec![thread("a", 1, 5), thread("b", 2, 90)], 2).unwrap();
        assert_eq!((found.location.name().as_str(), found.threads), ("b", 1));
        assert!(busiest(Vec::new(), 8).is_none());
    }
}

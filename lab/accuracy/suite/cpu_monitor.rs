//! Measures whether a CPU was available: by a thread that wakes each millisecond, and by the run
//! delay of pollwatch's threads. The kernel is the source of both, not pollwatch.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ground_truth::{MS, Poll, Span, now};

/// A line of `schedstat`: the run delay in nanoseconds, and the number of time slices.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    delay: u64,
    turns: u64,
}

fn read(file: &File) -> Option<Waits> {
    let mut text = [0; 96];
    let len = file.read_at(&mut text, 0).ok()?;
    let mut words = std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().skip(1).map(str::parse);
    Some(Waits { delay: words.next()?.ok()?, turns: words.next()?.ok()? })
}

thread_local! {
    static OWN: RefCell<Option<File>> = RefCell::new(File::open("/proc/thread-self/schedstat").ok());
}

/// Returns the run delay of this thread so far, or 0 where the kernel does not count it.
pub(crate) fn own_run_delay() -> u64 {
    OWN.with_borrow(|file| file.as_ref().and_then(read)).map_or(0, |waits| waits.delay)
}

/// Returns the CPU time of this thread in nanoseconds.
pub(crate) fn own_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Opens the `schedstat` files of pollwatch's threads.
fn watched() -> Vec<File> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_ours = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with("pollwatch"))
    };
    tasks.filter(is_ours).filter_map(|task| File::open(task.path().join("schedstat")).ok()).collect()
}

struct Sample {
    at: u64,
    waits: Vec<Waits>,
}

/// The times in which no CPU was available.
#[derive(Default)]
pub(crate) struct CpuAvailability {
    samples: Vec<Sample>,
    /// Times in which the monitor overslept without run delay: the machine or the process was
    /// paused.
    pauses: Vec<Span>,
    /// Times in which the monitor waited for a CPU.
    late: Vec<Span>,
    /// Long polls whose threads waited for a CPU, with their run delay.
    starved: Vec<(Span, u64)>,
}

impl CpuAvailability {
    /// Returns the record of a machine that was paused during `span`.
    #[cfg(test)]
    pub(crate) fn paused_during(span: Span) -> CpuAvailability {
        CpuAvailability { pauses: vec![span], ..CpuAvailability::default() }
    }

    /// Returns the time within a span for which the machine, or this process, was paused.
    pub(crate) fn pause_within(&self, span: Span) -> u64 {
        self.pauses.iter().map(|pause| pause.overlap(span)).sum()
    }

    /// Returns the time within a span for which pollwatch, or the monitor itself, had no CPU.
    pub(crate) fn delay_within(&self, span: Span) -> u64 {
        let late: u64 = self.late.iter().map(|late| late.overlap(span)).sum();
        late.max(self.pause_within(span)).max(self.waited(span))
    }

    /// Adds the long polls that were given no CPU. Pollwatch waits when it requests the stack of
    /// such a thread.
    pub(crate) fn remember(&mut self, threshold: u64, polls: &[Poll]) {
        let starved = polls.iter().filter(|poll| poll.outer.nanos() >= threshold && poll.waited >= MS / 2);
        self.starved.extend(starved.map(|poll| (poll.outer, poll.waited.min(ANSWER))));
    }

    /// Returns the time within a span for which pollwatch, or a thread that it waited for, had no
    /// CPU.
    pub(crate) fn hold_up_within(&self, span: Span) -> u64 {
        let starved: u64 = self.starved.iter().map(|(poll, waited)| poll.overlap(span).min(*waited)).sum();
        self.delay_within(span) + starved
    }

    /// Returns the run delay of pollwatch's threads within a span. The kernel adds a delay when the
    /// thread runs again.
    fn waited(&self, span: Span) -> u64 {
        let Some(from) = self.samples.iter().rposition(|s| s.at <= span.start) else { return 0 };
        let end = self.samples.iter().position(|s| s.at >= span.end).unwrap_or(self.samples.len() - 1);
        let thread = |i: usize| {
            let then = self.samples[from].waits[i];
            let at_end = self.samples[end].waits[i];
            // A thread that waits at the end of the span has its delay counted when it runs again.
            let later = self.samples[end..].iter().map(|s| s.waits[i]).find(|w| w.turns > at_end.turns);
            later.unwrap_or(at_end).delay.saturating_sub(then.delay)
        };
        (0..self.samples[from].waits.len()).map(thread).sum()
    }
}

pub(crate) struct CpuMonitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<CpuAvailability>,
}

/// The longest wait for a stack.
const ANSWER: u64 = 5 * MS;

const NAP: u64 = MS;
/// The monitor has been delayed if it oversleeps by this much.
const LATE: u64 = MS;

impl CpuMonitor {
    pub(crate) fn start() -> CpuMonitor {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            let watched = watched();
            let mut availability = CpuAvailability::default();
            while !stopped.load(Ordering::Acquire) {
                let (start, delay) = (now(), own_run_delay());
                std::thread::sleep(Duration::from_nanos(NAP));
                let end = now();
                let overslept = (end - start).saturating_sub(NAP);
                if overslept >= LATE {
                    let waited = own_run_delay().saturating_sub(delay);
                    let list = if waited >= overslept / 2 { &mut availability.late } else { &mut availability.pauses };
                    list.push(Span { start, end });
                }
                let waits = watched.iter().map(|file| read(file).unwrap_or_default()).collect();
                availability.samples.push(Sample { at: now(), waits });
            }
            availability
        };
        CpuMonitor {
            stop,
            thread: std::thread::Builder::new().name("cpu_monitor".into()).spawn(run).expect("a thread"),
        }
    }

    pub(crate) fn stop(self) -> CpuAvailability {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the cpu_monitor does not panic")
    }
}

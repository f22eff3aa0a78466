//! Whether there was a CPU to be had: a thread that wakes each millisecond, and what the kernel says of pollwatch's own threads.
//! None of it is asked of pollwatch.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ground_truth::{MS, Poll, Span, now};

/// A line of `schedstat`: nanoseconds ready to run without a CPU, and how often it was given one.
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

/// How long this thread was ready to run in all, but had no CPU. 0 where nobody counts.
pub(crate) fn own_run_delay() -> u64 {
    OWN.with_borrow(|file| file.as_ref().and_then(read)).map_or(0, |waits| waits.delay)
}

/// The CPU time of this thread.
pub(crate) fn own_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The threads whose being served matters: pollwatch's.
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

/// What it saw.
#[derive(Default)]
pub(crate) struct Watch {
    samples: Vec<Sample>,
    /// Times in which it did not run though it meant to, and no other thread had its CPU: everything stood still.
    still: Vec<Span>,
    /// And those in which it had to wait for a CPU.
    late: Vec<Span>,
    /// Long polls whose threads did, and for how long.
    starved: Vec<(Span, u64)>,
}

impl Watch {
    /// Everything stood still then.
    #[cfg(test)]
    pub(crate) fn standing(span: Span) -> Watch {
        Watch { still: vec![span], ..Watch::default() }
    }

    /// For how long the whole machine, or this process, stood still within a span.
    pub(crate) fn standstill(&self, span: Span) -> u64 {
        self.still.iter().map(|still| still.overlap(span)).sum()
    }

    /// For how long pollwatch, or the sentinel itself, was kept from a CPU within a span.
    pub(crate) fn kept_off(&self, span: Span) -> u64 {
        let late: u64 = self.late.iter().map(|late| late.overlap(span)).sum();
        late.max(self.standstill(span)).max(self.waited(span))
    }

    /// Has it know of the long polls, too, that were given no CPU: who asks such a thread for its stack waits for the answer.
    pub(crate) fn remember(&mut self, threshold: u64, polls: &[Poll]) {
        let starved = polls.iter().filter(|poll| poll.outer.nanos() >= threshold && poll.waited >= MS / 2);
        self.starved.extend(starved.map(|poll| (poll.outer, poll.waited.min(ANSWER))));
    }

    /// For how long pollwatch, or who it waited for, was kept from a CPU within a span.
    pub(crate) fn held_up(&self, span: Span) -> u64 {
        let starved: u64 = self.starved.iter().map(|(poll, waited)| poll.overlap(span).min(*waited)).sum();
        self.kept_off(span) + starved
    }

    /// What pollwatch's threads waited for a CPU, as the kernel counts it once they run again.
    fn waited(&self, span: Span) -> u64 {
        let Some(from) = self.samples.iter().rposition(|s| s.at <= span.begin) else { return 0 };
        let end = self.samples.iter().position(|s| s.at >= span.end).unwrap_or(self.samples.len() - 1);
        let thread = |i: usize| {
            let then = self.samples[from].waits[i];
            let at_end = self.samples[end].waits[i];
            // It waits at the end of the span: how long is told when it runs again.
            let later = self.samples[end..].iter().map(|s| s.waits[i]).find(|w| w.turns > at_end.turns);
            later.unwrap_or(at_end).delay.saturating_sub(then.delay)
        };
        (0..self.samples[from].waits.len()).map(thread).sum()
    }
}

pub(crate) struct Sentinel {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Watch>,
}

/// Nobody waits for longer for a stack.
const ANSWER: u64 = 5 * MS;

const NAP: u64 = MS;
/// Later than this it was kept off.
const LATE: u64 = MS;

impl Sentinel {
    pub(crate) fn start() -> Sentinel {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            let watched = watched();
            let mut watch = Watch::default();
            while !stopped.load(Ordering::Acquire) {
                let (begin, delay) = (now(), own_run_delay());
                std::thread::sleep(Duration::from_nanos(NAP));
                let end = now();
                let overslept = (end - begin).saturating_sub(NAP);
                if overslept >= LATE {
                    let waited = own_run_delay().saturating_sub(delay);
                    let list = if waited >= overslept / 2 { &mut watch.late } else { &mut watch.still };
                    list.push(Span { begin, end });
                }
                let waits = watched.iter().map(|file| read(file).unwrap_or_default()).collect();
                watch.samples.push(Sample { at: now(), waits });
            }
            watch
        };
        Sentinel { stop, thread: std::thread::Builder::new().name("sentinel".into()).spawn(run).expect("a thread") }
    }

    pub(crate) fn stop(self) -> Watch {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the sentinel does not panic")
    }
}

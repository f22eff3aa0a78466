//! The time for which the observer itself waited for a CPU, as the kernel counts it. On a machine
//! with too few CPUs it cannot be on time.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::truth::UnixNanos;

/// The name of the thread that observes.
const OBSERVER: &str = "pollwatch-scan";

const INTERVAL: Duration = Duration::from_millis(2);

/// One reading: the time in all for which the observer had waited for a CPU.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: UnixNanos,
    run_delay: u64,
}

/// The readings of one run, in order.
#[derive(Clone, Debug, Default)]
pub struct ObserverDelay {
    readings: Vec<Reading>,
}

impl ObserverDelay {
    /// Returns for how long the observer waited for a CPU in a span of time, in nanoseconds. What
    /// was read just before and just after the span belongs to it.
    pub fn within(&self, start: UnixNanos, end: UnixNanos) -> u64 {
        let first = self.readings.iter().rev().find(|reading| reading.at <= start).or(self.readings.first());
        let last = self.readings.iter().find(|reading| reading.at >= end).or(self.readings.last());
        match (first, last) {
            (Some(first), Some(last)) => last.run_delay.saturating_sub(first.run_delay),
            _ => 0,
        }
    }
}

/// A thread that reads.
#[derive(Debug)]
pub struct DelayMonitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<ObserverDelay>,
}

impl DelayMonitor {
    /// Starts to read the observer's delay. `None` if the process has no such thread.
    pub fn start(pid: u32) -> Option<DelayMonitor> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let is_observer =
            |folder: &PathBuf| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == OBSERVER);
        let file = tasks.filter_map(|task| Some(task.ok()?.path())).find(is_observer)?.join("schedstat");
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut delay = ObserverDelay::default();
            while !is_stopped.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&file).unwrap_or_default();
                let run_delay = text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
                if let Some(run_delay) = run_delay {
                    delay.readings.push(Reading { at: UnixNanos::now(), run_delay });
                }
                std::thread::sleep(INTERVAL);
            }
            delay
        });
        Some(DelayMonitor { stop, thread })
    }

    /// Returns what was read.
    pub fn stop(self) -> ObserverDelay {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_within_a_span_is_that_of_the_readings_around_it() {
        let reading = |at, run_delay| Reading { at: UnixNanos(at), run_delay };
        let delay = ObserverDelay { readings: vec![reading(10, 0), reading(20, 5), reading(30, 5), reading(40, 9)] };
        let within = |start, end| delay.within(UnixNanos(start), UnixNanos(end));
        assert_eq!((within(12, 18), within(20, 30), within(31, 100), within(0, 100)), (5, 0, 4, 9));
        assert_eq!(ObserverDelay::default().within(UnixNanos(0), UnixNanos(9)), 0);
    }
}

//! The sleep between two scans: the readings before it, and the check for an oversleep after it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::observe::ScanResult;
use super::{LAG_PROBE_INTERVAL, TASKS_INTERVAL, Watcher};
use crate::detect::examine::Baseline;
use crate::detect::outside::workers;
use crate::detect::pause::CheckedSpan;
use crate::detect::procfs;
use crate::detect::run_delay::{RunDelayReading, WatchedThread};
use crate::model::id::{PollKey, ThreadNumber};
use crate::model::time::Nanos;

/// The shortest time between two scans for the sake of workers that are observed from outside.
const MIN_OUTSIDE_INTERVAL: Nanos = Nanos::from_micros(500);

/// A poll that has lasted this long may become a stall: its thread's run delay is read as well.
const LONG_POLL: Nanos = Nanos::from_micros(500);

/// The CPU time of a thread in a poll.
#[derive(Clone, Copy)]
pub(super) struct CpuTime {
    pub(super) poll: PollKey,
    tid: pollwatch_stack::Tid,
    pub(super) baseline: Baseline,
    /// The CPU time when the latest sleep started.
    latest: Nanos,
}

impl Watcher {
    /// Sleeps until the next scan is due.
    pub(super) fn sleep(&mut self, scan: &ScanResult) {
        let own_delay = self.own_run_delay.nanos().map(Nanos);
        self.check_awake();
        let before = self.own_delay_before_sleep;
        let waited = own_delay.zip(before).map_or(Nanos::ZERO, |(now, then)| now.saturating_sub(then));
        self.read_run_delays(scan, waited);
        self.own_delay_before_sleep = own_delay;
        self.read_cpu_times(scan);
        // The sleep starts at the moment up to which oversleeps have been checked, so that no time
        // is left unchecked.
        let start = self.last_confirmed;
        let mut due = self.tracker.next_scan(scan.now, &scan.polls, &self.pauses).min(scan.now + TASKS_INTERVAL);
        if self.meter.has_lag_holders() {
            due = due.min(self.lag_probed_at + LAG_PROBE_INTERVAL);
        }
        if !scan.workers.is_empty() {
            due = due.min(scan.now + (self.threshold / 4).max(MIN_OUTSIDE_INTERVAL));
        }
        let due = due.max(start);
        std::thread::park_timeout(due.saturating_sub(self.now()).to_duration());
        self.check_oversleep(due);
    }

    /// Checks the time since the latest check, in which this thread was awake: its work takes much
    /// less than a threshold, unless the process was stopped or the thread got no CPU.
    pub(super) fn check_awake(&mut self) {
        self.check_oversleep(self.last_confirmed);
    }

    /// Checks whether this thread is much later than `due`. If so, the evidence is collected, and
    /// the time is recorded as a pause where it was one.
    fn check_oversleep(&mut self, due: Nanos) {
        let end = self.now();
        let start = std::mem::replace(&mut self.last_confirmed, end);
        let mut span = CheckedSpan { start, due, end, own_run_delay: None, busiest: None };
        let threshold = self.threshold;
        if !span.is_late(threshold) {
            return;
        }
        self.status.oversleeps.fetch_add(1, Ordering::Relaxed);
        let delay = self.own_delay_before_sleep.zip(self.own_run_delay.nanos().map(Nanos));
        span.own_run_delay = delay.map(|(then, now)| now.saturating_sub(then));
        span.busiest = self.busiest();
        if let Some(length) = self.pauses.record(&span, threshold) {
            self.emitter.emit_pause(length);
        }
    }

    /// Sleeps until anything is polled.
    pub(super) fn sleep_until_a_poll(&mut self) {
        self.cpu_times.clear();
        self.own_delay_before_sleep = self.own_run_delay.nanos().map(Nanos);
        let meter = &self.meter;
        let (fingerprint, mut slept) = (self.fingerprint, false);
        let start = meter.clock.now();
        let woken = meter.wake.fall_asleep(|| {
            let threads = meter.threads();
            let states = threads.iter().map(|thread| thread.slot.version());
            let now = states.fold(workers::fingerprint(meter), u64::wrapping_add);
            slept = !self.status.is_stopping() && !meter.panics.has_any() && now == fingerprint;
            slept
        });
        if slept {
            // The next scan checks the time from the start of the poll that woke this thread. A
            // reading from before this sleep is discarded: its thread was late to publish it.
            let woken = woken.filter(|woken| *woken >= start).map(|woken| meter.clock.nanos(woken));
            self.last_confirmed = woken.unwrap_or_else(|| self.now());
        }
        // Whatever woke this thread, scans continue for a while.
        if self.meter.wake.is_exact() {
            self.active_at = self.now();
        }
    }

    /// Reads the run delays of some threads. `own_wait` is how long this thread has waited for a
    /// CPU since it started the latest sleep.
    fn read_run_delays(&mut self, scan: &ScanResult, own_wait: Nanos) {
        let mut starts: HashMap<ThreadNumber, Nanos> = HashMap::new();
        for poll in &scan.polls.running {
            starts.entry(poll.key.thread).or_insert(poll.start);
        }
        let threads = scan.threads.iter().map(|(&number, thread)| {
            let poll_start = starts.get(&number).copied();
            WatchedThread { number, poll_start, initial: thread.initial_run_delay }
        });
        let clock = &self.meter.clock;
        self.run_delays.update(scan.now, own_wait, threads, |number| {
            let run_delay = procfs::run_delay(scan.threads.get(&number)?.tid?)?;
            Some(RunDelayReading { at: clock.nanos(clock.now()), run_delay })
        });
    }

    /// Reads the CPU times of all threads in a poll.
    fn read_cpu_times(&mut self, scan: &ScanResult) {
        let mut now = HashMap::new();
        for poll in &scan.polls.running {
            let tid = scan.threads.get(&poll.key.thread).and_then(|thread| thread.tid);
            let Some((tid, latest)) = tid.and_then(|tid| Some((tid, procfs::cpu_time(tid)?))) else { continue };
            let known = self.cpu_times.get(&poll.key.thread).filter(|cpu| cpu.poll == poll.key);
            let new = || Baseline { cpu: latest, at: self.now(), run_delay: None };
            let mut baseline = known.map_or_else(new, |cpu| cpu.baseline);
            // This reading takes some microseconds. Polls of a healthy service are too short for
            // it.
            if baseline.run_delay.is_none() && scan.now.saturating_sub(poll.start) >= LONG_POLL {
                baseline.run_delay = procfs::run_delay(tid);
            }
            now.insert(poll.key.thread, CpuTime { poll: poll.key, tid, baseline, latest });
        }
        self.cpu_times = now;
    }

    /// Returns the most CPU time that one thread has used since the latest sleep started, of the
    /// threads that were in a poll then.
    fn busiest(&self) -> Option<Nanos> {
        let used = |cpu: &CpuTime| Some(procfs::cpu_time(cpu.tid)?.saturating_sub(cpu.latest));
        self.cpu_times.values().filter_map(used).max()
    }
}

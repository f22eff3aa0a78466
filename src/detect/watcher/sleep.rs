//! The sleep between two scans: the readings before it, and the check for an oversleep after it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::observe::ScanResult;
use super::{LAG_PROBE_INTERVAL, TASKS_INTERVAL, Watcher};
use crate::detect::forks;
use crate::detect::identity::IdentityKey;
use crate::detect::outside::workers;
use crate::detect::pause::CheckedSpan;
use crate::detect::procfs;
use crate::detect::thread_times::WatchedThread;
use crate::detect::time_account::ThreadTimes;
use crate::model::id::{PollKey, ThreadNumber};
use crate::model::time::Nanos;

/// The shortest time between two scans for the sake of workers that are observed from outside.
const MIN_OUTSIDE_INTERVAL: Nanos = Nanos::from_micros(500);

/// A poll that has lasted this long may become a stall: all times of its thread are read.
const LONG_POLL: Nanos = Nanos::from_micros(500);

/// The most threads of which one scan reads all times.
const MAX_READINGS: usize = 64;

/// The CPU time of a thread in a poll.
#[derive(Clone, Copy)]
pub(super) struct CpuTime {
    pub(super) poll: PollKey,
    tid: pollwatch_stack::Tid,
    pub(super) baseline: Nanos,
    /// The first reading of all times within the poll.
    pub(super) within: Option<ThreadTimes>,
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
        self.read_thread_times(scan, waited);
        self.own_delay_before_sleep = own_delay;
        self.read_cpu_times(scan);
        // The sleep starts at the moment up to which oversleeps have been checked, so that no time
        // is left unchecked.
        let start = self.last_confirmed;
        let mut due = self.tracker.next_scan(scan.now, &scan.polls, &self.pauses).min(scan.now + TASKS_INTERVAL);
        if self.meter.has_lag_holders() {
            due = due.min(self.lag_probed_at + LAG_PROBE_INTERVAL);
        }
        for reading in [self.next_pool_reading(), self.next_confirmation(scan)].into_iter().flatten() {
            due = due.min(reading);
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

    /// Leaves the time since the latest check unchecked. In it this thread has examined others, and
    /// may have waited for a stack, for the lock of the captures, or in the kernel for the lock of
    /// the address space, which another thread holds while it unmaps memory. A stop of the process
    /// looks the same. So this time is never a pause: a pause excuses a stall.
    pub(super) fn skip_examined(&mut self) {
        self.last_confirmed = self.now();
        self.own_cpu = self.own_tid.and_then(procfs::cpu_time);
    }

    /// Checks whether this thread is much later than `due`. If so, the evidence is collected, and
    /// the time is recorded as a pause where it was one.
    fn check_oversleep(&mut self, due: Nanos) {
        let end = self.now();
        let start = std::mem::replace(&mut self.last_confirmed, end);
        let own_cpu = self.own_tid.and_then(procfs::cpu_time);
        let used = own_cpu.zip(std::mem::replace(&mut self.own_cpu, own_cpu));
        let own_cpu = used.map(|(now, then)| now.saturating_sub(then));
        let mut span = CheckedSpan { own_cpu, ..CheckedSpan::new(start, due, end) };
        let threshold = self.threshold;
        if !span.is_late(threshold) {
            return;
        }
        self.status.oversleeps.fetch_add(1, Ordering::Relaxed);
        let delay = self.own_delay_before_sleep.zip(self.own_run_delay.nanos().map(Nanos));
        span.own_run_delay = delay.map(|(then, now)| now.saturating_sub(then));
        // A thread that forks runs, and makes this one wait.
        span.busiest = self.busiest().max(forks::longest_within(end.saturating_sub(start)));
        if let Some(length) = self.pauses.record(&span, threshold) {
            self.emitter.emit_pause(length);
        }
    }

    /// Sleeps until anything is polled, and no longer than the limit, if there is one.
    pub(super) fn sleep_until_a_poll(&mut self, limit: Option<Nanos>) {
        self.cpu_times.clear();
        self.own_delay_before_sleep = self.own_run_delay.nanos().map(Nanos);
        let meter = &self.meter;
        let (fingerprint, mut slept) = (self.fingerprint, false);
        let start = meter.clock.now();
        let woken = meter.wake.fall_asleep(limit.map(Nanos::to_duration), || {
            let threads = meter.threads();
            let states = threads.iter().map(|thread| thread.slot.version());
            let now = states.fold(workers::fingerprint(meter), u64::wrapping_add);
            slept = !self.status.is_stopping() && !meter.panics.has_any() && now == fingerprint;
            slept
        });
        self.check_clock();
        let is_over = limit.is_some() && slept && woken.is_none();
        if slept {
            // The next scan checks the time from the start of the poll that woke this thread. A
            // reading from before this sleep is discarded: its thread was late to publish it.
            let woken = woken.filter(|woken| *woken >= start).map(|woken| self.meter.clock.nanos(woken));
            self.last_confirmed = woken.unwrap_or_else(|| self.now());
        }
        // Whatever woke this thread, scans continue for a while.
        if self.meter.wake.is_exact() && !is_over {
            self.active_at = self.now();
        }
    }

    /// Reads the times of some threads. `own_wait` is how long this thread has waited for a
    /// CPU since it started the latest sleep.
    fn read_thread_times(&mut self, scan: &ScanResult, own_wait: Nanos) {
        let mut starts: HashMap<ThreadNumber, Nanos> = HashMap::new();
        for poll in &scan.polls.running {
            starts.entry(poll.key.thread).or_insert(poll.start);
        }
        let threads = scan.threads.iter().map(|(&number, thread)| {
            let poll_start = starts.get(&number).copied();
            WatchedThread { number, poll_start, initial: thread.initial_times }
        });
        let clock = &self.meter.clock;
        self.thread_times.update(scan.now, own_wait, threads, |number| {
            procfs::times(scan.threads.get(&number)?.tid?, || clock.moment())
        });
    }

    /// Reads the CPU times of all threads in a poll.
    fn read_cpu_times(&mut self, scan: &ScanResult) {
        let (mut now, mut readings) = (HashMap::new(), 0);
        for poll in &scan.polls.running {
            let tid = scan.threads.get(&poll.key.thread).and_then(|thread| thread.tid);
            let Some((tid, latest)) = tid.and_then(|tid| Some((tid, procfs::cpu_time(tid)?))) else { continue };
            let known = self.cpu_times.get(&poll.key.thread).filter(|cpu| cpu.poll == poll.key);
            let baseline = known.map_or(latest, |cpu| cpu.baseline);
            let mut within = known.and_then(|cpu| cpu.within);
            // This reading takes some microseconds. Polls of a healthy service are too short for
            // it.
            let is_long = scan.now.saturating_sub(poll.start) >= LONG_POLL;
            if within.is_none() && is_long && readings < MAX_READINGS {
                readings += 1;
                within = procfs::reading(tid, || self.now()).map(|reading| reading.times);
            }
            now.insert(poll.key.thread, CpuTime { poll: poll.key, tid, baseline, within, latest });
        }
        self.cpu_times = now;
        self.read_kernel_times(scan);
    }

    /// Reads what the kernel has done for the threads in long polls, when each is first observed.
    fn read_kernel_times(&mut self, scan: &ScanResult) {
        let long = scan.polls.running.iter().filter(|poll| scan.now.saturating_sub(poll.start) >= LONG_POLL);
        let polls = long.filter_map(|poll| {
            let tid = scan.threads.get(&poll.key.thread)?.tid?;
            Some(((poll.key.thread, IdentityKey::Poll(poll.key.number)), tid))
        });
        let is_alive = |thread| scan.threads.contains_key(&thread) || self.workers.is_detached(thread);
        self.examiner.kernel_times.update(polls, is_alive);
    }

    /// Returns the most CPU time that one thread has used since the latest sleep started, of the
    /// threads that were in a poll then.
    fn busiest(&self) -> Option<Nanos> {
        let used = |cpu: &CpuTime| Some(procfs::cpu_time(cpu.tid)?.saturating_sub(cpu.latest));
        self.cpu_times.values().filter_map(used).max()
    }
}

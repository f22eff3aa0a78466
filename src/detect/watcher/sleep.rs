//! The sleep between two scans, what is recorded before it, and whether it took longer than it
//! should have.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::observe::Observation;
use super::{LAG_PROBE_NANOS, TASKS_NANOS, Watcher};
use crate::detect::examine::Baseline;
use crate::detect::outside::workers;
use crate::detect::pause::Sleep;
use crate::detect::procfs;
use crate::detect::run_delay::WatchedThread;
use crate::model::id::PollKey;
use crate::sys;

/// The shortest time between two scans for the sake of workers that are observed from outside.
const MIN_OUTSIDE_INTERVAL: u64 = 500_000;

/// A poll that has lasted this long may become a stall: its thread's run delay is recorded as well.
const LONG_NANOS: u64 = 500_000;

/// The CPU time of a thread in a poll.
#[derive(Clone, Copy)]
pub(super) struct CpuTime {
    pub(super) poll: PollKey,
    tid: pollwatch_stack::Tid,
    pub(super) baseline: Baseline,
    /// The CPU time when the latest sleep began.
    latest: u64,
}

impl Watcher {
    /// Sleeps until the next scan is due.
    pub(super) fn sleep(&mut self, seen: &Observation) {
        let delay = self.own_run_delay.nanos();
        self.check_oversleep(self.last_confirmed);
        let waited = delay.zip(self.delay).map_or(0, |(now, then)| now.saturating_sub(then));
        self.record_run_delays(seen, waited);
        self.delay = delay;
        self.record_cpu_times(seen);
        // The reading that was confirmed just now, so that no moment lies between two that are
        // compared.
        let begin = self.last_confirmed;
        let mut due = self.tracker.next_scan(seen.now, &seen.scan, &self.pauses).min(seen.now + TASKS_NANOS);
        if self.meter.has_lag_holders() {
            due = due.min(self.lag_probed + LAG_PROBE_NANOS);
        }
        if !seen.workers.is_empty() {
            due = due.min(seen.now + (self.meter.threshold / 4).max(MIN_OUTSIDE_INTERVAL));
        }
        let due = due.max(begin);
        std::thread::park_timeout(Duration::from_nanos(due.saturating_sub(self.now())));
        self.check_oversleep(due);
    }

    /// Checks whether this moment is much later than it was `due`, and if so, records why.
    pub(super) fn check_oversleep(&mut self, due: u64) {
        let end = self.now();
        let begin = std::mem::replace(&mut self.last_confirmed, end);
        let mut sleep = Sleep { begin, due, end, own_run_delay: None, busiest: None };
        let threshold = self.meter.threshold;
        if !sleep.overslept(threshold) {
            return;
        }
        self.status.oversleeps.fetch_add(1, Ordering::Relaxed);
        let delay = self.delay.zip(self.own_run_delay.nanos());
        sleep.own_run_delay = delay.map(|(then, now)| now.saturating_sub(then));
        sleep.busiest = self.busiest();
        if let Some(nanos) = self.pauses.note(&sleep, threshold) {
            self.emitter.emit_pause(nanos);
        }
    }

    /// Sleeps until anything is polled.
    pub(super) fn sleep_until_a_poll(&mut self) {
        self.cpu_times.clear();
        self.delay = self.own_run_delay.nanos();
        let meter = &self.meter;
        let (fingerprint, mut slept) = (self.fingerprint, false);
        let begin = meter.clock.now();
        let woken = meter.wake.fall_asleep(|| {
            let threads = meter.threads();
            let states = threads.iter().map(|thread| thread.slot.version());
            let now = states.fold(workers::fingerprint(meter), u64::wrapping_add);
            slept = !self.status.is_stopping() && !meter.panics.any() && now == fingerprint;
            slept
        });
        if slept {
            // The next scan notices a pause between the begin of the poll that woke this thread and
            // now. A reading of an earlier sleep, by a thread that was kept from publishing it,
            // says nothing.
            let woken = woken.filter(|woken| *woken >= begin).map(|woken| meter.clock.nanos(woken).0);
            self.last_confirmed = woken.unwrap_or_else(|| self.now());
        }
        // Whatever woke this thread, there is something to watch for a while.
        if self.meter.wake.is_exact() {
            self.active = self.now();
        }
    }

    /// Records the run delays of threads. `own` is how long this thread waited for a CPU since the
    /// previous scan.
    fn record_run_delays(&mut self, seen: &Observation, own: u64) {
        let mut begins: HashMap<u64, u64> = HashMap::new();
        for poll in &seen.scan.running {
            begins.entry(poll.key.thread).or_insert(poll.begin);
        }
        let threads = seen.threads.iter().map(|(id, thread)| {
            let poll = begins.get(id).copied();
            WatchedThread { id: *id, poll, first: thread.waited }
        });
        let clock = &self.meter.clock;
        self.run_delays.note(seen.now, own, threads, |id| {
            let waited = procfs::run_delay(seen.threads.get(&id)?.tid?)?;
            Some((clock.nanos(clock.now()).0, waited))
        });
    }

    /// Records the CPU times of all threads in a poll.
    fn record_cpu_times(&mut self, seen: &Observation) {
        let mut now = HashMap::new();
        for poll in &seen.scan.running {
            let tid = seen.threads.get(&poll.key.thread).and_then(|thread| thread.tid);
            let Some((tid, latest)) = tid.and_then(|tid| Some((tid, sys::thread_cpu_nanos(tid)?))) else { continue };
            let known = self.cpu_times.get(&poll.key.thread).filter(|cpu| cpu.poll == poll.key);
            let new = || Baseline { cpu: latest, at: self.now(), run_delay: None };
            let mut baseline = known.map_or_else(new, |cpu| cpu.baseline);
            // Some microseconds, so only for polls that are longer than those of a healthy service.
            if baseline.run_delay.is_none() && seen.now.saturating_sub(poll.begin) >= LONG_NANOS {
                baseline.run_delay = procfs::run_delay(tid);
            }
            now.insert(poll.key.thread, CpuTime { poll: poll.key, tid, baseline, latest });
        }
        self.cpu_times = now;
    }

    /// Returns the most CPU time that one of the threads in a poll has used since the latest sleep
    /// began.
    fn busiest(&self) -> Option<u64> {
        let used = |cpu: &CpuTime| Some(sys::thread_cpu_nanos(cpu.tid)?.saturating_sub(cpu.latest));
        self.cpu_times.values().filter_map(used).max()
    }
}

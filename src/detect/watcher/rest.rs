//! The sleep between two looks, what is noted before it, and whether it was longer than it was meant to be.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pollwatch_stack::Tid;

use super::look::Seen;
use super::{SHED_PROBE_NANOS, TASKS_NANOS, Watcher};
use crate::detect::examine::First;
use crate::detect::pause::Sleep;
use crate::detect::scan::PollKey;
use crate::detect::waits::Thread;
use crate::detect::{procfs, workers};
use crate::sys;

/// For workers that are seen from outside there are four looks a threshold, but for their sake none sooner than this.
const LEAST_LOOK: u64 = 500_000;

/// A poll that has lasted this long may come to be a stall: more is noted about its thread.
const LONG_NANOS: u64 = 500_000;

/// The CPU time of a thread in a poll.
#[derive(Clone, Copy)]
pub(super) struct CpuTime {
    pub(super) poll: PollKey,
    tid: Tid,
    pub(super) first: First,
    /// When the last sleep began.
    latest: u64,
}

impl Watcher {
    pub(super) fn sleep(&mut self, seen: &Seen) {
        let delay = self.run_delay.nanos();
        self.mistrust(self.trusted);
        self.remember_waits(seen, delay.zip(self.delay).map_or(0, |(now, then)| now.saturating_sub(then)));
        self.delay = delay;
        self.remember_cpu(seen);
        // The reading that was just trusted, and not one of now: no moment lies between two that are compared.
        let begin = self.trusted;
        let mut due = self.tracker.next_look(seen.now, &seen.look, &self.pauses).min(seen.now + TASKS_NANOS);
        if self.shedding.is_wanted() {
            due = due.min(self.probed + SHED_PROBE_NANOS);
        }
        if !seen.workers.is_blind() {
            due = due.min(seen.now + (self.shared.meter.threshold / 4).max(LEAST_LOOK));
        }
        let due = due.max(begin);
        std::thread::park_timeout(Duration::from_nanos(due.saturating_sub(self.now())));
        self.mistrust(due);
    }

    /// Whether this moment is later than it was `due` to be, and why.
    pub(super) fn mistrust(&mut self, due: u64) {
        let end = self.now();
        let begin = std::mem::replace(&mut self.trusted, end);
        let mut sleep = Sleep { begin, due, end, own_run_delay: None, busiest: None };
        let threshold = self.shared.meter.threshold;
        if !sleep.overslept(threshold) {
            return;
        }
        self.shared.oversleeps.fetch_add(1, Ordering::Relaxed);
        sleep.own_run_delay = self.delay.zip(self.run_delay.nanos()).map(|(then, now)| now.saturating_sub(then));
        sleep.busiest = self.busiest();
        if let Some(nanos) = self.pauses.note(&sleep, threshold) {
            self.reporter.tell_pause(nanos);
        }
    }

    pub(super) fn sleep_until_a_poll(&mut self) {
        self.cpu.clear();
        self.delay = self.run_delay.nanos();
        let meter = &self.shared.meter;
        let (fingerprint, mut slept) = (self.fingerprint, false);
        let begin = meter.clock.now();
        let woken = meter.wake.fall_asleep(|| {
            let threads = meter.threads();
            let states = threads.iter().map(|thread| thread.slot.state());
            let now = states.fold(workers::fingerprint(meter), u64::wrapping_add);
            slept = !self.shared.is_stopping() && !meter.panics.any() && now == fingerprint;
            slept
        });
        if slept {
            // A standstill between the begin of the poll that woke it and now is noticed by the next look.
            // One that is of an earlier sleep (of a thread that was kept from writing it down) tells nothing.
            let woken = woken.filter(|woken| *woken >= begin).map(|woken| self.shared.meter.clock.nanos(woken));
            self.trusted = woken.unwrap_or_else(|| self.now());
        }
        // Whatever woke it, there is something to watch for a while.
        if self.shared.meter.wake.is_exact() {
            self.active = self.now();
        }
    }

    fn remember_waits(&mut self, seen: &Seen, own: u64) {
        let mut begins: HashMap<u64, u64> = HashMap::new();
        for poll in &seen.look.running {
            begins.entry(poll.key.thread).or_insert(poll.begin);
        }
        let threads = seen.threads.iter();
        let threads =
            threads.map(|(id, thread)| Thread { id: *id, poll: begins.get(id).copied(), first: thread.waited });
        let clock = &self.shared.meter.clock;
        self.waits.note(seen.now, own, threads, |id| {
            let waited = procfs::run_delay(seen.threads.get(&id)?.tid?)?;
            Some((clock.nanos(clock.now()), waited))
        });
    }

    fn remember_cpu(&mut self, seen: &Seen) {
        let mut now = HashMap::new();
        for poll in &seen.look.running {
            let tid = seen.threads.get(&poll.key.thread).and_then(|t| t.tid);
            let Some((tid, latest)) = tid.and_then(|tid| Some((tid, sys::thread_cpu_nanos(tid)?))) else { continue };
            let known = self.cpu.get(&poll.key.thread).filter(|cpu| cpu.poll == poll.key);
            let mut first = known.map_or(First { cpu: latest, at: self.now(), run_delay: None }, |cpu| cpu.first);
            // Costs some microseconds: only for polls that are already longer than those of a healthy service.
            if first.run_delay.is_none() && seen.now.saturating_sub(poll.begin) >= LONG_NANOS {
                first.run_delay = procfs::run_delay(tid);
            }
            now.insert(poll.key.thread, CpuTime { poll: poll.key, tid, first, latest });
        }
        self.cpu = now;
    }

    /// The most that one of them has used since the last sleep began.
    fn busiest(&self) -> Option<u64> {
        let used = |cpu: &CpuTime| Some(sys::thread_cpu_nanos(cpu.tid)?.saturating_sub(cpu.latest));
        self.cpu.values().filter_map(used).max()
    }
}

//! One scan of the watchdog thread: the running polls, and those that have ended since the previous
//! scan.

use std::collections::HashMap;
use std::sync::Arc;

use super::Watcher;
use crate::detect::outside::workers;
use crate::detect::procfs;
use crate::detect::scan::{self, FrameFields};
use crate::detect::time_account::{PollEnd, PollReadings, ThreadTimes, TimeAccount};
use crate::detect::track::{EndedPoll, EndedRequest, OpenRequest, Poll, ScannedPolls};
use crate::detect::victims::DelayedStart;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::measure::thread::slow_polls::SlowSubject;
use crate::model::id::{PollKey, ThreadNumber};
use crate::model::time::Nanos;

/// The most accounts that one scan makes, each from a reading of some 10 µs. Further polls have
/// none.
const MAX_ACCOUNTS: usize = 64;

/// The result of a scan, with the threads that it concerns.
pub(super) struct ScanResult {
    /// The moment of the scan.
    pub(super) now: Nanos,
    pub(super) polls: ScannedPolls,
    /// The polls that were delayed for long.
    pub(super) delayed: Vec<DelayedStart>,
    pub(super) threads: HashMap<ThreadNumber, Arc<ThreadState>>,
    pub(super) workers: workers::WorkerScan,
    /// A sum that differs from that of the previous scan when anything was polled since.
    pub(super) fingerprint: u64,
}

/// The slots of all threads at one moment.
pub(super) struct SlotScan {
    pub(super) at: Nanos,
    pub(super) polls: ScannedPolls,
    live: Vec<Arc<ThreadState>>,
    /// The versions of the slots that could be read.
    pub(super) versions: Vec<(ThreadNumber, u64)>,
    fingerprint: u64,
}

/// The number of times that the slots are read again in one scan because the clock has changed.
const CLOCK_ATTEMPTS: usize = 3;

impl Watcher {
    /// Reads all slots, and after that the slow-poll rings.
    ///
    /// A thread pushes a slow poll to its ring before it pops the frame. So a slow poll that an
    /// earlier scan found in a slot is now in the slot or in the ring, unless the ring was full.
    ///
    /// The clock is checked before the slots are read and after. Where it has changed in between,
    /// the moments of the polls are not those of the clock as it is now, and the slots are read
    /// again.
    pub(super) fn observe(&mut self) -> ScanResult {
        let meter = self.meter.clone();
        self.check_clock();
        let mut slots = self.read_slots(&meter);
        for _ in 0..CLOCK_ATTEMPTS {
            if !self.is_clock_changed(&slots) {
                break;
            }
            slots = self.read_slots(&meter);
        }
        self.clock_evidence.keep(&slots);
        let SlotScan { at, polls: mut found, live, mut fingerprint, .. } = slots;
        let mut threads = HashMap::new();
        let mut delayed = Vec::new();
        for thread in live.into_iter().chain(meter.take_departed()) {
            // A poll that waited behind a stall is pushed after that stall. So the stall of each
            // delayed poll is among the slow polls that are taken after it.
            self.take_delayed_polls(&thread, &mut delayed);
            self.take_slow_polls(&thread, &mut found);
            threads.insert(thread.id, thread);
        }
        let workers = self.workers.scan(&meter);
        // The sum was computed before the workers were scanned, so that a worker that was unparked
        // since then keeps the watchdog from falling asleep.
        fingerprint = fingerprint.wrapping_add(workers.fingerprint);
        ScanResult { now: at, polls: found, delayed, threads, workers, fingerprint }
    }

    /// Reads all slots.
    fn read_slots(&self, meter: &Meter) -> SlotScan {
        let at = meter.clock.moment();
        let mut found = ScannedPolls::default();
        let (mut live, mut versions) = (Vec::new(), Vec::new());
        let mut fingerprint = 0u64;
        for (thread, reading) in scan::read_slots(meter) {
            match reading {
                Some(reading) => {
                    fingerprint = fingerprint.wrapping_add(reading.version);
                    versions.push((thread.id, reading.version));
                    for (mut poll, _) in scan::polls_in(meter, &thread, &reading) {
                        let end = poll.allowed_since.unwrap_or_else(|| meter.clock.moment());
                        // The account matters until the poll is tracked.
                        let is_long = end.saturating_sub(poll.start) >= self.threshold;
                        if is_long && !self.tracker.is_tracked(&poll.key) && found.accounts < MAX_ACCOUNTS {
                            found.accounts += 1;
                            poll.account = self.account(&thread, &poll, None);
                        }
                        found.running.push(poll);
                    }
                }
                None => {
                    fingerprint = fingerprint.wrapping_add(1);
                    found.unread.push(thread.id);
                }
            }
            live.push(thread);
        }
        SlotScan { at, polls: found, live, versions, fingerprint }
    }

    fn take_slow_polls(&self, thread: &ThreadState, found: &mut ScannedPolls) {
        thread.slow_polls.drain(|ended| match ended.subject {
            SlowSubject::Request { poll } => found.ended_requests.extend(ended.tag.unpack().route.map(|route| {
                let start = self.meter.clock.nanos(ended.start);
                let poll = PollKey { thread: thread.id, number: poll };
                let request = OpenRequest { frame: ended.number, route, start };
                EndedRequest { poll, request, duration: ended.duration }
            })),
            SlowSubject::Poll { task, worker, cpu } => {
                let (number, start, tag) = (ended.number, ended.start, ended.tag.unpack());
                let mut poll = scan::poll_of(&self.meter, thread, FrameFields { number, start, task, tag });
                let cpu = Some(cpu).filter(|cpu| *cpu > Nanos::ZERO);
                let end = PollEnd { at: poll.start + ended.duration, cpu };
                let is_candidate = (worker.is_some() || poll.is_root) && !self.tracker.is_tracked(&poll.key);
                if is_candidate && found.accounts < MAX_ACCOUNTS {
                    found.accounts += 1;
                    poll.account = self.account(thread, &poll, Some(end));
                }
                found.ended.push(EndedPoll { poll, duration: ended.duration, worker, end });
            }
        });
    }

    /// Returns how a poll has spent its time until its end, or until now if it is running; `None`
    /// where that is unknown.
    fn account(&self, thread: &ThreadState, poll: &Poll, end: Option<PollEnd>) -> Option<TimeAccount> {
        let now = procfs::reading(thread.tid?, || self.now())?.times;
        let earlier = self.readings(thread, poll);
        if earlier.is_empty() {
            return None;
        }
        let mut readings = PollReadings::new(poll.start, earlier);
        Some(match end {
            Some(end) => readings.at_end(end, Some(now)),
            None => {
                readings.add(now);
                readings.so_far()
            }
        })
    }

    /// Returns the earlier readings of a poll's thread: from before the poll, and from within it.
    pub(super) fn readings(&self, thread: &ThreadState, poll: &Poll) -> Vec<ThreadTimes> {
        let before = self.thread_times.before(thread.id, poll.start, thread.initial_times);
        let within = self.cpu_times.get(&thread.id).filter(|cpu| cpu.poll == poll.key).and_then(|cpu| cpu.within);
        before.into_iter().chain(within).collect()
    }
}

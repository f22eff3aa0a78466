//! One scan of the watchdog thread: the running polls, and those that have ended since the previous
//! scan.

use std::collections::HashMap;
use std::sync::Arc;

use super::Watcher;
use crate::detect::outside::workers;
use crate::detect::procfs;
use crate::detect::scan::{self, FrameFields};
use crate::detect::track::{EndedPoll, EndedRequest, OpenRequest, ScannedPolls};
use crate::measure::thread::ThreadState;
use crate::measure::thread::slow_polls::SlowSubject;
use crate::model::id::{PollKey, ThreadNumber};
use crate::model::time::Nanos;

/// The result of a scan, with the threads that it concerns.
pub(super) struct ScanResult {
    /// The moment of the scan.
    pub(super) now: Nanos,
    pub(super) polls: ScannedPolls,
    pub(super) threads: HashMap<ThreadNumber, Arc<ThreadState>>,
    pub(super) workers: workers::WorkerScan,
    /// A sum that differs from that of the previous scan when anything was polled since.
    pub(super) fingerprint: u64,
}

impl Watcher {
    /// Reads all slots, and after that the slow-poll rings.
    ///
    /// A thread pushes a slow poll to its ring before it pops the frame. So a slow poll that an
    /// earlier scan found in a slot is now in the slot or in the ring, unless the ring was full.
    pub(super) fn observe(&mut self) -> ScanResult {
        let meter = self.meter.clone();
        let at = meter.clock.now();
        let mut found = ScannedPolls::default();
        let mut live = Vec::new();
        let mut fingerprint = 0u64;
        for (thread, reading) in scan::read_slots(&meter) {
            match reading {
                Some(reading) => {
                    fingerprint = fingerprint.wrapping_add(reading.version);
                    for (mut poll, _) in scan::polls_in(&meter, &thread, &reading) {
                        let end = poll.allowed_since.unwrap_or_else(|| meter.clock.nanos(meter.clock.now()));
                        // The run delay matters until the poll is tracked. Not all long polls are
                        // stalls: the `block_on` root of a multi-thread runtime is ignored.
                        let is_long = end.saturating_sub(poll.start) >= self.threshold;
                        if is_long && !self.tracker.is_tracked(&poll.key) {
                            poll.run_delay = self.run_delay_since(&thread, poll.start);
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
        let mut threads = HashMap::new();
        for thread in live.into_iter().chain(meter.take_departed()) {
            self.take_slow_polls(&thread, &mut found);
            threads.insert(thread.id, thread);
        }
        let workers = self.workers.scan(&meter);
        // The sum was computed before the workers were scanned, so that a worker that was unparked
        // since then keeps the watchdog from falling asleep.
        fingerprint = fingerprint.wrapping_add(workers.fingerprint);
        ScanResult { now: meter.clock.nanos(at), polls: found, threads, workers, fingerprint }
    }

    fn take_slow_polls(&self, thread: &ThreadState, found: &mut ScannedPolls) {
        thread.slow_polls.drain(|ended| match ended.subject {
            SlowSubject::Request { poll } => found.ended_requests.extend(ended.tag.unpack().route.map(|route| {
                let start = self.meter.clock.nanos(ended.start);
                let poll = PollKey { thread: thread.id, number: poll };
                let request = OpenRequest { frame: ended.number, route, start };
                EndedRequest { poll, request, duration: ended.duration }
            })),
            SlowSubject::Poll { task, worker } => {
                let (number, start, tag) = (ended.number, ended.start, ended.tag.unpack());
                let mut poll = scan::poll_of(&self.meter, thread, FrameFields { number, start, task, tag });
                if worker.is_some() && !self.tracker.is_tracked(&poll.key) {
                    // The thread may have waited after the poll as well.
                    poll.run_delay = self.run_delay_since(thread, poll.start).min(ended.duration);
                }
                found.ended.push(EndedPoll { poll, duration: ended.duration, worker });
            }
        });
    }

    /// Returns how long a thread has been kept from a CPU since shortly before a poll that started
    /// at `start`; zero where that is not known.
    fn run_delay_since(&self, thread: &ThreadState, start: Nanos) -> Nanos {
        let run_delay = || {
            let before = self.run_delays.delay_before(thread.id, start, thread.initial_run_delay)?;
            Some(procfs::run_delay(thread.tid?)?.saturating_sub(before))
        };
        run_delay().unwrap_or_default()
    }
}

//! One scan of the watchdog thread: the running polls, and those that have ended since the previous
//! scan.

use std::collections::HashMap;
use std::sync::Arc;

use super::Watcher;
use crate::detect::outside::workers;
use crate::detect::procfs;
use crate::detect::scan;
use crate::detect::track::{EndedPoll, EndedRequest, Request, Scan};
use crate::measure::primitives::task_id::TaskBits;
use crate::measure::thread::ThreadState;
use crate::measure::thread::slow_polls::{SlowPoll, SlowSubject};
use crate::model::id::PollKey;

/// What a scan found, with the threads that it concerns.
pub(super) struct Observation {
    /// The moment of the scan, in nanoseconds of the watchdog's clock.
    pub(super) now: u64,
    pub(super) scan: Scan,
    pub(super) threads: HashMap<u64, Arc<ThreadState>>,
    pub(super) workers: workers::WorkerScan,
    /// A sum that differs from that of the previous scan when anything was polled since.
    pub(super) fingerprint: u64,
}

impl Watcher {
    /// Reads all slots, and after that the rings of slow polls: a poll that is in neither began
    /// later.
    pub(super) fn observe(&mut self) -> Observation {
        let meter = self.meter.clone();
        let at = meter.clock.now();
        let mut found = Scan::default();
        let mut live = Vec::new();
        let mut fingerprint = 0u64;
        for (thread, reading) in scan::read_slots(&meter) {
            match reading {
                Some(reading) => {
                    fingerprint = fingerprint.wrapping_add(reading.version);
                    for (mut poll, _) in scan::polls_in(&meter, &thread, &reading) {
                        let end = poll.paused_since.unwrap_or_else(|| meter.clock.nanos(meter.clock.now()).0);
                        // The run delay matters until the poll is tracked. Some never are, and
                        // last: the `block_on` roots of a multi-thread runtime.
                        let is_long = end.saturating_sub(poll.begin) >= meter.threshold;
                        if is_long && !self.tracker.is_tracked(&poll.key) {
                            poll.waited = self.waited(&thread, poll.begin);
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
        // The sum from before the scan: a worker that was unparked since then keeps the watchdog
        // from falling asleep.
        fingerprint = fingerprint.wrapping_add(workers.fingerprint);
        Observation { now: meter.clock.nanos(at).0, scan: found, threads, workers, fingerprint }
    }

    fn take_slow_polls(&self, thread: &ThreadState, found: &mut Scan) {
        thread.slow_polls.drain(|ended| match ended.subject {
            SlowSubject::Request { poll } => found.ended_requests.extend(ended.tag.unpack().route.map(|route| {
                let begin = self.meter.clock.nanos(ended.start).0;
                let poll = PollKey { thread: thread.id, number: poll };
                EndedRequest { poll, request: Request { frame: ended.number, route, begin }, nanos: ended.duration.0 }
            })),
            SlowSubject::Poll { task, worker } => found.ended.push(self.ended_poll(thread, &ended, task, worker)),
        });
    }

    fn ended_poll(&self, thread: &ThreadState, ended: &SlowPoll, task: TaskBits, worker: Option<u16>) -> EndedPoll {
        let mut poll = scan::poll_of(&self.meter, thread, ended.number, ended.start, ended.tag.unpack(), task);
        if worker.is_some() && !self.tracker.is_tracked(&poll.key) {
            poll.waited = self.waited(thread, poll.begin);
        }
        EndedPoll { poll, nanos: ended.duration.0, worker }
    }

    /// Returns how long a thread has been kept from a CPU since shortly before a poll of it began;
    /// 0 where that is not known.
    fn waited(&self, thread: &ThreadState, begin: u64) -> u64 {
        let waited = || {
            let before = self.run_delays.before(thread.id, begin, thread.waited)?;
            Some(procfs::run_delay(thread.tid?)?.saturating_sub(before))
        };
        waited().unwrap_or(0)
    }
}

//! The queue in front of a stage of the dispatcher: bounded, with at most one report of each stall.
//!
//! A newer report of a stall replaces the one that waits, so a slow stage never works on a state
//! that is older than one in its queue. A report may have to wait for the stack of its stall to be
//! symbolized, but only for a limited time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ongoing::StallRecord;
use crate::model::event::Notice;
use crate::util::lock;

/// An item of a queue.
pub(super) enum Report {
    Stall(Box<StallRecord>),
    Notice(Notice),
}

/// A report in the queue.
struct QueuedReport {
    report: Report,
    /// The moment from which on the report waits for no symbols any more.
    ready_at: Instant,
    /// The moment until which the report is held back even with its symbols, because more is known
    /// of the stall by then.
    held_until: Instant,
}

#[derive(Default)]
struct QueueState {
    /// The reports by their position: the oldest first.
    reports: BTreeMap<u64, QueuedReport>,
    /// The position of each stall's report.
    positions: HashMap<u64, u64>,
    next: u64,
    is_closed: bool,
}

/// A bounded queue of reports, with one consumer.
pub(super) struct ReportQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    capacity: usize,
}

impl ReportQueue {
    pub(super) fn new(capacity: usize) -> ReportQueue {
        ReportQueue { state: Mutex::default(), changed: Condvar::new(), capacity }
    }

    /// Queues a report that is not held back.
    #[cfg(all(test, not(pollwatch_loom)))]
    #[must_use]
    pub(super) fn push_stall(&self, record: StallRecord, wait: Duration) -> bool {
        self.push_held_stall(record, wait, Duration::ZERO)
    }

    /// Queues a report of a stall, which may be taken after `wait`, or once it is
    /// [updated](Self::update). It takes the place of an earlier report of the same stall, and
    /// waits for symbols no longer than that one. It is held back for the time `hold` even with its
    /// symbols. Returns `false` if the queue is full.
    #[must_use]
    pub(super) fn push_held_stall(&self, record: StallRecord, wait: Duration, hold: Duration) -> bool {
        let (id, now) = (record.stall.id, Instant::now());
        let (ready_at, held_until) = (now + wait, now + hold);
        let mut state = lock(&self.state);
        if let Some(queued) = state.of_stall(id) {
            queued.replace(record);
            queued.ready_at = queued.ready_at.min(ready_at);
            queued.held_until = held_until;
        } else {
            let queued = QueuedReport { report: Report::Stall(Box::new(record)), ready_at, held_until };
            if !self.push(&mut state, queued, Some(id)) {
                return false;
            }
        }
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Queues a notice. Returns `false` if the queue is full.
    #[must_use]
    pub(super) fn push_notice(&self, notice: Notice) -> bool {
        let now = Instant::now();
        let queued = QueuedReport { report: Report::Notice(notice), ready_at: now, held_until: now };
        let is_queued = self.push(&mut lock(&self.state), queued, None);
        self.changed.notify_one();
        is_queued
    }

    /// Replaces the waiting report of a stall, if there is one, by this state, if that is newer.
    pub(super) fn refresh(&self, record: &StallRecord) {
        if let Some(queued) = lock(&self.state).of_stall(record.stall.id) {
            queued.replace(record.clone());
        }
    }

    /// Replaces the waiting report of a stall like [`refresh`](Self::refresh), and lets it be
    /// taken.
    pub(super) fn update(&self, record: &StallRecord) {
        self.refresh(record);
        self.set_ready(record.stall.id);
    }

    /// Lets the waiting report of a stall be taken, if there is one.
    pub(super) fn set_ready(&self, id: u64) {
        if let Some(queued) = lock(&self.state).of_stall(id) {
            queued.ready_at = queued.ready_at.min(Instant::now());
        }
        self.changed.notify_one();
    }

    /// Ends the queue. What is in it can still be taken, without waiting for symbols.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_one();
    }

    /// Takes the oldest report that is ready, and waits for one. Returns `None` once the queue is
    /// closed and empty.
    pub(super) fn pop(&self) -> Option<Report> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let is_closed = state.is_closed;
            let ready = state.reports.iter().find(|(_, queued)| is_closed || queued.due_at() <= now);
            if let Some(position) = ready.map(|(position, _)| *position) {
                return state.remove(position);
            }
            if is_closed {
                return None;
            }
            let next = state.reports.values().map(QueuedReport::due_at).min();
            state = match next {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let wait = next.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Runs `f` while nothing can be queued or taken.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fn while_locked<T>(&self, f: impl FnOnce() -> T) -> T {
        let _state = lock(&self.state);
        f()
    }

    fn push(&self, state: &mut QueueState, queued: QueuedReport, stall: Option<u64>) -> bool {
        if state.reports.len() >= self.capacity {
            return false;
        }
        let position = state.next;
        state.next += 1;
        state.reports.insert(position, queued);
        if let Some(id) = stall {
            state.positions.insert(id, position);
        }
        true
    }
}

impl QueuedReport {
    /// Returns the moment from which on the report may be taken.
    fn due_at(&self) -> Instant {
        self.ready_at.max(self.held_until)
    }

    /// Replaces the state of a stall, unless it is older.
    fn replace(&mut self, newer: StallRecord) {
        if let Report::Stall(record) = &mut self.report
            && record.version <= newer.version
        {
            **record = newer;
        }
    }
}

impl QueueState {
    fn of_stall(&mut self, id: u64) -> Option<&mut QueuedReport> {
        self.reports.get_mut(self.positions.get(&id)?)
    }

    fn remove(&mut self, position: u64) -> Option<Report> {
        let report = self.reports.remove(&position)?.report;
        if let Report::Stall(record) = &report {
            self.positions.remove(&record.stall.id);
        }
        Some(report)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::model::event::StallOrigin;
    use crate::model::id::{RuntimeId, SiteId};
    use crate::report::samples::stall;

    const LONG: Duration = Duration::from_secs(3_600);

    fn record(id: u64, millis: u64) -> StallRecord {
        let origin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None, parent_route: None };
        StallRecord { stall: stall(id, millis), origin, version: millis }
    }

    /// Takes what is ready after the queue was closed: id and milliseconds of each report.
    fn drain(queue: &ReportQueue) -> Vec<[u64; 2]> {
        queue.close();
        let mut all = Vec::new();
        while let Some(report) = queue.pop() {
            all.push(described(report));
        }
        all
    }

    fn described(report: Report) -> [u64; 2] {
        match report {
            Report::Stall(record) => [record.stall.id, record.stall.elapsed.as_millis() as u64],
            Report::Notice(_) => [0, 0],
        }
    }

    #[test]
    fn a_newer_state_replaces_the_one_that_waits() {
        let queue = ReportQueue::new(10);
        for millis in [10, 20, 40, 80] {
            assert!(queue.push_stall(record(1, millis), Duration::ZERO));
            assert!(queue.push_stall(record(2, millis), Duration::ZERO));
        }
        assert!(queue.push_notice(Notice::Degraded("something".into())));
        queue.refresh(&record(2, 90));
        queue.refresh(&record(3, 90));
        queue.update(&record(1, 30));
        assert_eq!(drain(&queue), [[1, 80], [2, 90], [0, 0]]);
    }

    #[test]
    fn a_report_waits_for_its_stack_and_others_do_not() {
        let queue = ReportQueue::new(10);
        assert!(queue.push_stall(record(1, 10), LONG));
        assert!(queue.push_stall(record(2, 10), Duration::ZERO));
        assert_eq!(queue.pop().map(described), Some([2, 10]));
        queue.update(&record(1, 20));
        assert_eq!(queue.pop().map(described), Some([1, 20]));
        // Nobody waits longer than the limit, and a later report does not make it later.
        let limit = Duration::from_millis(20);
        let start = Instant::now();
        assert!(queue.push_stall(record(1, 40), limit));
        assert!(queue.push_stall(record(1, 80), LONG));
        assert_eq!(queue.pop().map(described), Some([1, 80]));
        assert!(start.elapsed() >= limit);
        assert!(queue.push_stall(record(1, 160), LONG));
        queue.set_ready(1);
        assert_eq!(queue.pop().map(described), Some([1, 160]));
    }

    #[test]
    fn a_held_report_waits_even_with_its_stack() {
        let queue = ReportQueue::new(10);
        let hold = Duration::from_millis(20);
        let start = Instant::now();
        assert!(queue.push_stall(record(1, 10), LONG));
        assert!(queue.push_held_stall(record(1, 20), Duration::ZERO, hold));
        queue.update(&record(1, 30));
        assert_eq!(queue.pop().map(described), Some([1, 30]));
        assert!(start.elapsed() >= hold);
        assert!(queue.push_held_stall(record(1, 40), Duration::ZERO, LONG));
        assert_eq!(drain(&queue), [[1, 40]], "the end waits for nothing");
    }

    #[test]
    fn a_full_queue_still_takes_newer_states() {
        let queue = ReportQueue::new(2);
        assert!(queue.push_stall(record(1, 10), LONG) && queue.push_stall(record(2, 10), Duration::ZERO));
        assert!(!queue.push_stall(record(3, 10), Duration::ZERO));
        assert!(!queue.push_notice(Notice::Degraded("something".into())));
        assert!(queue.push_stall(record(2, 20), Duration::ZERO));
        assert_eq!(drain(&queue), [[1, 10], [2, 20]], "the end waits for no symbols");
    }
}

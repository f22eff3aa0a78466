//! Finds the tasks that waited behind stalls, where delays are tracked.

use super::Watcher;
use super::observe::ScanResult;
use crate::detect::track::Change;
use crate::detect::victims::{DelayedStart, StartedSpan, VictimGroupKey};
use crate::measure::primitives::site::SiteId;
use crate::measure::thread::ThreadState;

impl Watcher {
    /// Takes the delayed polls of a thread.
    pub(super) fn take_delayed_polls(&self, thread: &ThreadState, delayed: &mut Vec<DelayedStart>) {
        let Some(ring) = &thread.delayed_polls else { return };
        ring.drain(|poll| {
            let (start, tag) = (self.meter.clock.nanos(poll.start), poll.tag.unpack());
            let site = thread.counters.get(tag.index).map_or(SiteId::OTHER, |counters| counters.site());
            delayed.push(DelayedStart {
                thread: thread.id,
                runtime: tag.runtime,
                group: VictimGroupKey::new(tag.route, site),
                woken: start.saturating_sub(poll.delay),
                start,
            });
        });
    }

    /// Takes note of the stalls that start and end with these changes.
    pub(super) fn track_stalls(&mut self, changes: &[Change], scan: &ScanResult) {
        if self.meter.min_delay.is_none() {
            return;
        }
        for change in changes {
            match change {
                Change::Started { id, poll, .. } => {
                    let thread = poll.key.thread;
                    self.victims.start(StartedSpan { id: *id, thread, runtime: poll.runtime, start: poll.start });
                }
                Change::Ended { id, elapsed, end, .. } => {
                    self.victims.end(*id, *elapsed, end.map(|end| end.at));
                }
                Change::EndedUnseen { id, poll, elapsed, .. } => {
                    let thread = poll.key.thread;
                    self.victims.start(StartedSpan { id: *id, thread, runtime: poll.runtime, start: poll.start });
                    // Pauses are part of the wait, and not of `elapsed`.
                    let ended = scan.polls.ended.iter().find(|ended| ended.poll.key == poll.key);
                    self.victims.end(*id, *elapsed, ended.map(|ended| ended.end.at));
                }
                _ => {}
            }
        }
    }

    /// Emits the victims that are known since this scan.
    pub(super) fn emit_victims(&mut self, scan: &ScanResult) {
        scan.delayed.iter().for_each(|poll| self.victims.add(poll));
        for (id, victims) in self.victims.take_changed(scan.now) {
            self.emitter.emit_victims(id, &victims);
        }
    }
}

//! What each worker is polling at this very moment, read from the slots by whoever asks.

use std::sync::Arc;

use super::live::worker_of;
use crate::measure::meter::Meter;
use crate::measure::route::RouteId;
use crate::measure::runtime::Runtime;
use crate::measure::site::SiteId;
use crate::measure::thread::ThreadState;

/// A worker in a poll.
#[derive(Clone, Debug)]
pub(crate) struct Polling {
    pub(crate) worker: u16,
    /// How long the poll has lasted so far.
    pub(crate) nanos: u64,
    pub(crate) thread: Arc<ThreadState>,
    /// The poll's push number.
    pub(crate) number: u64,
    pub(crate) site: SiteId,
    /// The innermost watched future inside it.
    pub(crate) watched: Option<SiteId>,
    /// The innermost request inside it.
    pub(crate) route: Option<RouteId>,
    /// The route of the request whose handler spawned it.
    pub(crate) parent_route: Option<RouteId>,
}

/// The workers of a runtime that are in a poll, each once, with its longest poll.
pub(crate) fn polling(meter: &Meter, runtime: &Runtime) -> Vec<Polling> {
    let mut found: Vec<Polling> = Vec::new();
    for thread in meter.threads() {
        let Some(reading) = thread.slot.read() else { continue };
        let now = meter.clock.now();
        for (frame, what, stands) in reading.polls() {
            let nanos = meter.clock.delta(frame.begin, stands.unwrap_or(now));
            if what.runtime != runtime.id {
                continue;
            }
            let Some(worker) = worker_of(runtime, &thread, frame) else { continue };
            let polling = Polling {
                worker,
                nanos,
                thread: thread.clone(),
                number: frame.number,
                site: thread.tally.cell(what.index).map_or(SiteId::OTHER, |cell| cell.site()),
                watched: reading.scope_of(frame),
                route: reading.request_of(frame).map(|(_, route)| route),
                parent_route: reading.parent_route(frame),
            };
            match found.iter_mut().find(|known| known.worker == worker) {
                Some(known) if known.nanos >= nanos => {}
                Some(known) => *known = polling,
                None => found.push(polling),
            }
        }
    }
    found
}

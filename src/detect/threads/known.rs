//! What pollwatch knows of the threads that it measures or observes anyway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::{Target, Tid};

use crate::detect::scan;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::measure::thread::ThreadState;
use crate::model::id::RuntimeId;
use crate::model::site::Site;

/// A thread that pollwatch knows.
#[derive(Clone, Debug)]
pub(super) struct KnownThread {
    pub(super) name: Arc<str>,
    pub(super) target: Option<Target>,
    pub(super) claim: Option<RuntimeClaim>,
    /// The outermost poll that the thread is in.
    pub(super) poll: Option<MeasuredPoll>,
}

/// A poll that a thread is in.
#[derive(Clone, Debug)]
pub(super) struct MeasuredPoll {
    pub(super) elapsed: Duration,
    pub(super) site: Site,
    pub(super) route: Option<Arc<str>>,
}

/// The runtime that a thread belongs to.
#[derive(Clone, Debug)]
pub(super) struct RuntimeClaim {
    pub(super) runtime: Arc<str>,
    pub(super) kind: ClaimKind,
}

/// How a thread belongs to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimKind {
    /// The thread is the one that ran this worker last.
    Worker { index: usize, is_parked: bool },
    /// The thread is in the runtime's pool, and has run no worker.
    Pool,
    /// The thread drove this current-thread runtime last.
    CurrentThread,
}

/// Returns the threads that pollwatch knows.
pub(super) fn threads(meter: &Meter) -> HashMap<Tid, KnownThread> {
    let measured = meter.threads();
    let mut known = HashMap::new();
    for thread in &measured {
        let Some(tid) = thread.tid else { continue };
        let target = thread.stack.map(|stack| Target { tid, stack });
        let poll = poll(meter, thread);
        known.insert(tid, KnownThread { name: thread.name.clone(), target, claim: None, poll });
    }
    for runtime in meter.runtimes.all().iter().filter(|runtime| runtime.id != RuntimeId::OTHER) {
        add_pool(runtime, &mut known);
        add_owners(runtime, &measured, &mut known);
    }
    known
}

/// Returns the outermost poll that a thread is in.
fn poll(meter: &Meter, thread: &ThreadState) -> Option<MeasuredPoll> {
    if !meter.clock.is_consistent() {
        return None;
    }
    let reading = thread.slot.read()?;
    let (poll, _) = scan::polls_in(meter, thread, &reading).next()?;
    let route = poll.request.map(|request| request.route).or(poll.parent_route);
    Some(MeasuredPoll {
        elapsed: meter.clock.moment().saturating_sub(poll.start).to_duration(),
        site: meter.sites.get(poll.site),
        route: route.map(|route| meter.routes.name(route)),
    })
}

/// Adds the threads that a runtime lists.
fn add_pool(runtime: &Runtime, known: &mut HashMap<Tid, KnownThread>) {
    for entry in runtime.pool_threads().map(|threads| threads.entries()).unwrap_or_default() {
        let Some(tid) = entry.tid else { continue };
        let kind = match entry.last_event() {
            Some(event) => ClaimKind::Worker { index: event.worker.index(), is_parked: event.is_parked() },
            None => ClaimKind::Pool,
        };
        let thread = known.entry(tid).or_insert_with(|| KnownThread {
            name: entry.name.clone(),
            target: entry.target(),
            claim: None,
            poll: None,
        });
        thread.claim = Some(RuntimeClaim { runtime: runtime.name.clone(), kind });
    }
}

/// Adds the threads that run the workers of a runtime according to tokio's metrics.
#[cfg(tokio_unstable)]
fn add_owners(runtime: &Runtime, measured: &[Arc<ThreadState>], known: &mut HashMap<Tid, KnownThread>) {
    let Some(metrics) = runtime.metrics() else { return };
    for index in 0..metrics.num_workers() {
        let Some(owner) = metrics.worker_thread_id(index) else { continue };
        let owner = measured.iter().find(|thread| thread.thread == owner);
        if let Some(tid) = owner.and_then(|thread| thread.tid)
            && let Some(thread) = known.get_mut(&tid)
        {
            let kind = match runtime.is_multi_thread() {
                true => ClaimKind::Worker { index, is_parked: false },
                false => ClaimKind::CurrentThread,
            };
            thread.claim = Some(RuntimeClaim { runtime: runtime.name.clone(), kind });
        }
    }
}

/// Adds the thread that is expected to drive a current-thread runtime.
#[cfg(not(tokio_unstable))]
fn add_owners(runtime: &Runtime, _: &[Arc<ThreadState>], known: &mut HashMap<Tid, KnownThread>) {
    let Some(driven) = runtime.driven().filter(|driven| !driven.thread.has_ended()) else { return };
    let Some(tid) = driven.thread.tid else { return };
    let thread = known.entry(tid).or_insert_with(|| KnownThread {
        name: driven.thread.name.clone(),
        target: driven.thread.target(),
        claim: None,
        poll: None,
    });
    let claim = RuntimeClaim { runtime: runtime.name.clone(), kind: ClaimKind::CurrentThread };
    thread.claim.get_or_insert(claim);
}

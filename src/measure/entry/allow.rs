//! Scopes of allowed blocking.

use crate::measure::thread;
use crate::measure::thread::slot::{FrameKind, FrameTag};
use crate::model::id::RuntimeId;

/// Runs `f`, which is allowed to block: its time is counted under `reason`
/// (`pollwatch_allowed_blocking_seconds_total`) and left out of the enclosing poll. The rest of the
/// poll is measured as usual. An ongoing stall does not grow during the call.
///
/// Scopes nest; the time of an inner one is not counted in the outer one. Outside of a measured
/// poll, and of a worker that is observed from outside in stable mode, the function only runs `f`.
/// It changes nothing for the other tasks of the worker, which do wait. Use it where they may wait
/// (at start-up, in a tool, for a bounded call that has no async form), and
/// [`tokio::task::spawn_blocking`] everywhere else.
///
/// Costs two clock readings, and a lock and a system call at the end. A panic in `f` unwinds
/// through it.
///
/// ```
/// let config = pollwatch::allow_blocking("reads its configuration", || {
///     std::fs::read_to_string("app.toml")
/// });
/// # drop(config);
/// ```
pub fn allow_blocking<R>(reason: &'static str, f: impl FnOnce() -> R) -> R {
    let _scope = Scope::enter(reason);
    f()
}

struct Scope {
    reason: &'static str,
}

impl Scope {
    fn enter(reason: &'static str) -> Scope {
        let tag = FrameTag { kind: FrameKind::Allowed, runtime: RuntimeId::OTHER, route: None, index: 0 }.pack();
        thread::for_each_handle(|thread| {
            // A worker may be observed from outside though its poll is not measured.
            if thread.state.slot.depth() > 0 || crate::measure::runtime::worker_threads::is_worker() {
                thread.state.push(thread.state.now(), tag);
            }
        });
        Scope { reason }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        thread::for_each_handle(|thread| {
            let slot = &thread.state.slot;
            let top = match slot.top() {
                Some(top) if top.tag().kind == FrameKind::Allowed => top,
                // Too deep to be published.
                None if slot.depth() > 0 => return slot.pop(),
                _ => return,
            };
            let (start, now) = (top.start(), thread.state.now());
            slot.pop_allowed(now.since_same_source(start));
            thread.count_allowed(self.reason, start);
        });
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::runtime::meter::Meter;
    use crate::measure::thread::local_handle;
    use crate::model::time::Nanos;

    /// The readings of the two sources have no difference that means anything.
    #[test]
    fn a_scope_that_spans_a_change_of_the_clock_moves_no_start() {
        let meter = Meter::of(Nanos::from_secs(1), 10);
        let thread = local_handle(&meter).unwrap();
        let poll = FrameTag { kind: FrameKind::Watched, runtime: RuntimeId::OTHER, route: None, index: 0 }.pack();
        let start = thread.state.now();
        thread.state.push(start, poll);
        allow_blocking("a test", || {
            meter.clock.give_up_counter();
            thread.state.clock.follow();
        });
        assert_eq!(thread.state.slot.top().unwrap().start(), start);
        thread.state.slot.pop();
        assert!(meter.allowed()["a test"] < Nanos::from_secs(3_600));
    }
}

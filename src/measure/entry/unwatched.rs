//! The warning that a layer measures nothing, because no watchdog watches its requests.
//!
//! Whoever forgets to start a watchdog, or drops its handle, would otherwise find nothing and not
//! know why. The warning is logged once in a process: by the first request, or by a later one on a
//! runtime that no watchdog watches. It is not logged by the last requests of a service that has
//! stopped its watchdog, nor under `POLLWATCH=off`.

use std::panic::Location;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::{Level, event};

use crate::measure::primitives::site::SiteId;
use crate::measure::runtime::current;
use crate::measure::runtime::meter::Meter;
use crate::model::site::Site;
use crate::util::call_user;

/// No request has passed a layer.
const NO_REQUEST: u8 = 0;
/// The first request was watched.
const WATCHED: u8 = 1;
/// The warning has been logged, or is not wanted.
const SETTLED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(NO_REQUEST);

/// Notes a request that is counted by this meter. Logs the warning if it is the first one, and the
/// watchdog has stopped.
#[inline]
pub(crate) fn counted(meter: &Meter, site: SiteId) {
    if STATE.load(Ordering::Relaxed) == NO_REQUEST {
        first_counted(meter, site);
    }
}

#[cold]
fn first_counted(meter: &Meter, site: SiteId) {
    if meter.runtimes.is_stopped() {
        warn_once(meter.sites.get(site), STOPPED);
    } else {
        // It fails where another thread has logged the warning meanwhile.
        let _ = STATE.compare_exchange(NO_REQUEST, WATCHED, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Notes a request of a layer that was made at `location`, and has found no watchdog.
#[inline]
pub(crate) fn passed(location: &'static Location<'static>) {
    if STATE.load(Ordering::Relaxed) != SETTLED {
        explain(location);
    }
}

#[cold]
fn explain(location: &'static Location<'static>) {
    let remedy = match current::why_no_meter() {
        current::NoMeter::NeverStarted => NEVER_STARTED,
        current::NoMeter::ElsewhereOnly => ELSEWHERE_ONLY,
        // Its last requests, while the service ends.
        current::NoMeter::Stopped if STATE.load(Ordering::Relaxed) == WATCHED => return settle(),
        current::NoMeter::Stopped => STOPPED,
    };
    warn_once(Site::new(Some(location)), remedy);
}

/// Turns the warning off, for a program that runs without a watchdog on purpose.
pub(crate) fn settle() {
    STATE.store(SETTLED, Ordering::Relaxed);
}

const NEVER_STARTED: &str = "no watchdog was started. Write #[pollwatch::main] in place of #[tokio::main], or start one with \
Watchdog::builder().start(), keep it, and build the runtime with it";
const ELSEWHERE_ONLY: &str = "no watchdog watches the runtime of this request. Build the runtime with Watchdog::runtime or \
build_runtime, or call Watchdog::attach for it";
const STOPPED: &str = "the watchdog has stopped. Keep what start() returns for as long as the service runs";

/// Logs the warning on the worker of the request, as the service logs there as well.
fn warn_once(layer: Site, remedy: &'static str) {
    if STATE.swap(SETTLED, Ordering::Relaxed) == SETTLED {
        return;
    }
    // A subscriber that panics does not fail the request.
    call_user(|| {
        event!(
            target: "pollwatch::watchdog",
            parent: None,
            Level::WARN,
            layer = %layer,
            "pollwatch measures no requests of the layer made at {layer}: {remedy}"
        );
    });
}

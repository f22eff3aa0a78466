//! Thread callbacks of tokio's builder: pollwatch's own, which observe workers from outside (stable
//! mode), and the user's, which run around them.
//!
//! What tokio does: its builder keeps one callback of each kind and overwrites an earlier one
//! silently. A callback cannot be read or removed. The `Debug` text of the builder shows only which
//! kinds are set.
//!
//! What follows from it: a callback of the user's that is already on the builder would be lost.
//! [`install`] finds it by the `Debug` text, and refuses the builder. Where pollwatch only lists
//! threads by its callbacks, it leaves every callback that is set: a list is not worth a callback
//! of the user's.
//!
//! The builder is owned by the call that builds the runtime. So no further runtime is built from
//! it, and the callbacks need not be replaced afterwards.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use crate::error::{Error, ErrorKind};
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::WorkerThreads;
use crate::util::call_user;

/// `true` if pollwatch has thread callbacks of its own in this build. With `tokio_unstable`, the
/// task hooks report more. On other systems than Linux, a worker's thread cannot be observed well
/// enough.
pub(crate) const INSTALLED: bool = cfg!(all(not(tokio_unstable), target_os = "linux"));

/// `true` if pollwatch lists the threads of pools in this build, although they publish nothing.
/// Their stacks can then be captured while they run.
const LISTED: bool = cfg!(all(tokio_unstable, target_os = "linux"));

type Callback = Box<dyn Fn() + Send + Sync>;

/// The user's callbacks for threads, one of each kind.
#[derive(Default)]
pub(crate) struct ThreadCallbacks {
    pub(crate) start: Option<Callback>,
    pub(crate) stop: Option<Callback>,
    pub(crate) park: Option<Callback>,
    pub(crate) unpark: Option<Callback>,
}

impl ThreadCallbacks {
    fn has(&self, kind: CallbackKind) -> bool {
        match kind {
            CallbackKind::Start => self.start.is_some(),
            CallbackKind::Stop => self.stop.is_some(),
            CallbackKind::Park => self.park.is_some(),
            CallbackKind::Unpark => self.unpark.is_some(),
        }
    }
}

impl fmt::Debug for ThreadCallbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(CallbackKind::ALL.iter().filter(|kind| self.has(**kind)).map(|kind| kind.method()))
            .finish()
    }
}

/// The kinds of thread callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallbackKind {
    Start,
    Stop,
    Park,
    Unpark,
}

impl CallbackKind {
    const ALL: [CallbackKind; 4] = [CallbackKind::Start, CallbackKind::Stop, CallbackKind::Park, CallbackKind::Unpark];

    /// The kinds that list the threads of a pool.
    const LISTING: [CallbackKind; 2] = [CallbackKind::Start, CallbackKind::Stop];

    /// Returns the name of the field in the `Debug` text of tokio's builder.
    fn field(self) -> &'static str {
        match self {
            CallbackKind::Start => "after_start: ",
            CallbackKind::Stop => "before_stop: ",
            CallbackKind::Park => "before_park: ",
            CallbackKind::Unpark => "after_unpark: ",
        }
    }

    /// Returns the name of the method that sets it, in tokio's builder and in `Hooks`.
    fn method(self) -> &'static str {
        match self {
            CallbackKind::Start => "on_thread_start",
            CallbackKind::Stop => "on_thread_stop",
            CallbackKind::Park => "on_thread_park",
            CallbackKind::Unpark => "on_thread_unpark",
        }
    }

    /// Returns whether the builder with this `Debug` text has a callback of this kind. The name of
    /// the runtime, which the user chooses, comes before the fields. So the last match counts.
    fn is_set(self, debug_text: &str) -> bool {
        debug_text.rfind(self.field()).is_some_and(|at| debug_text[at + self.field().len()..].starts_with("Some("))
    }

    fn set(self, builder: &mut Builder, f: impl Fn() + Send + Sync + 'static) {
        match self {
            CallbackKind::Start => builder.on_thread_start(f),
            CallbackKind::Stop => builder.on_thread_stop(f),
            CallbackKind::Park => builder.on_thread_park(f),
            CallbackKind::Unpark => builder.on_thread_unpark(f),
        };
    }
}

/// The lists to which the callbacks publish that [`install`] has set on a builder.
pub(crate) struct InstalledCallbacks {
    /// The list to which pollwatch's callbacks publish; `None` where only the user's are set.
    pub(crate) worker_threads: Option<Arc<WorkerThreads>>,
    /// The list of the pool's threads, which publish nothing.
    pub(crate) pool_threads: Option<Arc<WorkerThreads>>,
}

/// Sets the user's callbacks on the builder, with pollwatch's own if the threads are to be
/// `observed` and this build has any ([`INSTALLED`], [`LISTED`]). Threads are listed only if the
/// builder has no callback that would be replaced thereby.
///
/// # Errors
///
/// Fails when the builder already has a callback of the user's that would be lost.
pub(crate) fn install(
    builder: &mut Builder,
    meter: &Arc<Meter>,
    user: ThreadCallbacks,
    observed: bool,
) -> Result<InstalledCallbacks, Error> {
    let wanted = observed;
    let observed = wanted && INSTALLED;
    let mut kinds: Vec<CallbackKind> =
        CallbackKind::ALL.into_iter().filter(|kind| observed || user.has(*kind)).collect();
    refuse_lost_callbacks(builder, &kinds)?;
    let listed = wanted && LISTED && has_none_of(builder, &CallbackKind::LISTING);
    if listed {
        kinds.extend(CallbackKind::LISTING.iter().filter(|kind| !user.has(**kind)));
    }
    let worker_threads = observed.then(|| WorkerThreads::new(meter));
    let pool_threads = listed.then(|| WorkerThreads::new(meter));
    let ThreadCallbacks { start, stop, park, unpark } = user;
    let by_kind = [
        (CallbackKind::Start, start),
        (CallbackKind::Stop, stop),
        (CallbackKind::Park, park),
        (CallbackKind::Unpark, unpark),
    ];
    for (kind, user) in by_kind.into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        let listed = pool_threads.clone().filter(|_| CallbackKind::LISTING.contains(&kind));
        let threads = worker_threads.clone().or(listed);
        install_kind(builder, kind, threads, Arc::downgrade(meter), user);
    }
    Ok(InstalledCallbacks { worker_threads, pool_threads })
}

/// Returns whether the builder has no callbacks of these kinds.
fn has_none_of(builder: &Builder, kinds: &[CallbackKind]) -> bool {
    let debug_text = format!("{builder:?}");
    !kinds.iter().any(|kind| kind.is_set(&debug_text))
}

/// Returns an error if the builder has callbacks of these kinds.
fn refuse_lost_callbacks(builder: &Builder, kinds: &[CallbackKind]) -> Result<(), Error> {
    let debug_text = format!("{builder:?}");
    let lost = kinds.iter().filter(|kind| kind.is_set(&debug_text));
    let lost: Vec<&str> = lost.map(|kind| kind.method()).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the builder has callbacks of its own that would be lost, because tokio keeps one of each kind: {}. Set them on \
         pollwatch::Hooks, which has methods of the same names, and pass that to RuntimeBuilder::hooks",
        lost.join(", ")
    );
    Err(Error::new(ErrorKind::CallbacksWouldBeLost, text))
}

/// Sets one callback. The user's callbacks for park and unpark run while the thread counts as
/// parked, so that their time is never observed as a worker's.
fn install_kind(
    builder: &mut Builder,
    kind: CallbackKind,
    worker_threads: Option<Arc<WorkerThreads>>,
    meter: Weak<Meter>,
    user: Option<Callback>,
) {
    kind.set(builder, move || {
        if let Some(threads) = &worker_threads {
            match kind {
                CallbackKind::Start if is_multi_thread() => threads.register(),
                CallbackKind::Park => threads.publish_park(),
                _ => {}
            }
        }
        if let Some(user) = &user {
            run_user(&meter, user);
        }
        if let Some(threads) = &worker_threads {
            match kind {
                CallbackKind::Unpark => threads.publish_unpark(),
                CallbackKind::Stop if is_multi_thread() => threads.unregister(),
                _ => {}
            }
        }
    });
}

/// Returns whether the calling thread belongs to a multi-thread runtime. The pool of a
/// current-thread runtime has no workers: its one worker is the thread that calls `block_on`.
fn is_multi_thread() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Runs a callback of the user's, and counts its panic.
#[inline(never)]
fn run_user(meter: &Weak<Meter>, user: &Callback) {
    if call_user(user)
        && let Some(meter) = meter.upgrade()
    {
        meter.hook_panics.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Returns the methods whose callbacks are set.
    fn set_methods(builder: &Builder) -> Vec<&'static str> {
        let debug_text = format!("{builder:?}");
        CallbackKind::ALL.into_iter().filter(|kind| kind.is_set(&debug_text)).map(CallbackKind::method).collect()
    }

    #[test]
    fn the_debug_text_shows_which_are_set() {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("after_start: Some(");
        assert!(set_methods(&builder).is_empty(), "{builder:?}");
        builder.on_thread_stop(|| {}).on_thread_unpark(|| {});
        assert_eq!(set_methods(&builder), ["on_thread_stop", "on_thread_unpark"], "{builder:?}");
        builder.on_thread_start(|| {}).on_thread_park(|| {});
        assert_eq!(set_methods(&builder).len(), 4, "{builder:?}");
    }
}

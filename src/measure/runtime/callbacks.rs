//! Thread callbacks of tokio's builder: pollwatch's own, which observe workers from outside (stable
//! mode), and the user's, which run around them.
//!
//! What tokio does: its builder keeps one callback of each kind and overwrites an earlier one
//! silently. A callback cannot be read or removed. The `Debug` text of the builder shows only which
//! kinds are set.
//!
//! What follows from it:
//!
//! - A callback of the user's that is already on the builder would be lost. [`install`] finds it by
//!   the `Debug` text, and refuses the builder.
//! - After the build, pollwatch's callbacks cannot be removed. [`uninstall`] replaces them by
//!   callbacks without effect, so that the next runtime from this builder does not publish to the
//!   worker threads of this one.
//! - The `Debug` text shows those placeholders like callbacks of the user's. A second build with
//!   the same builder must not be refused because of them.
//!
//! What is stored: [`PLACEHOLDERS`], the list of all placeholders. The address of the builder
//! identifies them, since tokio offers nothing else. Each placeholder owns a token, which is
//! dropped with it, so that a callback that the user set over a placeholder is not mistaken for it.
//! One case remains: a placeholder may live on in a runtime that was built from the builder, or in
//! the builder after a move, while the user sets a callback on another builder at the old address.
//! That callback is replaced without an error, as the documentation of `Watchdog::build_runtime`
//! says.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::WorkerThreads;
use crate::util::{call_user, lock};

/// `true` if pollwatch has thread callbacks of its own in this build. With `tokio_unstable`, the
/// task hooks report more. On other systems than Linux, a worker's thread cannot be observed well
/// enough.
pub(crate) const INSTALLED: bool = cfg!(all(not(tokio_unstable), target_os = "linux"));

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

/// A callback without effect that [`uninstall`] has set on a builder.
struct Placeholder {
    /// The address of the builder.
    builder: usize,
    kind: CallbackKind,
    /// The token that the callback owns. It is dropped once no builder and no runtime has the
    /// callback any more.
    token: Weak<()>,
}

/// All placeholders that may still be on a builder.
static PLACEHOLDERS: Mutex<Vec<Placeholder>> = Mutex::new(Vec::new());

fn address(builder: &Builder) -> usize {
    std::ptr::from_ref(builder) as usize
}

/// Returns whether the builder's callback of this kind is a placeholder.
fn has_placeholder(builder: &Builder, kind: CallbackKind) -> bool {
    let is_here = |known: &Placeholder| (known.builder, known.kind) == (address(builder), kind);
    lock(&PLACEHOLDERS).iter().any(|known| is_here(known) && known.token.strong_count() > 0)
}

/// Replaces the builder's callback of this kind by a placeholder.
fn set_placeholder(builder: &mut Builder, kind: CallbackKind) {
    let token = Arc::new(());
    let placeholder = Placeholder { builder: address(builder), kind, token: Arc::downgrade(&token) };
    // This drops the previous callback, with everything that the user's closure owns. It happens
    // before the lock is taken, because such a drop is user code.
    kind.set(builder, move || {
        let _ = &token;
    });
    let mut placeholders = lock(&PLACEHOLDERS);
    placeholders.retain(|known| known.token.strong_count() > 0);
    placeholders.push(placeholder);
}

/// The callbacks that [`install`] has set on a builder, for [`uninstall`].
pub(crate) struct InstalledCallbacks {
    kinds: Vec<CallbackKind>,
    /// The list to which pollwatch's callbacks publish; `None` where only the user's are set.
    pub(crate) worker_threads: Option<Arc<WorkerThreads>>,
}

/// Sets the user's callbacks on the builder, with pollwatch's own if the threads are to be
/// `observed` and this build has any ([`INSTALLED`]).
///
/// # Errors
///
/// `InvalidInput` when the builder already has a callback of the user's that would be lost.
pub(crate) fn install(
    builder: &mut Builder,
    meter: &Arc<Meter>,
    user: ThreadCallbacks,
    observed: bool,
) -> io::Result<InstalledCallbacks> {
    let observed = observed && INSTALLED;
    let kinds: Vec<CallbackKind> = CallbackKind::ALL.into_iter().filter(|kind| observed || user.has(*kind)).collect();
    refuse_lost_callbacks(builder, &kinds)?;
    let worker_threads = observed.then(|| WorkerThreads::new(meter));
    let ThreadCallbacks { start, stop, park, unpark } = user;
    let by_kind = [
        (CallbackKind::Start, start),
        (CallbackKind::Stop, stop),
        (CallbackKind::Park, park),
        (CallbackKind::Unpark, unpark),
    ];
    for (kind, user) in by_kind.into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        install_kind(builder, kind, worker_threads.clone(), Arc::downgrade(meter), user);
    }
    Ok(InstalledCallbacks { kinds, worker_threads })
}

/// Returns an error if the builder has callbacks of these kinds that are not placeholders.
fn refuse_lost_callbacks(builder: &Builder, kinds: &[CallbackKind]) -> io::Result<()> {
    let debug_text = format!("{builder:?}");
    let lost = kinds.iter().filter(|kind| kind.is_set(&debug_text) && !has_placeholder(builder, **kind));
    let lost: Vec<&str> = lost.map(|kind| kind.method()).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "the builder has callbacks of its own that would be lost, because tokio keeps one of each kind: {}. Set them \
             on pollwatch::Hooks, which has methods of the same names, and pass that to Watchdog::build_runtime_with",
            lost.join(", ")
        ),
    ))
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

/// Replaces the installed callbacks by placeholders, so that the next runtime that is built from
/// this builder does not publish to the worker threads of this one.
pub(crate) fn uninstall(builder: &mut Builder, installed: &InstalledCallbacks) {
    for &kind in &installed.kinds {
        set_placeholder(builder, kind);
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

    #[test]
    fn a_placeholder_is_not_mistaken_for_a_callback_of_the_user() {
        let mut builder = Builder::new_multi_thread();
        builder.on_thread_start(|| {});
        assert!(!has_placeholder(&builder, CallbackKind::Start));
        set_placeholder(&mut builder, CallbackKind::Park);
        assert!(has_placeholder(&builder, CallbackKind::Park) && !has_placeholder(&builder, CallbackKind::Start));
        builder.on_thread_park(|| {});
        assert!(!has_placeholder(&builder, CallbackKind::Park), "the user has set another since");
        set_placeholder(&mut builder, CallbackKind::Park);
        set_placeholder(&mut builder, CallbackKind::Park);
        assert!(has_placeholder(&builder, CallbackKind::Park));
        assert!(!has_placeholder(&Builder::new_multi_thread(), CallbackKind::Park));
    }
}

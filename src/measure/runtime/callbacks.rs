//! tokio's thread callbacks: pollwatch's, where workers are observed from outside (stable mode),
//! and the user's around them.
//!
//! tokio keeps one callback of a kind and overwrites silently. Its builder tells in its `Debug`
//! text only which are set, and lets none be taken out again.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::worker_threads::WorkerThreads;
use crate::util::{call_user, lock};

/// Whether pollwatch installs callbacks. Task hooks see more, and only Linux offers what is needed
/// to judge a worker by.
pub(crate) const INSTALLED: bool = cfg!(all(not(tokio_unstable), target_os = "linux"));

type Callback = Box<dyn Fn() + Send + Sync>;

/// The user's callbacks.
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

    fn method(self) -> &'static str {
        match self {
            CallbackKind::Start => "on_thread_start",
            CallbackKind::Stop => "on_thread_stop",
            CallbackKind::Park => "on_thread_park",
            CallbackKind::Unpark => "on_thread_unpark",
        }
    }

    /// Whether the builder has one. The name that the user gave stands before the fields, so the
    /// last of them counts.
    fn is_set(self, text: &str) -> bool {
        text.rfind(self.field()).is_some_and(|at| text[at + self.field().len()..].starts_with("Some("))
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

/// The callbacks without effect that we left behind in builders that may still be used: where the
/// builder is, which, and whether it is still there: in the builder, or in a runtime that was built
/// from it. Where that lives on elsewhere, a user's callback in another builder at its old place is
/// taken for one of these; tokio lets nobody look closer. `Watchdog::build_runtime` says so.
static LEFT: Mutex<Vec<(usize, CallbackKind, Weak<()>)>> = Mutex::new(Vec::new());

fn is_left(builder: &Builder, kind: CallbackKind) -> bool {
    let here = std::ptr::from_ref(builder) as usize;
    lock(&LEFT).iter().any(|(at, which, token)| (*at, *which) == (here, kind) && token.strong_count() > 0)
}

fn leave(builder: &mut Builder, kind: CallbackKind) {
    let token = Arc::new(());
    let entry = (std::ptr::from_ref(builder) as usize, kind, Arc::downgrade(&token));
    // The one that was there before goes here, and what the user's closure holds with it.
    kind.set(builder, move || {
        let _ = &token;
    });
    let mut left = lock(&LEFT);
    left.retain(|(_, _, token)| token.strong_count() > 0);
    left.push(entry);
}

/// What was put into a builder, to be taken out again.
pub(crate) struct Installed(Vec<CallbackKind>);

/// Puts our callbacks, where they are `wanted`, and the user's around them into the builder, with
/// the pool that they speak of.
///
/// # Errors
///
/// When the builder has one of its own that would be lost.
pub(crate) fn install(
    builder: &mut Builder,
    meter: &Arc<Meter>,
    user: ThreadCallbacks,
    wanted: bool,
) -> io::Result<(Installed, Option<Arc<WorkerThreads>>)> {
    let ours = INSTALLED && wanted;
    let kinds: Vec<CallbackKind> = CallbackKind::ALL.into_iter().filter(|kind| ours || user.has(*kind)).collect();
    let text = format!("{builder:?}");
    let lost = kinds.iter().filter(|kind| kind.is_set(&text) && !is_left(builder, **kind));
    let lost: Vec<&str> = lost.map(|kind| kind.method()).collect();
    if !lost.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the builder has {} of its own, and tokio keeps one of a kind: give yours to pollwatch::Hooks, which has methods \
                 of the same names, and those to Watchdog::build_runtime_with",
                lost.join(", ")
            ),
        ));
    }
    let pool = ours.then(|| WorkerThreads::new(meter));
    let ThreadCallbacks { start, stop, park, unpark } = user;
    for (kind, user) in [
        (CallbackKind::Start, start),
        (CallbackKind::Stop, stop),
        (CallbackKind::Park, park),
        (CallbackKind::Unpark, unpark),
    ] {
        if kinds.contains(&kind) {
            put(builder, kind, pool.clone(), Arc::downgrade(meter), user);
        }
    }
    Ok((Installed(kinds), pool))
}

/// The user's own run outside of the time in which the worker is ours to judge.
fn put(
    builder: &mut Builder,
    kind: CallbackKind,
    pool: Option<Arc<WorkerThreads>>,
    meter: Weak<Meter>,
    user: Option<Callback>,
) {
    kind.set(builder, move || {
        if let Some(pool) = &pool {
            match kind {
                CallbackKind::Start if is_multi_thread() => pool.enter(),
                CallbackKind::Park => pool.park(),
                _ => {}
            }
        }
        if let Some(user) = &user {
            run_user(&meter, user);
        }
        if let Some(pool) = &pool {
            match kind {
                CallbackKind::Unpark => pool.unpark(),
                CallbackKind::Stop if is_multi_thread() => pool.leave(),
                _ => {}
            }
        }
    });
}

/// The workers of a current-thread runtime are not in its pool.
fn is_multi_thread() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[inline(never)]
fn run_user(meter: &Weak<Meter>, user: &Callback) {
    if call_user(user)
        && let Some(meter) = meter.upgrade()
    {
        meter.hook_panics.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes them out again, so that what the user builds next from the same builder does not speak of
/// this pool.
pub(crate) fn uninstall(builder: &mut Builder, installed: &Installed) {
    for &kind in &installed.0 {
        leave(builder, kind);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn set(builder: &Builder) -> Vec<&'static str> {
        let text = format!("{builder:?}");
        CallbackKind::ALL.into_iter().filter(|kind| kind.is_set(&text)).map(CallbackKind::method).collect()
    }

    #[test]
    fn tokios_text_tells_which_are_set() {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("after_start: Some(");
        assert!(set(&builder).is_empty(), "{builder:?}");
        builder.on_thread_stop(|| {}).on_thread_unpark(|| {});
        assert_eq!(set(&builder), ["on_thread_stop", "on_thread_unpark"], "{builder:?}");
        builder.on_thread_start(|| {}).on_thread_park(|| {});
        assert_eq!(set(&builder).len(), 4, "{builder:?}");
    }

    #[test]
    fn what_was_left_behind_is_told_from_the_users_own() {
        let mut builder = Builder::new_multi_thread();
        builder.on_thread_start(|| {});
        assert!(!is_left(&builder, CallbackKind::Start));
        leave(&mut builder, CallbackKind::Park);
        assert!(is_left(&builder, CallbackKind::Park) && !is_left(&builder, CallbackKind::Start));
        builder.on_thread_park(|| {});
        assert!(!is_left(&builder, CallbackKind::Park), "the user has set another since");
        leave(&mut builder, CallbackKind::Park);
        leave(&mut builder, CallbackKind::Park);
        assert!(is_left(&builder, CallbackKind::Park));
        assert!(!is_left(&Builder::new_multi_thread(), CallbackKind::Park));
    }
}

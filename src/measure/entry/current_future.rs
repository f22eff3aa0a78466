//! The entry point of futures that the current watchdog watches: `FutureExt::watched`.

use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::measure::entry::future::WatchState;
use crate::measure::runtime::current;

/// The file of the future's poll, as it appears in stacks.
pub(crate) const FILE: &str = file!();

/// An extension of all futures: [`watched`](Self::watched).
///
/// ```
/// use pollwatch::FutureExt;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(async { 42 }.watched().await, 42);
/// # });
/// ```
pub trait FutureExt: Future + Sized {
    /// Watches the polls of the future, as [`Watchdog::watch`](crate::Watchdog::watch) does, by the
    /// [current](crate::current) watchdog: the one that watches the runtime which polls the future.
    ///
    /// The watchdog is found at the first poll. Where there is none, the future is polled as it is,
    /// and each poll checks by one load of a variable whether a watchdog has started meanwhile, or
    /// watches a further runtime. A future stays with the watchdog that it was given.
    ///
    /// A future that is moved to another runtime after its first poll is not searched for again:
    /// polled first where no watchdog watches (`now_or_never`, `poll!`), and then on a runtime that
    /// was watched all the time, it stays unwatched until one of these changes.
    ///
    /// Its site is the location of the caller. The future grows by 24 bytes. A poll takes what one
    /// of [`Watched`](crate::Watched) takes, and a comparison.
    ///
    /// ```
    /// use pollwatch::FutureExt;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_current_thread();
    /// # let runtime = watchdog.build_runtime("main", builder).unwrap();
    /// runtime.block_on(async {
    ///     async { /* a part of this task, with a name of its own */ }.watched().await;
    /// });
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    #[track_caller]
    fn watched(self) -> CurrentWatched<Self> {
        CurrentWatched { inner: self, state: CurrentState::Unwatched { location: Location::caller(), generation: 0 } }
    }
}

impl<F: Future> FutureExt for F {}

pin_project! {
    /// A future that the current watchdog watches; made by [`FutureExt::watched`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CurrentWatched<F> {
        #[pin]
        inner: F,
        state: CurrentState,
    }
}

/// The state that the wrapper adds to its future: 24 bytes.
enum CurrentState {
    /// No watchdog was found so far.
    Unwatched {
        location: &'static Location<'static>,
        /// The lower bits of the generation in which none was found; 0 before the first poll.
        generation: u32,
    },
    Watched(WatchState),
}

const _: () = assert!(size_of::<usize>() != 8 || size_of::<CurrentState>() == 24);

impl<F> CurrentWatched<F> {
    /// Returns the future, which is not watched any more. If it was polled, it counts as cancelled.
    ///
    /// ```
    /// use pollwatch::FutureExt;
    ///
    /// assert_eq!(std::future::ready(42).watched().into_inner().into_inner(), 42);
    /// ```
    pub fn into_inner(self) -> F {
        self.inner
    }
}

impl<F> std::fmt::Debug for CurrentWatched<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_watched = matches!(self.state, CurrentState::Watched(_));
        f.debug_struct("CurrentWatched").field("watched", &is_watched).finish_non_exhaustive()
    }
}

impl CurrentState {
    /// Searches a watchdog, unless none was found in this generation. A move to another runtime is
    /// no reason to search again: to notice it, each poll would change a shared reference count.
    #[inline]
    fn resolve(&mut self) {
        if let CurrentState::Unwatched { location, generation } = self {
            let now = current::generation() as u32;
            if *generation == now {
                return;
            }
            *generation = now;
            if let Some(meter) = current::meter() {
                *self = CurrentState::Watched(WatchState::new(&meter, location));
            }
        }
    }
}

impl<F: Future> Future for CurrentWatched<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.state.resolve();
        match this.state {
            CurrentState::Watched(state) => state.poll(this.inner, cx),
            CurrentState::Unwatched { .. } => this.inner.poll(cx),
        }
    }
}

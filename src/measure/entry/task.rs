//! A task of `Watchdog::spawn`: a watched future whose panic is reported.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::measure::entry::future::Watched;

/// The file of a task's poll, as it appears in stacks.
pub(crate) const FILE: &str = file!();

pin_project! {
    /// A future of `Watchdog::spawn`. It wraps [`Watched`], so that the frame of the poll is popped
    /// before the panic is caught here. It adds nothing to the size of `Watched`, and nothing to a
    /// poll that does not panic.
    pub(crate) struct SpawnedTask<F> {
        #[pin]
        watched: Watched<F>,
    }
}

const _: () = assert!(size_of::<SpawnedTask<[u64; 4]>>() == size_of::<Watched<[u64; 4]>>());

impl<F> SpawnedTask<F> {
    pub(crate) fn new(watched: Watched<F>) -> SpawnedTask<F> {
        SpawnedTask { watched }
    }
}

impl<F: Future> Future for SpawnedTask<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut watched = self.project().watched;
        // tokio catches the panic again: it catches the panics of all tasks, and the payload is the
        // same.
        match catch_unwind(AssertUnwindSafe(|| watched.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(payload) => {
                watched.publish_panic(&*payload);
                resume_unwind(payload)
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::runtime::meter::Meter;
    use crate::model::time::Nanos;

    #[test]
    fn a_panic_is_published_for_the_watchdog_and_resumed_unchanged() {
        let meter = Meter::of(Nanos::from_millis(10), 10);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (panics, id) = runtime.block_on(async {
            let task = tokio::spawn(SpawnedTask::new(Watched::task(&meter, async {
                tokio::task::yield_now().await;
                assert_eq!(thread_depth(), 1);
                std::panic::panic_any(7_u32);
            })));
            let id = task.id();
            let payload = task.await.unwrap_err().into_panic();
            assert_eq!(payload.downcast_ref::<u32>(), Some(&7));
            (meter.panics.take(), id)
        });
        let [panic] = &panics[..] else { panic!("{panics:?}") };
        assert_eq!(panic.task, crate::measure::primitives::task_id::TaskBits::of(id));
        assert_eq!(meter.sites.get(panic.site).location().unwrap().file(), file!());
        assert_eq!(meter.threads()[0].slot.depth(), 0);
        let totals = *meter.sum().sites.values().next().expect("one site");
        assert_eq!(totals.event(crate::measure::counters::sites::SiteEvent::Panicked), 1);
    }

    /// Returns the number of frames of this thread.
    fn thread_depth() -> usize {
        let mut depth = 0;
        crate::measure::thread::for_each_handle(|thread| depth += thread.state.slot.depth());
        depth
    }
}

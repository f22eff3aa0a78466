//! Current-thread runtimes, as they are recognised on a thread's stack.

use std::mem::MaybeUninit;
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeMetrics};

use crate::measure::runtime::worker_threads::ThreadEntry;

/// A current-thread runtime, and the thread that is expected to drive it.
#[derive(Clone, Debug)]
pub(crate) struct DrivenRuntime {
    /// The thread that built or attached the runtime.
    pub(crate) thread: Arc<ThreadEntry>,
    #[cfg(tokio_unstable)]
    pub(crate) thread_id: std::thread::ThreadId,
    /// The address of tokio's scheduler, which the driving thread has on its stack.
    pub(crate) scheduler: u64,
    pub(crate) metrics: RuntimeMetrics,
}

impl DrivenRuntime {
    /// Returns a runtime that the calling thread builds or attaches.
    pub(super) fn new(handle: &Handle) -> Option<DrivenRuntime> {
        let scheduler = scheduler_address(handle)?;
        Some(DrivenRuntime {
            thread: ThreadEntry::current_until_end(),
            #[cfg(tokio_unstable)]
            thread_id: std::thread::current().id(),
            scheduler,
            metrics: handle.metrics(),
        })
    }
}

/// Returns the address of the scheduler that a handle refers to; `None` if the handle has another
/// layout than expected. The result is only ever compared with other words.
pub(super) fn scheduler_address(handle: &Handle) -> Option<u64> {
    // tokio's handle is an enum of two `Arc`s: a tag, and the address.
    const WORDS: usize = 2;
    if size_of::<Handle>() != WORDS * size_of::<u64>() || align_of::<Handle>() != align_of::<u64>() {
        return None;
    }
    // SAFETY: the handle has this size and alignment, and is borrowed. Its second word is read as
    // possibly uninitialised. It is that of the `Arc`, which both variants have; a variant without
    // one is excluded by the size of the enum, whose tag takes the first word.
    let address = unsafe { std::ptr::from_ref(handle).cast::<MaybeUninit<u64>>().add(1).read().assume_init() };
    (address != 0).then_some(address)
}

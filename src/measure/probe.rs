//! The probe: one task of ours in each runtime, which measures how long a woken task waits for its poll, and whose drop tells
//! that the runtime is shutting down. It is in no count of ours.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::runtime::Runtime;
use crate::util::lock;

/// Every task spawned in this file is ours.
pub(crate) const FILE: &str = file!();

/// The watchdog's end of the probe.
#[derive(Debug)]
pub(crate) struct Probe {
    waker: Mutex<Option<Waker>>,
    /// Clock reading of the wake that has not been answered, or 0.
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Probe {
    pub(super) fn new() -> Probe {
        Probe { waker: Mutex::default(), sent: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }

    /// Wakes the probe, if it waits. The watchdog only.
    pub(crate) fn send(&self, now: u64) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            self.sent.store(now.max(1), Ordering::Release);
            waker.wake();
        }
    }

    /// Forgets a wake that has not been answered.
    pub(crate) fn withdraw(&self) {
        self.sent.store(0, Ordering::Release);
    }

    /// Ends the task.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Task {
    runtime: Arc<Runtime>,
    generation: u64,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let probe = &self.runtime.probe;
        let Some(meter) = self.runtime.meter.upgrade() else { return Poll::Ready(()) };
        let sent = probe.sent.swap(0, Ordering::AcqRel);
        if sent != 0 {
            // One writer: this task, which is polled by one thread at a time.
            self.runtime.delay.record_and_sum(meter.clock.delta(sent, meter.clock.now()));
        }
        *lock(&probe.waker) = Some(cx.waker().clone());
        if probe.stop.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let waker = lock(&self.runtime.probe.waker).take();
        drop(waker);
        self.runtime.probe.sent.store(0, Ordering::Release);
        self.runtime.gone(self.generation);
    }
}

pub(super) fn spawn(handle: &Handle, runtime: &Arc<Runtime>, generation: u64) {
    drop(handle.spawn(Task { runtime: runtime.clone(), generation }));
}

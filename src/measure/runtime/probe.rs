//! The probe: one task of ours in each runtime, which measures how long a woken task waits for its poll, and whose drop tells
//! that the runtime is shutting down. It is in no count of ours.
//!
//! A wake from outside goes through the queue that all workers share, which each looks into every few polls: under load it
//! overtakes what waits in the workers' own queues, and requests wait there. Where requests may be turned away for the lag, the
//! probe therefore goes once more, through the queue of the worker that polled it: one poll of some 100 ns.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::measure::runtime::Runtime;
use crate::util::lock;

/// Every task spawned in this file is ours.
pub(crate) const FILE: &str = file!();

/// The watchdog's end of the probe.
#[derive(Debug)]
pub(crate) struct Probe {
    waker: Mutex<Option<Waker>>,
    /// Clock reading of the wake that has not been answered, or 0. Gates read it, too.
    pub(crate) sent: Arc<AtomicU64>,
    /// Nanoseconds from the last wake that was answered to its answer, or [`WITHDRAWN`].
    answer: AtomicU64,
    stop: AtomicBool,
}

/// What is known of the last wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not answered since this reading of the clock.
    Waiting(u64),
    /// Answered after these nanoseconds.
    After(u64),
    /// Nobody waits for its answer any more, which tells nothing.
    Withdrawn,
}

const WITHDRAWN: u64 = u64::MAX;

impl Probe {
    pub(super) fn new() -> Probe {
        Probe {
            waker: Mutex::default(),
            sent: Arc::default(),
            answer: AtomicU64::new(WITHDRAWN),
            stop: AtomicBool::new(false),
        }
    }

    /// What has become of the last wake.
    pub(crate) fn answer(&self) -> Answer {
        match self.sent.load(Ordering::Acquire) {
            0 => match self.answer.load(Ordering::Relaxed) {
                WITHDRAWN => Answer::Withdrawn,
                nanos => Answer::After(nanos),
            },
            sent => Answer::Waiting(sent),
        }
    }

    /// Wakes the probe, if it waits; whether it did. The watchdog only.
    pub(crate) fn send(&self, now: u64) -> bool {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            self.sent.store(now.max(1), Ordering::Release);
            waker.wake();
            return true;
        }
        false
    }

    /// Forgets a wake that has not been answered; whether there was one.
    pub(crate) fn withdraw(&self) -> bool {
        if self.sent.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.answer.store(WITHDRAWN, Ordering::Relaxed);
        self.sent.store(0, Ordering::Release);
        true
    }

    /// As if the probe had answered, or not yet.
    #[cfg(test)]
    pub(crate) fn pretend(&self, answer: Answer) {
        let (sent, nanos) = match answer {
            Answer::Waiting(sent) => (sent.max(1), WITHDRAWN),
            Answer::After(nanos) => (0, nanos),
            Answer::Withdrawn => (0, WITHDRAWN),
        };
        self.answer.store(nanos, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Release);
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
    /// The wake whose way through the shared queue is measured, and that goes through a worker's own now; or 0.
    halfway: u64,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let probe = &this.runtime.probe;
        let Some(meter) = this.runtime.meter.upgrade() else { return Poll::Ready(()) };
        let sent = probe.sent.load(Ordering::Acquire);
        let lag = meter.clock.delta(sent, meter.clock.now());
        if sent != 0 && sent != this.halfway {
            // One writer: this task, which is polled by one thread at a time.
            this.runtime.delay.record_and_sum(lag);
            if meter.gates.are_there() {
                this.halfway = sent;
                // Within its own poll: to the back of the queue.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        this.halfway = 0;
        if sent != 0 {
            probe.answer.store(lag, Ordering::Relaxed);
            // No other wake is sent before this one is answered.
            probe.sent.store(0, Ordering::Release);
        }
        *lock(&probe.waker) = Some(cx.waker().clone());
        if probe.stop.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let waker = lock(&self.runtime.probe.waker).take();
        drop(waker);
        self.runtime.probe.withdraw();
        self.runtime.gone(self.generation);
    }
}

pub(super) fn spawn(handle: &Handle, runtime: &Arc<Runtime>, generation: u64) {
    drop(handle.spawn(Task { runtime: runtime.clone(), generation, halfway: 0 }));
}

//! The probe: one task of pollwatch's own in each runtime. It measures how long a woken task waits
//! for its poll, and its drop reports that the runtime shuts down. It is in no count.
//!
//! A wake from outside goes through the queue that all workers share, and that each checks every
//! few polls. Under load it overtakes what waits in the workers' own queues, where requests wait.
//! Where anyone reads the runtime's lag, the probe therefore goes once more through the queue of the
//! worker that polled it: one poll of some 100 ns.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::measure::primitives::clock::Ticks;
use crate::measure::runtime::Runtime;
use crate::model::time::Nanos;
use crate::util::lock;

/// Every task that is spawned in this file is pollwatch's own.
pub(crate) const FILE: &str = file!();

/// The watchdog's end of the probe.
#[derive(Debug)]
pub(crate) struct Probe {
    waker: Mutex<Option<Waker>>,
    /// The clock reading of the wake that has not been answered, or 0.
    sent: AtomicU64,
    /// The nanoseconds from the last answered wake to its answer, or [`WITHDRAWN`].
    answer: AtomicU64,
    stop: AtomicBool,
}

/// The state of the last wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The wake at this clock reading has not been answered.
    Waiting(Ticks),
    /// The wake was answered after this time.
    After(Nanos),
    /// The wake was withdrawn, and says nothing about the delay.
    Withdrawn,
}

const WITHDRAWN: u64 = u64::MAX;

impl Probe {
    pub(super) fn new() -> Probe {
        Probe {
            waker: Mutex::default(),
            sent: AtomicU64::new(0),
            answer: AtomicU64::new(WITHDRAWN),
            stop: AtomicBool::new(false),
        }
    }

    /// Returns the state of the last wake.
    pub(crate) fn answer(&self) -> Answer {
        match self.sent.load(Ordering::Acquire) {
            0 => match self.answer.load(Ordering::Relaxed) {
                WITHDRAWN => Answer::Withdrawn,
                nanos => Answer::After(Nanos(nanos)),
            },
            sent => Answer::Waiting(Ticks(sent)),
        }
    }

    /// Returns the clock reading of the wake that has not been answered.
    pub(crate) fn unanswered(&self) -> Option<Ticks> {
        Some(Ticks(self.sent.load(Ordering::Relaxed))).filter(|sent| *sent != Ticks(0))
    }

    /// Wakes the probe if it waits, and returns whether it did; the watchdog only.
    pub(crate) fn send(&self, now: Ticks) -> bool {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            self.sent.store(now.0.max(1), Ordering::Release);
            waker.wake();
            return true;
        }
        false
    }

    /// Withdraws a wake that has not been answered, and returns whether there was one.
    pub(crate) fn withdraw(&self) -> bool {
        if self.sent.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.answer.store(WITHDRAWN, Ordering::Relaxed);
        self.sent.store(0, Ordering::Release);
        true
    }

    /// Sets the state of the last wake.
    #[cfg(test)]
    pub(crate) fn pretend(&self, answer: Answer) {
        let (sent, answer) = match answer {
            Answer::Waiting(sent) => (sent.0.max(1), WITHDRAWN),
            Answer::After(delay) => (0, delay.0),
            Answer::Withdrawn => (0, WITHDRAWN),
        };
        self.answer.store(answer, Ordering::Relaxed);
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
    /// The wake that has passed the shared queue and is now in a worker's own; or 0.
    halfway: Ticks,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let probe = &this.runtime.probe;
        let Some(meter) = this.runtime.meter.upgrade() else { return Poll::Ready(()) };
        let sent = Ticks(probe.sent.load(Ordering::Acquire));
        let delay = meter.clock.delta(sent, meter.clock.now());
        if sent != Ticks(0) && sent != this.halfway {
            // This task is the only writer; one thread at a time polls it.
            this.runtime.delay.record_and_sum(delay);
            if this.runtime.lag.is_held() {
                this.halfway = sent;
                // A wake within its own poll puts the task at the back of the worker's queue.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        this.halfway = Ticks(0);
        if sent != Ticks(0) {
            probe.answer.store(delay.0, Ordering::Relaxed);
            // No other wake is sent until this one is answered.
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
        self.runtime.on_probe_dropped(self.generation);
    }
}

pub(super) fn spawn(handle: &Handle, runtime: &Arc<Runtime>, generation: u64) {
    drop(handle.spawn(Task { runtime: runtime.clone(), generation, halfway: Ticks(0) }));
}

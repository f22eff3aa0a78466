//! The probe, a task of pollwatch's own in each runtime. It measures the schedule delay: how long a
//! woken task waits for its poll. Its drop shows that the runtime shuts down. No counter of tasks
//! or polls includes it.
//!
//! A wake from another thread goes through the injection queue, which all workers share and check
//! every few polls. Under load, such a task overtakes those in the local queues of the workers, and
//! requests are in the local queues. So the probe continues through the local queue of the worker
//! that polled it, and the wake is answered by its second poll. That costs one more poll of some
//! 100 ns. The histogram of the delay has the first part only.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use pollwatch_stack::Tid;
use tokio::runtime::Handle;

use crate::measure::primitives::clock::Ticks;
use crate::measure::runtime::Runtime;
use crate::model::time::Nanos;
use crate::util::lock;

/// The source file of the probe. A task that was spawned here is pollwatch's own.
pub(crate) const FILE: &str = file!();

/// The state that the watchdog and the probe's task share. The watchdog sends wakes, and the task
/// answers them.
#[derive(Debug)]
pub(crate) struct Probe {
    /// The task's waker, while the task waits for a wake.
    waker: Mutex<Option<Waker>>,
    /// The clock reading of the wake that has not been answered, in [`Ticks`]; 0 for none.
    sent: AtomicU64,
    /// The delay of the last answered wake in [`Nanos`], or [`WITHDRAWN`].
    answer: AtomicU64,
    /// `true` if the task is to end at its next poll.
    stop: AtomicBool,
    /// The kernel's id of the thread that polled the task last; 0 if none has.
    polled_by: AtomicI32,
}

/// The state of the last wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The wake at this clock reading has not been answered.
    Waiting(Ticks),
    /// The wake was answered after this delay.
    After(Nanos),
    /// The wake was withdrawn, or there was none. The delay is not known.
    Withdrawn,
}

/// The bits of an answer that says nothing.
const WITHDRAWN: u64 = u64::MAX;

impl Probe {
    pub(super) fn new() -> Probe {
        Probe {
            waker: Mutex::default(),
            sent: AtomicU64::new(0),
            answer: AtomicU64::new(WITHDRAWN),
            stop: AtomicBool::new(false),
            polled_by: AtomicI32::new(0),
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

    /// Returns the clock reading of the wake that has not been answered, if there is one. Any
    /// thread may call this.
    pub(crate) fn unanswered(&self) -> Option<Ticks> {
        Some(Ticks(self.sent.load(Ordering::Relaxed))).filter(|sent| *sent != Ticks(0))
    }

    /// Returns the thread that polled the task last, which drove a worker then.
    pub(crate) fn polled_by(&self) -> Option<Tid> {
        Some(self.polled_by.load(Ordering::Relaxed)).filter(|tid| *tid != 0).map(Tid::from_raw)
    }

    /// Wakes the task if it waits for a wake, and returns whether it did; the watchdog only.
    pub(crate) fn send(&self, now: Ticks) -> bool {
        let mut locked = lock(&self.waker);
        let Some(waker) = locked.take() else { return false };
        // Stored while the lock is held: the drop of the task takes the lock before it withdraws
        // the wake, so that no wake of a dropped task stays unanswered.
        self.sent.store(now.0.max(1), Ordering::Release);
        drop(locked);
        waker.wake();
        true
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

    /// Sets the state of the last wake, for tests.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(crate) fn pretend(&self, answer: Answer) {
        let (sent, answer) = match answer {
            Answer::Waiting(sent) => (sent.0.max(1), WITHDRAWN),
            Answer::After(delay) => (0, delay.0),
            Answer::Withdrawn => (0, WITHDRAWN),
        };
        self.answer.store(answer, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Release);
    }

    /// Ends the task. Without a wake it ends with its runtime: nothing else polls it again.
    pub(crate) fn stop(&self, may_wake: bool) {
        self.stop.store(true, Ordering::Release);
        if !may_wake {
            return;
        }
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The probe's task.
struct ProbeTask {
    runtime: Arc<Runtime>,
    /// The generation of the tokio runtime that polls the task.
    generation: u64,
    /// The wake that has passed the injection queue and is in a local queue now; 0 for none.
    in_local_queue: Ticks,
}

impl Future for ProbeTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let probe = &this.runtime.probe;
        let Some(meter) = this.runtime.meter.upgrade() else { return Poll::Ready(()) };
        probe.polled_by.store(Tid::current().map_or(0, Tid::as_raw), Ordering::Relaxed);
        let sent = Ticks(probe.sent.load(Ordering::Acquire));
        if sent != Ticks(0) && sent != this.in_local_queue {
            // Only this task writes to the histogram, and one thread at a time polls it.
            this.runtime.delay.record_and_sum(meter.clock.elapsed_since(sent));
            this.in_local_queue = sent;
            // A task that wakes itself is put at the back of the worker's local queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.in_local_queue = Ticks(0);
        if sent != Ticks(0) {
            probe.answer.store(meter.clock.elapsed_since(sent).0, Ordering::Relaxed);
            // The watchdog sends no other wake before it finds a waker again.
            probe.sent.store(0, Ordering::Release);
        }
        *lock(&probe.waker) = Some(cx.waker().clone());
        if probe.stop.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for ProbeTask {
    fn drop(&mut self) {
        let waker = lock(&self.runtime.probe.waker).take();
        drop(waker);
        self.runtime.probe.withdraw();
        self.runtime.on_probe_dropped(self.generation);
    }
}

/// Spawns the probe's task on the tokio runtime of this generation.
pub(super) fn spawn(handle: &Handle, runtime: &Arc<Runtime>, generation: u64) {
    drop(handle.spawn(ProbeTask { runtime: runtime.clone(), generation, in_local_queue: Ticks(0) }));
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;

    use super::*;
    use crate::measure::runtime::meter::Meter;

    /// A waker that hands the wake over to the test, and returns when the test has observed it.
    struct HandOver {
        woken: Mutex<Sender<()>>,
        resume: Mutex<Receiver<()>>,
    }

    impl Wake for HandOver {
        fn wake(self: Arc<Self>) {
            lock(&self.woken).send(()).unwrap();
            lock(&self.resume).recv().unwrap();
        }
    }

    /// The runtime shuts down while the watchdog wakes the probe.
    #[test]
    fn the_wake_of_a_dropped_task_is_withdrawn() {
        let meter = Meter::of(Nanos::from_millis(10), 10);
        let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
        let task = ProbeTask { runtime: runtime.clone(), generation: 0, in_local_queue: Ticks(0) };
        let (woken, is_woken) = channel();
        let (resume, is_resumed) = channel();
        let waker = HandOver { woken: Mutex::new(woken), resume: Mutex::new(is_resumed) };
        *lock(&runtime.probe.waker) = Some(Arc::new(waker).into());
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| runtime.probe.send(Ticks(7)));
            is_woken.recv().unwrap();
            assert_eq!(runtime.probe.unanswered(), Some(Ticks(7)));
            // Takes the lock, which is not held during the wake.
            drop(task);
            resume.send(()).unwrap();
            assert!(sender.join().unwrap());
        });
        assert_eq!((runtime.probe.unanswered(), runtime.probe.answer()), (None, Answer::Withdrawn));
        assert!(!runtime.probe.send(Ticks(8)), "no task is left");
        assert_eq!(runtime.probe.unanswered(), None);
    }
}

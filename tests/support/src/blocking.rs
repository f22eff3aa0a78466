//! Futures and closures that block, yield or wait at a gate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::{TIMEOUT, lock};

/// Blocks the thread for at least `time` by its own clock, and returns how long that was.
pub fn block(time: Duration) -> Duration {
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(time.saturating_sub(start.elapsed()));
    }
    start.elapsed()
}

/// Waits once: the future is pending once, and wakes itself.
pub async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits `n` times: the future is ready at its poll number `n + 1`.
pub async fn yields(n: usize) {
    for _ in 0..n {
        yield_once().await;
    }
}

/// Counts the polls of `future`.
pub async fn counted<F: Future>(polls: Arc<AtomicU64>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(cx)
    })
    .await
}

/// A gate at which threads block until it is opened. A drop opens it too, so that a failing test
/// does not hang.
#[derive(Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// The end of the gate that a blocking task takes with it.
    pub fn key(&self) -> Key {
        Key(self.0.clone())
    }

    /// Lets all threads pass, now and later.
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// The end of a [`Gate`] at which a thread blocks.
#[derive(Clone)]
pub struct Key(Arc<(Mutex<bool>, Condvar)>);

impl Key {
    /// Blocks the thread on a `Condvar` until the gate opens. Returns false after [`TIMEOUT`].
    pub fn pass(&self) -> bool {
        let open = lock(&self.0.0);
        let (open, _) =
            self.0.1.wait_timeout_while(open, TIMEOUT, |open| !*open).unwrap_or_else(PoisonError::into_inner);
        *open
    }
}

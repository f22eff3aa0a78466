//! A runtime whose driver is kept by a waker that blocks.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::{TIMEOUT, lock};

/// A waker that blocks the thread that calls it. A worker in the driver calls the wakers of timers.
struct BlockingWaker {
    entered: Mutex<Sender<Instant>>,
    released: Mutex<Receiver<()>>,
}

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        let _ = lock(&self.entered).send(Instant::now());
        let _ = lock(&self.released).recv_timeout(TIMEOUT);
    }
}

/// A driver that a worker does not leave, as long as this exists.
pub struct KeptDriver {
    entered: Receiver<Instant>,
    _release: Sender<()>,
}

impl KeptDriver {
    /// Waits until the driver is kept, and returns since when it is.
    pub fn wait_entered(&self) -> Instant {
        self.entered.recv_timeout(TIMEOUT).expect("a worker calls the waker")
    }
}

/// Keeps the driver of a runtime from `after` on, by a timer whose waker blocks. The runtime hangs
/// then: all its workers are parked, and none returns from the driver.
pub fn keep_driver(runtime: &Handle, after: Duration) -> KeptDriver {
    let ((enters, entered), (_release, released)) = (channel(), channel());
    let waker = Waker::from(Arc::new(BlockingWaker { entered: enters.into(), released: released.into() }));
    let _entered = runtime.enter();
    let mut timer = Box::pin(tokio::time::sleep(after));
    assert!(timer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    std::mem::forget(timer);
    KeptDriver { entered, _release }
}

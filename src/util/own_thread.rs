//! Threads of pollwatch.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle, Thread};
use std::time::Instant;

/// A thread of pollwatch, which signals its end.
pub(crate) struct OwnThread {
    handle: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl OwnThread {
    pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<OwnThread> {
        #[cfg(all(test, not(pollwatch_loom)))]
        if UNSTARTABLE.get() == Some(name) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (done, ended) = mpsc::channel::<()>();
        let body = move || {
            // Dropped at the end of the thread, also if it panics.
            let _done = done;
            run();
        };
        let handle = thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(OwnThread { handle, ended })
    }

    pub(crate) fn thread(&self) -> &Thread {
        self.handle.thread()
    }

    /// Waits for the end of the thread, without a time limit. The thread must not run user code.
    #[cfg(feature = "testing")]
    pub(crate) fn wait(self) {
        let _ = self.handle.join();
    }

    /// Waits for the end of the thread until the deadline: a user's callback or subscriber may
    /// hang.
    pub(crate) fn join(self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        if let Err(mpsc::RecvTimeoutError::Disconnected) = self.ended.recv_timeout(timeout) {
            let _ = self.handle.join();
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
thread_local! {
    /// The name of a thread that this one cannot start.
    pub(crate) static UNSTARTABLE: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

//! A thread that reads from the server, so that keys work while the server does not answer.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Client, FetchError};

type Update = Result<Value, FetchError>;

/// Reads `/live` repeatedly. Only the latest answer is kept, so a slow reader misses some.
pub(crate) struct Poller {
    latest: Arc<Mutex<Option<Update>>>,
}

impl Poller {
    /// Starts the thread. It ends with the process.
    pub(crate) fn start(client: Client, interval: Duration) -> Poller {
        let latest = Arc::new(Mutex::new(None));
        let shared = latest.clone();
        thread::spawn(move || {
            loop {
                let update = client.live();
                *lock(&shared) = Some(update);
                thread::sleep(interval);
            }
        });
        Poller { latest }
    }

    /// Returns whether there is an answer that has not been taken.
    pub(crate) fn has_update(&self) -> bool {
        lock(&self.latest).is_some()
    }

    /// Returns the latest answer, if it has not been taken before.
    pub(crate) fn take_update(&self) -> Option<Update> {
        lock(&self.latest).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

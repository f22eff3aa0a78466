//! An answer that is kept for a moment: however many pages are open, it is made a bounded number of times a second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::util::lock;

/// See the module's text.
pub(crate) struct Kept {
    time: Duration,
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Kept {
    pub(crate) fn for_time(time: Duration) -> Kept {
        Kept { time, latest: Mutex::new(None) }
    }

    /// The latest answer, or a new one if that is too old; who asks meanwhile waits for it.
    pub(crate) fn get<E>(&self, make: impl FnOnce() -> Result<String, E>) -> Result<Bytes, E> {
        let mut latest = lock(&self.latest);
        if let Some((made, body)) = &*latest
            && made.elapsed() < self.time
        {
            return Ok(body.clone());
        }
        let body = Bytes::from(make()?);
        *latest = Some((Instant::now(), body.clone()));
        Ok(body)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_for_all_who_ask_in_time() {
        let kept = Kept::for_time(Duration::from_secs(3600));
        let bodies: Vec<_> = (0..10).map(|i| kept.get(|| Ok::<_, ()>(i.to_string())).unwrap()).collect();
        assert!(bodies.iter().all(|body| body == "0"));
    }

    #[test]
    fn is_made_anew_when_it_is_old_or_failed() {
        let kept = Kept::for_time(Duration::ZERO);
        assert_eq!(kept.get(|| Ok::<_, ()>("1".into())).unwrap(), "1");
        assert_eq!(kept.get(|| Err("no")), Err("no"));
        assert_eq!(kept.get(|| Ok::<_, ()>("3".into())).unwrap(), "3");
    }
}

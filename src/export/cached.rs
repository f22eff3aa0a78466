//! A response that is reused for a short time, so that the cost is bounded however many pages are
//! open.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::util::lock;

/// The latest response, valid for a fixed time.
pub(super) struct CachedResponse {
    max_age: Duration,
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl CachedResponse {
    pub(super) fn new(max_age: Duration) -> CachedResponse {
        CachedResponse { max_age, latest: Mutex::new(None) }
    }

    /// Returns the latest response, or a new one if it has expired. Concurrent callers wait for the
    /// one that computes it.
    pub(super) fn get<E>(&self, compute: impl FnOnce() -> Result<String, E>) -> Result<Bytes, E> {
        let mut latest = lock(&self.latest);
        if let Some((at, body)) = &*latest
            && at.elapsed() < self.max_age
        {
            return Ok(body.clone());
        }
        let body = Bytes::from(compute()?);
        *latest = Some((Instant::now(), body.clone()));
        Ok(body)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn is_computed_once_within_its_age() {
        let cached = CachedResponse::new(Duration::from_secs(3600));
        let bodies: Vec<_> = (0..10).map(|i| cached.get(|| Ok::<_, ()>(i.to_string())).unwrap()).collect();
        assert!(bodies.iter().all(|body| body == "0"));
    }

    #[test]
    fn is_computed_again_when_it_expired_or_failed() {
        let cached = CachedResponse::new(Duration::ZERO);
        assert_eq!(cached.get(|| Ok::<_, ()>("1".into())).unwrap(), "1");
        assert_eq!(cached.get(|| Err("no")), Err("no"));
        assert_eq!(cached.get(|| Ok::<_, ()>("3".into())).unwrap(), "3");
    }
}

use super::*;
use loom::thread;
use std::sync::atomic::{AtomicU32 as Plain, Ordering::SeqCst};

/// Requests of blocking routes that come and go at once: there are never more permits than the
/// limit allows, and all permits are free when the requests are gone.
#[test]
fn never_more_permits_than_the_limit() {
    const WORKERS: usize = 2;
    let outcomes = Arc::new([const { Plain::new(0) }; 2]);
    let counts = outcomes.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let limit = FirstPollLimit::new(WORKERS);
        let inside = Arc::new(Plain::new(0));
        let request = |limit: Arc<FirstPollLimit>, inside: Arc<Plain>| {
            let permit = limit.try_acquire();
            if permit.is_some() {
                let now = inside.fetch_add(1, SeqCst) + 1;
                assert!(now < WORKERS as u32, "{now} are inside");
                assert!(limit.try_acquire().is_none(), "the permit is taken");
                inside.fetch_sub(1, SeqCst);
            }
            u32::from(permit.is_some())
        };
        let other = thread::spawn({
            let (limit, inside) = (limit.clone(), inside.clone());
            move || request(limit, inside)
        });
        let admitted = request(limit.clone(), inside) + other.join().unwrap();
        counts[admitted.saturating_sub(1) as usize].fetch_add(1, SeqCst);
        assert!(admitted > 0 && limit.take_refused(), "the first gets a permit, and refusals are recorded");
        assert!(limit.try_acquire().is_some(), "all have left");
    });
    assert!(outcomes.iter().all(|count| count.load(SeqCst) > 0), "one admitted, and both: {outcomes:?}");
}

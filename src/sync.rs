//! What threads share without a lock: a seqlock, a ring buffer, and the atomics that they are made
//! of.
//!
//! The atomics are `std`'s, or loom's when its models are checked (`--cfg pollwatch_loom`).

pub(crate) mod ring;
pub(crate) mod seqlock;

#[cfg(not(all(test, pollwatch_loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};

#[cfg(all(test, pollwatch_loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};

/// An atomic word, `std`'s or loom's.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            #[inline]
            fn load(&self, order: Ordering) -> u64 {
                <$atomic>::load(self, order)
            }

            #[inline]
            fn store(&self, value: u64, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
        }
    };
}

word!(std::sync::atomic::AtomicU64);
#[cfg(all(test, pollwatch_loom))]
word!(loom::sync::atomic::AtomicU64);

/// Adds to a counter that only the calling thread writes: a load and a store, which cost less than
/// a read-modify-write. The sum wraps.
#[inline(always)]
pub(crate) fn add_single_writer(counter: &impl Word, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Runs a model of one writer and one reader, and checks that the two met.
///
/// The writer is on the model's first thread, which loom runs first. loom explores other orders
/// only from the last access to an atomic, so that a writer's own load before its store would hide
/// a reader that came earlier. `read` returns whether it saw the writer half-way. If no order of
/// execution has it do so, the model proves nothing.
#[cfg(all(test, pollwatch_loom))]
pub(crate) fn model_one_writer<T: Send + Sync + 'static>(
    new: fn() -> T,
    write: fn(&T),
    read: fn(&T) -> bool,
    at_end: fn(&T),
) {
    use std::sync::atomic::AtomicBool;

    let met = std::sync::Arc::new(AtomicBool::new(false));
    let mut model = loom::model::Builder::new();
    // Reading a whole histogram takes more steps than loom allows by default.
    model.max_branches = 20_000;
    // All orders would take hours. Most errors need only a few involuntary switches.
    model.preemption_bound = Some(2);
    model.check({
        let met = met.clone();
        move || {
            let shared = loom::sync::Arc::new(new());
            let reader = loom::thread::spawn({
                let (shared, met) = (shared.clone(), met.clone());
                move || {
                    if read(&shared) {
                        met.store(true, Ordering::Relaxed);
                    }
                }
            });
            write(&shared);
            reader.join().unwrap();
            at_end(&shared);
        }
    });
    assert!(met.load(Ordering::Relaxed), "no execution had the reader meet the writer");
}

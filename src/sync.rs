//! The atomics of the protocols between threads: `std`'s, or loom's when its models are checked (`--cfg pollwatch_loom`).

#[cfg(not(all(test, pollwatch_loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(test, pollwatch_loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// Runs a model of one writer and one reader, and checks that the two met.
///
/// The writer is on the model's first thread, which loom lets run first: it looks for other orders only from the last access
/// to an atomic, so that a writer's own load before its store would hide a reader that came earlier. `read` tells whether it
/// saw the writer half-way; if no order of execution has it do so, the model proves nothing.
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
    // A reading of a whole histogram takes more steps than loom allows by itself.
    model.max_branches = 20_000;
    // All orders would take hours; what goes wrong at all goes wrong with few switches in the midst of things.
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

use std::sync::atomic::Ordering;

/// An atomic integer: `std`'s, or loom's in the models of the protocol.
///
/// The one instance of the protocol is a `static`, in which loom's atomics cannot be. So the models
/// are of another instance, and the protocol is generic over its word.
pub(crate) trait Word {
    /// Loads the value.
    fn load(&self, order: Ordering) -> u64;
    /// Stores a value.
    fn store(&self, value: u64, order: Ordering);
    /// Replaces `current` by `new` (a compare-and-swap). Returns whether it did.
    fn replace(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> bool;
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

            #[inline]
            fn replace(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> bool {
                self.compare_exchange(current, new, success, failure).is_ok()
            }
        }
    };
}

word!(std::sync::atomic::AtomicU64);
#[cfg(all(test, pollwatch_loom))]
word!(loom::sync::atomic::AtomicU64);

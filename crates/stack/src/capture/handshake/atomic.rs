use std::sync::atomic::Ordering;

/// The operations of an atomic `u64` that the handshake uses, for `std`'s type and for loom's.
///
/// The production instance is a `static`, which loom's atomics cannot be in. So [`Handshake`]
/// is generic over its atomic, and the models check an instance of loom's type. pollwatch has a
/// trait like this one for its own models; it is not shared, since that would make it public API.
///
/// [`Handshake`]: super::Handshake
pub(crate) trait AtomicState {
    /// Loads the value.
    fn load(&self, order: Ordering) -> u64;
    /// Stores a value.
    fn store(&self, value: u64, order: Ordering);
    /// Stores `new` if the value is `current`. Returns the previous value, as `Err` if it differed.
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64>;
}

macro_rules! atomic_state {
    ($atomic:ty) => {
        impl AtomicState for $atomic {
            #[inline]
            fn load(&self, order: Ordering) -> u64 {
                <$atomic>::load(self, order)
            }

            #[inline]
            fn store(&self, value: u64, order: Ordering) {
                <$atomic>::store(self, value, order);
            }

            #[inline]
            fn compare_exchange(
                &self,
                current: u64,
                new: u64,
                success: Ordering,
                failure: Ordering,
            ) -> Result<u64, u64> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
        }
    };
}

atomic_state!(std::sync::atomic::AtomicU64);
#[cfg(all(test, pollwatch_loom))]
atomic_state!(loom::sync::atomic::AtomicU64);

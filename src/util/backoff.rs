//! Doubling back-off: repeat at 2, 4, 8 ... times the first value.

/// Returns the first of `2 * first`, `4 * first`, `8 * first` ... that is greater than `value`.
/// Saturates.
pub(crate) fn next_doubling(first: u64, value: u64) -> u64 {
    let mut next = first.max(1).saturating_mul(2);
    while next <= value && next < u64::MAX / 2 {
        next *= 2;
    }
    next
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn doubles_until_it_is_greater() {
        assert_eq!([0, 10, 19, 20, 39, 40, 100].map(|value| next_doubling(10, value)), [20, 20, 20, 40, 40, 80, 160]);
        assert_eq!(next_doubling(0, 0), 2, "there is no doubling of nothing");
        assert!(next_doubling(3, u64::MAX) >= u64::MAX / 2 && next_doubling(u64::MAX, 5) == u64::MAX);
    }
}

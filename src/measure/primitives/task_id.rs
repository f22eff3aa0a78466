//! Task ids as one word, so that a slot can publish them.
//!
//! `tokio::task::Id` does not tell its number. Its bits are carried as they are and only ever
//! turned back into the `Id` that they came from; nothing is assumed about what they mean. Should a
//! later tokio change the size, reports lose the task id and everything else goes on.

use tokio::task::Id;

const FITS: bool = size_of::<Id>() == size_of::<u64>();

/// The id's bits, 0 for none.
#[inline]
pub(crate) fn to_bits(id: Option<Id>) -> u64 {
    match id {
        // SAFETY: source and target have the same size (checked), and `Id` wraps one integer: it
        // has no padding. Should that change, an integer of the same size cannot have padding
        // either, and a larger `Id` fails `FITS`.
        Some(id) if FITS => unsafe { std::mem::transmute_copy::<Id, u64>(&id) },
        _ => 0,
    }
}

/// The id back from its bits. `bits` must come from [`to_bits`].
///
/// # Safety
///
/// `bits` is 0 or was returned by `to_bits` in this process.
pub(crate) unsafe fn from_bits(bits: u64) -> Option<Id> {
    if bits == 0 || !FITS {
        return None;
    }
    // SAFETY: the caller promises that these are the bits of a valid `Id`, whose size is checked
    // above.
    Some(unsafe { std::mem::transmute_copy::<u64, Id>(&bits) })
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn goes_there_and_back() {
        let id = tokio::spawn(async {}).id();
        // SAFETY: the bits come from `to_bits`.
        assert_eq!(unsafe { from_bits(to_bits(Some(id))) }, Some(id));
        // SAFETY: 0 is allowed.
        assert_eq!(unsafe { from_bits(to_bits(None)) }, None);
        const { assert!(FITS, "this tokio's task ids no longer fit a word: reports lose them") };
    }
}

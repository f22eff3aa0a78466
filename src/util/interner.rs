//! A bounded interner: it gives each distinct key a small number, up to a maximum of keys.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The keys that have a number. A key is never removed.
#[derive(Debug)]
pub(crate) struct Interner<K> {
    numbers: HashMap<K, u32>,
    keys: Vec<K>,
    max: usize,
}

impl<K: Clone + Eq + Hash> Interner<K> {
    pub(crate) fn new(max: usize) -> Interner<K> {
        Interner { numbers: HashMap::new(), keys: Vec::new(), max }
    }

    /// Returns the number of a key that has one.
    pub(crate) fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        self.numbers.get(key).copied()
    }

    /// Returns the number of a key, and gives it the next one if it has none. Returns `None` for a
    /// new key when the interner is full.
    pub(crate) fn intern(&mut self, key: K) -> Option<u32> {
        if let Some(number) = self.find(&key) {
            return Some(number);
        }
        let number = u32::try_from(self.keys.len()).ok().filter(|_| !self.is_full())?;
        self.keys.push(key.clone());
        self.numbers.insert(key, number);
        Some(number)
    }

    /// Returns the key of a number.
    pub(crate) fn key(&self, number: u32) -> Option<&K> {
        self.keys.get(number as usize)
    }

    /// Returns whether no further key gets a number.
    pub(crate) fn is_full(&self) -> bool {
        self.keys.len() >= self.max
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_share_a_number_and_no_more_than_the_maximum_get_one() {
        let mut interner = Interner::<String>::new(2);
        assert_eq!(interner.intern("a".into()), Some(0));
        assert_eq!(interner.intern("b".into()), Some(1));
        assert_eq!(interner.intern("a".into()), Some(0));
        assert!(interner.is_full());
        assert_eq!((interner.intern("c".into()), interner.find("c")), (None, None));
        assert_eq!((interner.find("b"), interner.key(1).map(String::as_str)), (Some(1), Some("b")));
        assert_eq!(interner.key(2), None);
    }
}

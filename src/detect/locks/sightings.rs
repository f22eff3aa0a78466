//! Findings that count once they were made twice, with some time in between. Pure but for the
//! clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The time between two searches that confirm each other.
const APART: Duration = Duration::from_millis(100);
/// The time after which a finding is forgotten if it is not made again.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// The most findings that are remembered.
const MAX_REMEMBERED: usize = 256;

/// Findings by what they are about.
#[derive(Debug)]
pub(super) struct Sightings<K>(HashMap<K, Sighting>);

#[derive(Debug)]
struct Sighting {
    first: Instant,
    latest: Instant,
}

impl<K> Default for Sightings<K> {
    fn default() -> Sightings<K> {
        Sightings(HashMap::new())
    }
}

impl<K: Eq + Hash> Sightings<K> {
    /// Records a finding. Returns whether it was first made long enough ago.
    pub(super) fn is_confirmed(&mut self, key: K) -> bool {
        self.is_confirmed_at(key, Instant::now())
    }

    fn is_confirmed_at(&mut self, key: K, now: Instant) -> bool {
        self.0.retain(|_, sighting| now.saturating_duration_since(sighting.latest) < FORGOTTEN);
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&key) {
            return false;
        }
        let sighting = self.0.entry(key).or_insert(Sighting { first: now, latest: now });
        sighting.latest = now;
        now.saturating_duration_since(sighting.first) >= APART
    }

    /// Forgets a finding that turned out to be wrong.
    pub(super) fn forget(&mut self, is_wrong: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| !is_wrong(key));
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_confirmed_by_a_later_one() {
        let mut sightings = Sightings::default();
        let start = Instant::now();
        assert!(!sightings.is_confirmed_at(1, start));
        assert!(!sightings.is_confirmed_at(1, start + APART / 2));
        assert!(!sightings.is_confirmed_at(2, start + APART));
        assert!(sightings.is_confirmed_at(1, start + APART));
        sightings.forget(|key| *key == 1);
        assert!(!sightings.is_confirmed_at(1, start + APART));
        assert!(!sightings.is_confirmed_at(1, start + APART + FORGOTTEN), "it was forgotten meanwhile");
    }

    #[test]
    fn the_number_of_findings_is_bounded() {
        let mut sightings = Sightings::default();
        let start = Instant::now();
        (0..2 * MAX_REMEMBERED).for_each(|key| assert!(!sightings.is_confirmed_at(key, start)));
        assert_eq!(sightings.0.len(), MAX_REMEMBERED);
    }
}

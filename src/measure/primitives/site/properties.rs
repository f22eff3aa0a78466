use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Locations, each on a line of its own.
fn locations() -> [&'static Location<'static>; 8] {
    [
        Location::caller(),
        Location::caller(),
        Location::caller(),
        Location::caller(),
        Location::caller(),
        Location::caller(),
        Location::caller(),
        Location::caller(),
    ]
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn no_more_locations_than_the_bound_get_an_id(max in 1..10usize, requested in vec(0..8usize, 0..60)) {
        let (sites, locations) = (Sites::new(max, ""), locations());
        let mut known: HashMap<usize, SiteId> = HashMap::new();
        let mut refused = 0;
        for at in requested {
            let id = sites.intern(locations[at]);
            if id == SiteId::OTHER {
                refused += 1;
                prop_assert!(known.len() == max && !known.contains_key(&at));
                prop_assert_eq!((sites.get(id).location(), sites.find(locations[at])), (None, None));
            } else {
                prop_assert_eq!(*known.entry(at).or_insert(id), id);
                prop_assert_eq!((sites.get(id).location(), sites.find(locations[at])), (Some(locations[at]), Some(id)));
            }
        }
        prop_assert!(known.len() <= max);
        prop_assert_eq!(sites.overflowed(), refused);
    }
}

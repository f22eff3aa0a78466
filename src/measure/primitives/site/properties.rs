use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Places, each on a line of its own.
fn places() -> [&'static Location<'static>; 8] {
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
    fn no_more_places_than_there_is_room_for(max in 1..10usize, asked in vec(0..8usize, 0..60)) {
        let (sites, places) = (Sites::new(max, ""), places());
        let mut known: HashMap<usize, SiteId> = HashMap::new();
        let mut refused = 0;
        for at in asked {
            let id = sites.intern(places[at]);
            if id == SiteId::OTHER {
                refused += 1;
                prop_assert!(known.len() == max && !known.contains_key(&at));
                prop_assert_eq!((sites.get(id).location(), sites.find(places[at])), (None, None));
            } else {
                prop_assert_eq!(*known.entry(at).or_insert(id), id);
                prop_assert_eq!((sites.get(id).location(), sites.find(places[at])), (Some(places[at]), Some(id)));
            }
        }
        prop_assert!(known.len() <= max);
        prop_assert_eq!(sites.overflowed(), refused);
    }
}

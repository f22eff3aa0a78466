use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    // A few names that repeat, arbitrary ones, and some that are too long.
    prop_oneof!["/[a-e]{0,2}", any::<String>(), "x{250,260}"]
}

fn name_status() -> impl Strategy<Value = NameStatus> {
    prop_oneof![Just(NameStatus::Confirmed), Just(NameStatus::Unconfirmed)]
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn no_more_names_than_the_bound_get_an_id(max in 0..12usize, requested in vec((name(), name_status()), 0..100)) {
        let routes = Routes::new(max);
        let mut known: HashMap<String, RouteId> = HashMap::new();
        let mut unconfirmed = 0;
        for (name, status) in requested {
            let id = routes.intern(&name, status);
            prop_assert!(id.index() < routes.capacity(), "there are counters for it");
            prop_assert_eq!(RouteId::from_bits(RouteId::to_bits(Some(id))), Some(id));
            match id {
                RouteId::UNMATCHED => prop_assert!(name.is_empty() || name == "unmatched"),
                RouteId::OTHER => {
                    prop_assert!(!known.contains_key(&name), "a name that has an id keeps it");
                    let is_full = known.len() == max || status == NameStatus::Unconfirmed && unconfirmed == max.div_ceil(2);
                    prop_assert!(is_full || name.len() > Routes::MAX_NAME || name == "other", "{} of {}", known.len(), max);
                }
                id => {
                    prop_assert_eq!(&*routes.name(id), name.as_str());
                    let is_new = !known.contains_key(&name);
                    unconfirmed += usize::from(is_new && status == NameStatus::Unconfirmed);
                    prop_assert_eq!(*known.entry(name).or_insert(id), id);
                }
            }
        }
        prop_assert!(known.len() <= max && unconfirmed <= max.div_ceil(2));
        let mut ids: Vec<_> = known.values().collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), known.len(), "no two names share an id");
    }
}

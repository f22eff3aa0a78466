use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    // Few, so that they come again; any at all; and too long.
    prop_oneof!["/[a-e]{0,2}", any::<String>(), "x{250,260}"]
}

fn proof() -> impl Strategy<Value = Proof> {
    prop_oneof![Just(Proof::Known), Just(Proof::Claimed)]
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn no_more_names_than_there_is_room_for(max in 0..12usize, asked in vec((name(), proof()), 0..100)) {
        let routes = Routes::new(max);
        let mut known: HashMap<String, RouteId> = HashMap::new();
        let mut claimed = 0;
        for (name, proof) in asked {
            let id = routes.intern(&name, proof);
            prop_assert!(id.index() < routes.capacity(), "there is a place for its counters");
            prop_assert_eq!(RouteId::from_bits(RouteId::to_bits(Some(id))), Some(id));
            match id {
                RouteId::UNMATCHED => prop_assert!(name.is_empty() || name == "unmatched"),
                RouteId::OTHER => {
                    prop_assert!(!known.contains_key(&name), "what had a place keeps it");
                    let full = known.len() == max || proof == Proof::Claimed && claimed == max.div_ceil(2);
                    prop_assert!(full || name.len() > Routes::MAX_NAME || name == "other", "{} of {}", known.len(), max);
                }
                id => {
                    prop_assert_eq!(&*routes.name(id), name.as_str());
                    let new = !known.contains_key(&name);
                    claimed += usize::from(new && proof == Proof::Claimed);
                    prop_assert_eq!(*known.entry(name).or_insert(id), id);
                }
            }
        }
        prop_assert!(known.len() <= max && claimed <= max.div_ceil(2));
        let mut ids: Vec<_> = known.values().collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), known.len(), "no two names share one");
    }
}

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Of one key: when one was let through, and what was counted.
#[derive(Default)]
struct Account {
    first: Option<u64>,
    told: Vec<u64>,
    accounted: u64,
    refused: u64,
}

fn steps() -> impl Strategy<Value = Vec<(u8, u64, bool)>> {
    let step = prop_oneof![3 => 0..EVERY / 4, 2 => 0..EVERY * 2, 1 => EVERY * 2..EVERY * 100];
    vec((0..3u8, step, any::<bool>()), 0..200)
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn never_more_than_the_burst_and_the_rate(steps in steps()) {
        let (mut throttle, mut now) = (Throttle::new(), 0);
        let mut accounts: [Account; 3] = Default::default();
        for (key, step, count) in steps {
            now += step;
            let account = &mut accounts[usize::from(key)];
            let first = *account.first.get_or_insert(now);
            match throttle.admit(key, now, count) {
                Some(untold) => {
                    account.told.push(now);
                    account.accounted += untold;
                }
                None => account.refused += u64::from(count),
            }
            prop_assert!(account.told.len() as u64 <= u64::from(BURST) + (now - first) / EVERY);
            // In any window: what is saved up is one burst, and one more may have been due at its begin.
            for (i, then) in account.told.iter().enumerate() {
                let since = (account.told.len() - i) as u64;
                prop_assert!(since <= u64::from(BURST) + 1 + (now - then) / EVERY);
            }
        }
        for (key, account) in accounts.iter_mut().enumerate() {
            // A long time later one is let through, and accounts for the rest.
            let untold = throttle.admit(key as u8, now + EVERY, true);
            prop_assert!(untold.is_some());
            prop_assert_eq!(account.accounted + untold.unwrap_or_default(), account.refused);
        }
    }

    /// Whatever the clock does.
    #[test]
    fn none_is_lost_from_the_count(steps in vec((0..3u8, any::<u64>(), any::<bool>()), 0..100)) {
        let mut throttle = Throttle::new();
        let (mut accounted, mut refused) = (0, 0);
        for (key, now, count) in steps {
            match throttle.admit(key, now, count) {
                Some(untold) => accounted += untold,
                None => refused += u64::from(count),
            }
        }
        let waiting: u64 = throttle.buckets.values().map(|bucket| bucket.suppressed).sum();
        prop_assert_eq!(accounted + waiting, refused);
    }
}

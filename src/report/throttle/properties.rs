use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BURST: u32 = LOG_LINES.burst;
const INTERVAL: u64 = LOG_LINES.interval.as_nanos() as u64;

/// The lines of one key: the moments at which lines were admitted, and the counts.
#[derive(Default)]
struct Account {
    first: Option<u64>,
    admitted: Vec<u64>,
    accounted: u64,
    refused: u64,
}

fn steps() -> impl Strategy<Value = Vec<(u8, u64, bool)>> {
    let step = prop_oneof![3 => 0..INTERVAL / 4, 2 => 0..INTERVAL * 2, 1 => INTERVAL * 2..INTERVAL * 100];
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
            match throttle.admit(key, Duration::from_nanos(now), count) {
                Some(suppressed) => {
                    account.admitted.push(now);
                    account.accounted += suppressed;
                }
                None => account.refused += u64::from(count),
            }
            prop_assert!(account.admitted.len() as u64 <= u64::from(BURST) + (now - first) / INTERVAL);
            // In any window: one burst is saved up at most, and one more line may have been due at
            // its start.
            for (i, then) in account.admitted.iter().enumerate() {
                let since = (account.admitted.len() - i) as u64;
                prop_assert!(since <= u64::from(BURST) + 1 + (now - then) / INTERVAL);
            }
        }
        for (key, account) in accounts.iter_mut().enumerate() {
            // After a long time the next line is admitted, and has the number of all suppressed
            // ones.
            let suppressed = throttle.admit(key as u8, Duration::from_nanos(now + INTERVAL), true);
            prop_assert!(suppressed.is_some());
            prop_assert_eq!(account.accounted + suppressed.unwrap_or_default(), account.refused);
        }
    }

    /// The clock may go backwards.
    #[test]
    fn none_is_lost_from_the_count(steps in vec((0..3u8, any::<u64>(), any::<bool>()), 0..100)) {
        let mut throttle = Throttle::new();
        let (mut accounted, mut refused) = (0, 0);
        for (key, now, count) in steps {
            match throttle.admit(key, Duration::from_nanos(now), count) {
                Some(suppressed) => accounted += suppressed,
                None => refused += u64::from(count),
            }
        }
        let waiting: u64 = throttle.keys.values().map(|limited| limited.suppressed).sum();
        prop_assert_eq!(accounted + waiting, refused);
    }
}

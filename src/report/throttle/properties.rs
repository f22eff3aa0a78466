use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const BURST: u32 = LOG_LINES.burst;
const INTERVAL: u64 = LOG_LINES.interval.as_nanos() as u64;

/// The lines of one key.
#[derive(Default)]
struct Account {
    first: Option<u64>,
    /// The moments at which lines were admitted.
    admitted: Vec<u64>,
    /// The refused lines that are not retried yet, and whether no line has reported them.
    refused: Vec<(RefusedLine<u8>, bool)>,
    /// The number of refused lines that no line has reported.
    unreported: u64,
}

impl Account {
    /// Admits a line, or retries the line that was refused last. Returns the number of suppressed
    /// lines that an admitted line reports, and the number that is expected.
    fn step(&mut self, throttle: &mut Throttle<u8>, key: u8, now: u64, retry: bool) -> Option<[u64; 2]> {
        let at = Duration::from_nanos(now);
        let (result, is_unreported) = match self.refused.pop_if(|_| retry) {
            Some((refusal, is_unreported)) => (throttle.retry(refusal, key, at), Some(is_unreported)),
            None => (throttle.admit(key, at), None),
        };
        match result {
            Ok(suppressed) => {
                let expected = self.unreported - u64::from(is_unreported == Some(true));
                self.admitted.push(now);
                self.unreported = 0;
                self.refused.iter_mut().for_each(|(_, is_unreported)| *is_unreported = false);
                Some([suppressed, expected])
            }
            Err(refusal) => {
                self.unreported += u64::from(is_unreported.is_none());
                self.refused.push((refusal, is_unreported.unwrap_or(true)));
                None
            }
        }
    }
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
        for (key, step, retry) in steps {
            now += step;
            let account = &mut accounts[usize::from(key)];
            let first = *account.first.get_or_insert(now);
            if let Some([suppressed, expected]) = account.step(&mut throttle, key, now, retry) {
                prop_assert_eq!(suppressed, expected);
            }
            prop_assert!(account.admitted.len() as u64 <= u64::from(BURST) + (now - first) / INTERVAL);
            // In any window: one burst is saved up at most, and one more line may have been due at
            // its start.
            for (i, then) in account.admitted.iter().enumerate() {
                let since = (account.admitted.len() - i) as u64;
                prop_assert!(since <= u64::from(BURST) + 1 + (now - then) / INTERVAL);
            }
        }
        for (key, account) in accounts.iter().enumerate() {
            // After a long time the next line is admitted, and has the number of all suppressed
            // ones.
            let suppressed = throttle.admit(key as u8, Duration::from_nanos(now + INTERVAL)).ok();
            prop_assert_eq!(suppressed, Some(account.unreported));
        }
    }

    /// The clock may go backwards.
    #[test]
    fn none_is_lost_from_the_count(steps in vec((0..3u8, any::<u64>(), any::<bool>()), 0..100)) {
        let mut throttle = Throttle::new();
        let mut accounts: [Account; 3] = Default::default();
        for (key, now, retry) in steps {
            if let Some([suppressed, expected]) = accounts[usize::from(key)].step(&mut throttle, key, now, retry) {
                prop_assert_eq!(suppressed, expected);
            }
        }
        let waiting: u64 = throttle.keys.values().map(|limited| limited.suppressed).sum();
        prop_assert_eq!(waiting, accounts.iter().map(|account| account.unreported).sum::<u64>());
    }
}

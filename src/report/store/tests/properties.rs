use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What happens to an ongoing stall.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// A scan finds it unchanged.
    Scan,
    /// An examination finds a cause, which is that of the latest milliseconds.
    Examine { cause: Cause, since_ago: u64, verdict: CpuVerdict },
    /// A request with this frame is observed, which has lasted since the frame was first observed.
    Request(u64),
    /// The request ends.
    EndRequest(u64),
    /// The totals are read.
    Scrape,
}

/// An action, and the milliseconds before it.
type Step = (u64, Action);

fn verdict() -> impl Strategy<Value = CpuVerdict> {
    prop_oneof![Just(CpuVerdict::Starved), Just(CpuVerdict::Computed), Just(CpuVerdict::Other)]
}

fn step() -> impl Strategy<Value = Step> {
    let cause = (0..Cause::ALL.len()).prop_map(|index| Cause::ALL[index]);
    let action = prop_oneof![
        Just(Action::Scan),
        (cause, 0..200_u64, verdict()).prop_map(|(cause, since_ago, verdict)| Action::Examine {
            cause,
            since_ago,
            verdict
        }),
        (2..5_u64).prop_map(Action::Request),
        (2..5_u64).prop_map(Action::EndRequest),
        Just(Action::Scrape),
        Just(Action::Scrape),
    ];
    (0..400_u64, action)
}

/// A run of one stall. `may_revise` says that an examination may find a change before the latest
/// reading of the totals.
struct StallRun<'a> {
    first: Cause,
    steps: &'a [Step],
    end: CpuVerdict,
    may_revise: bool,
}

impl StallRun<'_> {
    /// Returns the totals after the end of the stall, by name, with or without the scrapes.
    fn totals(&self, scrapes: bool) -> BTreeMap<String, CountAndTime> {
        let (mut store, frames) = store_with(self.first);
        let (mut now, mut settled) = (10, 10);
        let mut ended = BTreeSet::new();
        let mut open = BTreeMap::new();
        for &(gap, action) in self.steps {
            now += gap;
            match action {
                Action::Scan => store.set_elapsed(StallId(1), millis(now), Nanos::from_millis(now)),
                Action::Examine { cause, since_ago, verdict } => {
                    let since = now.saturating_sub(since_ago).max(settled);
                    settled = if self.may_revise { settled } else { now };
                    let examined = progress(1, since, now, cause);
                    let examined = StallProgress { verdict, on_cpu: Some(millis(now / 2)), ..examined };
                    store.examine(examined, false).unwrap();
                }
                Action::Request(frame) if !ended.contains(&frame) => {
                    let started = *open.entry(frame).or_insert(now);
                    frames.set(Some(&open_frames(&open)));
                    store.record_request(&request_at(frame, started, now, false));
                }
                Action::EndRequest(frame) => {
                    let Some(started) = open.remove(&frame) else { continue };
                    ended.insert(frame);
                    frames.set(Some(&open_frames(&open)));
                    store.record_request(&request_at(frame, started, now, true));
                }
                Action::Request(_) => {}
                Action::Scrape => {
                    settled = if self.may_revise { settled } else { now };
                    if scrapes {
                        store.totals(Nanos::from_millis(now));
                    }
                }
            }
        }
        for (frame, started) in open {
            store.record_request(&request_at(frame, started, now, true));
        }
        store.resolve(StallId(1), end(now + 1, self.end)).unwrap();
        named(store.totals(Nanos::from_millis(now + 2)))
    }
}

fn open_frames(open: &BTreeMap<u64, u64>) -> Vec<u64> {
    open.keys().copied().chain([1]).collect()
}

fn request_at(frame: u64, started: u64, now: u64, is_over: bool) -> BlockedRequest {
    let [elapsed, at] = [now - started, now].map(Nanos::from_millis);
    BlockedRequest { elapsed, at, ..request(1, frame, 0, is_over) }
}

/// The totals that are not zero.
fn named(totals: StallTotals) -> BTreeMap<String, CountAndTime> {
    let causes = totals.causes.into_iter().map(|((_, cause), total)| (cause.to_string(), total));
    let sites = totals.sites.into_values().map(|total| ("site".to_owned(), total));
    let routes = totals.routes.into_values().map(|total| ("route".to_owned(), total));
    let all = causes.chain(sites).chain(routes);
    all.filter(|(_, total)| *total != CountAndTime::default()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Reading the totals changes none of them, while the causes of the time before are known.
    #[test]
    fn totals_do_not_depend_on_when_they_are_read(
        first in (0..Cause::ALL.len()).prop_map(|index| Cause::ALL[index]),
        steps in vec(step(), 0..24),
        end in verdict(),
    ) {
        let run = StallRun { first, steps: &steps, end, may_revise: false };
        prop_assert_eq!(run.totals(true), run.totals(false));
    }

    /// Where a change is found late, its time may be in the total of the cause before. No time is
    /// lost or counted twice, and the stall counts once.
    #[test]
    fn no_time_is_lost_when_a_change_is_found_late(
        first in (0..Cause::ALL.len()).prop_map(|index| Cause::ALL[index]),
        steps in vec(step(), 0..24),
        end in verdict(),
    ) {
        let run = StallRun { first, steps: &steps, end, may_revise: true };
        let elapsed = 11 + steps.iter().map(|(gap, _)| gap).sum::<u64>();
        for scrapes in [true, false] {
            let totals = run.totals(scrapes);
            let causes = Cause::ALL.iter().filter_map(|cause| totals.get(cause.as_str()));
            let (count, time) = causes.fold((0, Nanos::ZERO), |sum, total| (sum.0 + total.count, sum.1 + total.time));
            prop_assert_eq!((count, time), (1, Nanos::from_millis(elapsed)));
        }
    }
}

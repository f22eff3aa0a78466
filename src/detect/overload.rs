//! Whether a runtime is overloaded, and which share of its requests to turn away. Pure: lags and times in, odds out.

use crate::measure::gate::Marks;

/// What is heard of the lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lag {
    /// A task waited this long, in nanoseconds, until it was polled.
    Was(u64),
    /// A task has waited this long while others were polled, and still waits.
    AtLeast(u64),
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Begins,
    Ends,
}

/// After this long without a word about the lag, nothing is known of it.
const STALE: u64 = 1_000_000_000;
/// While requests are turned away, a lag that was measured counts for half after this long. It is gone as soon as requests are
/// turned away, since those take next to no time: let in again at once, they would bring it back, and so on to and fro.
const HALF_LIFE: f64 = 500e6;
/// Requests that had no room hold the lag for this long after shedding began, in all. They are late in the making: let in, they
/// would be what others wait for. But a service that is well has some as well, and must not be shed for them for ever.
const HELD: u64 = 2_000_000_000;

/// The state of one runtime, as seen with one set of marks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overload {
    marks: Marks,
    state: State,
    /// When the lag was last heard of.
    heard: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Calm,
    /// Each lag since then was above the mark.
    Late {
        since: u64,
    },
    /// Requests are turned away by this lag, in nanoseconds.
    Shedding {
        since: u64,
        lag: f64,
    },
}

impl Overload {
    pub(crate) fn new(marks: Marks) -> Overload {
        Overload { marks, state: State::Calm, heard: 0 }
    }

    /// Takes in what was heard of the lag by `now`, if something was, and whether requests were turned away for want of room.
    pub(crate) fn hear(&mut self, now: u64, lag: Option<Lag>, refused: bool) -> Option<Turn> {
        let silence = now.saturating_sub(self.heard);
        let was = self.state;
        if silence >= STALE {
            self.state = State::Calm;
        }
        if let Some(lag) = lag {
            self.heard = now;
            self.state = self.next(now, silence, lag, refused);
        }
        match (was, self.state) {
            (State::Shedding { .. }, State::Shedding { .. }) => None,
            (_, State::Shedding { .. }) => Some(Turn::Begins),
            (State::Shedding { .. }, _) => Some(Turn::Ends),
            _ => None,
        }
    }

    fn next(&self, now: u64, silence: u64, lag: Lag, refused: bool) -> State {
        let Marks { high, low, sustain } = self.marks;
        // All are turned away at twice the mark: what is beyond that would only take longer to be forgotten.
        let most = high as f64 * 2.0;
        match (self.state, lag) {
            // One long poll is one late answer. The next one comes in time, if there is no queue.
            (State::Calm, Lag::Was(lag) | Lag::AtLeast(lag)) if lag > high && sustain > 0 => State::Late { since: now },
            (State::Calm | State::Late { .. }, Lag::Was(lag) | Lag::AtLeast(lag)) if lag > high => match self.state {
                State::Late { since } if now.saturating_sub(since) < sustain => self.state,
                _ => State::Shedding { since: now, lag: (lag as f64).min(most) },
            },
            (State::Calm | State::Late { .. }, Lag::Was(_)) => State::Calm,
            (State::Calm | State::Late { .. }, Lag::AtLeast(_)) => self.state,
            // It waits: that does not make it better.
            (State::Shedding { since, lag: before }, Lag::AtLeast(lag)) => {
                State::Shedding { since, lag: before.max((lag as f64).min(most)) }
            }
            (State::Shedding { since, lag: before }, Lag::Was(lag)) => {
                let mut remembered = before * (-(silence as f64) / HALF_LIFE).exp2();
                if refused && now.saturating_sub(since) < HELD {
                    // Held, never raised: at the high mark nobody is turned away by the odds.
                    remembered = remembered.max(before.min(high as f64));
                }
                let lag = remembered.max((lag as f64).min(most));
                if lag < low as f64 { State::Calm } else { State::Shedding { since, lag } }
            }
        }
    }

    pub(crate) fn is_shedding(&self) -> bool {
        matches!(self.state, State::Shedding { .. })
    }

    /// Whether there is nothing to remember of it.
    pub(crate) fn is_calm(&self) -> bool {
        self.state == State::Calm
    }

    /// The lag by which requests are turned away, in nanoseconds; 0 where none are.
    pub(crate) fn lag(&self) -> u64 {
        match self.state {
            State::Shedding { lag, .. } => (lag as u64).max(1),
            _ => 0,
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::gate::ALL;

    const MS: u64 = 1_000_000;
    const MARKS: Marks = Marks { high: 20 * MS, low: 10 * MS, sustain: 100 * MS };

    fn overload() -> Overload {
        Overload::new(MARKS)
    }

    /// Hears one lag each 20 ms, from `at` on; the turns, with when they came.
    fn hear(overload: &mut Overload, at: u64, lags: impl IntoIterator<Item = Lag>) -> Vec<(u64, Turn)> {
        let times = (0..).map(|i| at + i * 20);
        times.zip(lags).filter_map(|(at, lag)| Some((at, overload.hear(at * MS, Some(lag), false)?))).collect()
    }

    fn odds(overload: &Overload) -> u32 {
        MARKS.odds(overload.lag())
    }

    fn was(ms: u64) -> Lag {
        Lag::Was(ms * MS)
    }

    #[test]
    fn begins_when_the_lag_stays_above_the_high_mark() {
        let mut steady = overload();
        assert_eq!(hear(&mut steady, 1_000, [was(20); 50]), [], "at the mark is not above it");
        assert_eq!(hear(&mut steady, 2_000, [was(21); 6]), [(2_100, Turn::Begins)]);
        assert!(steady.is_shedding());
        let mut at_once = Overload::new(Marks { sustain: 0, ..MARKS });
        assert_eq!(hear(&mut at_once, 1_000, [was(21)]), [(1_000, Turn::Begins)]);
    }

    #[test]
    fn one_long_poll_is_one_late_answer() {
        let mut overload = overload();
        let polls = [was(0), was(5_000), was(1), was(3_000), was(19), was(400), was(400), was(400), was(2)];
        assert_eq!(hear(&mut overload, 1_000, polls), []);
        assert_eq!(odds(&overload), 0);
    }

    #[test]
    fn a_task_that_still_waits_is_late_as_well() {
        let mut overload = overload();
        let waits = (0..10).map(|i| Lag::AtLeast(i * 20 * MS));
        assert_eq!(hear(&mut overload, 1_000, waits), [(1_140, Turn::Begins)], "above the mark since 1,040");
        assert_eq!(hear(&mut overload, 1_200, [Lag::AtLeast(0); 200]), [], "nothing new is no good news");
        assert_eq!(odds(&overload), ALL);
    }

    #[test]
    fn goes_on_between_the_marks_and_ends_below_the_low_one() {
        let mut overload = overload();
        hear(&mut overload, 1_000, [was(21); 10]);
        assert_eq!(hear(&mut overload, 1_200, [was(15); 500]), [], "between the marks it goes on");
        assert_eq!((overload.is_shedding(), odds(&overload)), (true, 0), "with nobody turned away");
        let [(_, Turn::Begins)] = hear(&mut Overload::new(MARKS), 1_000, [was(30); 10])[..] else { panic!() };
        let ends = hear(&mut overload, 20_000, [was(9); 500]);
        assert!(matches!(ends[..], [(_, Turn::Ends)]), "{ends:?}");
        assert!(overload.is_calm());
    }

    #[test]
    fn a_lag_is_forgotten_by_and_by() {
        let mut overload = overload();
        hear(&mut overload, 1_000, [was(60_000); 10]);
        // From twice the high mark to the low one: two half-lives, however late it was.
        let ends = hear(&mut overload, 1_200, [was(0); 500]);
        let [(at, Turn::Ends)] = ends[..] else { panic!("{ends:?}") };
        assert!((2_180..=2_240).contains(&at), "{at}");
        hear(&mut overload, 20_000, [was(60_000); 10]);
        let mut shares = Vec::new();
        for i in 0..50 {
            hear(&mut overload, 20_200 + i * 20, [was(0)]);
            shares.push(odds(&overload));
        }
        assert!(shares.is_sorted_by(|a, b| a >= b) && shares[0] > 0 && shares[49] == 0, "{shares:?}");
        assert!(shares.iter().any(|o| *o > ALL / 3 && *o < ALL / 3 * 2), "by and by: {shares:?}");
    }

    /// Hears answers in time each 20 ms while requests are refused, until it ends; the time that took, in milliseconds.
    fn ends_although_refused(overload: &mut Overload, at: u64, lag: impl Fn(u64) -> Lag) -> u64 {
        let ends = (0..).map(|i| i * 20).find(|time| {
            let before = overload.lag();
            let turn = overload.hear((at + time) * MS, Some(lag(*time)), true);
            assert!(overload.lag() <= before, "refusals raise nothing");
            assert!(*time < 60_000, "it never ends");
            turn == Some(Turn::Ends)
        });
        ends.unwrap()
    }

    #[test]
    fn refusals_do_not_hold_it_for_ever() {
        for late in [21, 30, 60_000] {
            let mut overload = overload();
            hear(&mut overload, 1_000, [was(late); 10]);
            assert!(overload.is_shedding());
            let time = ends_although_refused(&mut overload, 1_200, |_| was(0));
            // What is left of the two seconds, and two half-lives at most.
            assert!((1_900..=3_000).contains(&time), "{time} ms after {late} ms");
            // Not begun by them either.
            for at in 0..1_000 {
                assert_eq!(overload.hear((10_000 + at * 20) * MS, Some(was(1)), true), None);
            }
            assert!(overload.is_calm());
        }
        // Overloaded for a minute: the two seconds are over.
        let mut overload = overload();
        hear(&mut overload, 1_000, [was(100); 3_000]);
        let time = ends_although_refused(&mut overload, 61_000, |_| was(0));
        assert!((980..=1_040).contains(&time), "{time}");
    }

    #[test]
    fn lag_below_the_low_mark_with_refusals_is_none() {
        let mut overload = overload();
        hear(&mut overload, 1_000, [was(100); 10]);
        let time = ends_although_refused(&mut overload, 1_200, |time| was(time / 20 % 10));
        assert!(time <= 3_000, "{time}");
    }

    /// Whatever the marks: a lag that is never above the high one turns nobody away.
    #[test]
    fn without_lag_it_never_begins() {
        for sustain in [0, 1, 100 * MS] {
            let mut overload = Overload::new(Marks { sustain, ..MARKS });
            let lags = [was(0), was(1), was(20), Lag::AtLeast(0), Lag::AtLeast(20 * MS), was(0)];
            for (i, lag) in lags.into_iter().cycle().take(10_000).enumerate() {
                assert_eq!(overload.hear(i as u64 * 20 * MS, Some(lag), i % 3 == 0), None);
                assert!(overload.is_calm() && odds(&overload) == 0);
            }
        }
    }

    #[test]
    fn a_stale_lag_is_none() {
        let mut overload = overload();
        hear(&mut overload, 1_000, [was(100); 10]);
        assert_eq!(overload.hear(1_900 * MS, None, false), None);
        assert_eq!(overload.hear(2_200 * MS, None, false), Some(Turn::Ends));
        assert_eq!(odds(&overload), 0);
        // Late once a minute is not late all the time.
        for minute in 1..10 {
            assert_eq!(hear(&mut overload, minute * 60_000, [was(100)]), []);
        }
    }

    #[test]
    fn survives_odd_marks() {
        for (high, low, sustain) in [(0, 0, 0), (u64::MAX, u64::MAX, u64::MAX), (1, u64::MAX, 0), (0, 1, 1)] {
            let mut overload = Overload::new(Marks { high, low, sustain });
            for lag in [0, 1, u64::MAX] {
                hear(&mut overload, 1_000, [Lag::Was(lag), Lag::AtLeast(lag)]);
                assert!(overload.marks.odds(overload.lag()) <= ALL);
            }
        }
    }
}

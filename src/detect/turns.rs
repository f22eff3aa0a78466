//! How long the watchdog goes on when turns of its loop panic: a defect of ours, that must not end detection unseen. Pure.

/// So many in a row, and the next will panic, too.
const MOST: u32 = 10;

/// The turns so far.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// That panicked, since the last good one.
    in_a_row: u32,
    told: bool,
}

/// What is to be done about a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To say so, and to go on.
    First,
    /// To go on.
    Again,
    /// To say so, and to stop.
    TooMany,
}

impl Turns {
    pub(super) fn good(&mut self) {
        self.in_a_row = 0;
    }

    pub(super) fn panicked(&mut self) -> Verdict {
        self.in_a_row += 1;
        if self.in_a_row >= MOST {
            return Verdict::TooMany;
        }
        if std::mem::replace(&mut self.told, true) { Verdict::Again } else { Verdict::First }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_good_turn_in_between() {
        let mut turns = Turns::default();
        assert_eq!(turns.panicked(), Verdict::First);
        (2..MOST).for_each(|_| assert_eq!(turns.panicked(), Verdict::Again));
        turns.good();
        (1..MOST).for_each(|_| assert_eq!(turns.panicked(), Verdict::Again));
        assert_eq!(turns.panicked(), Verdict::TooMany);
    }
}

//! The number of scans of the watchdog thread that may panic. A panic there is a defect of
//! pollwatch. It must neither end detection unnoticed nor repeat for ever. Pure.

/// The number of panics in a row after which the thread gives up.
const MAX_IN_A_ROW: u32 = 10;

/// The panics so far.
#[derive(Debug, Default)]
pub(super) struct PanicBudget {
    /// Panics since the latest scan that did not panic.
    in_a_row: u32,
    has_reported: bool,
}

/// The response to a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanicResponse {
    /// Report it and continue: it is the first one.
    Report,
    Continue,
    /// Report that the thread stops, and stop.
    GiveUp,
}

impl PanicBudget {
    /// Records a scan that did not panic.
    pub(super) fn reset(&mut self) {
        self.in_a_row = 0;
    }

    /// Records a scan that panicked.
    pub(super) fn spend(&mut self) -> PanicResponse {
        self.in_a_row += 1;
        if self.in_a_row >= MAX_IN_A_ROW {
            return PanicResponse::GiveUp;
        }
        match std::mem::replace(&mut self.has_reported, true) {
            true => PanicResponse::Continue,
            false => PanicResponse::Report,
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_scan_without_a_panic_restores_the_budget() {
        let mut budget = PanicBudget::default();
        assert_eq!(budget.spend(), PanicResponse::Report);
        (2..MAX_IN_A_ROW).for_each(|_| assert_eq!(budget.spend(), PanicResponse::Continue));
        budget.reset();
        (1..MAX_IN_A_ROW).for_each(|_| assert_eq!(budget.spend(), PanicResponse::Continue));
        assert_eq!(budget.spend(), PanicResponse::GiveUp);
    }
}

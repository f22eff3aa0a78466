//! The delays of polls in a build that cannot track them: there are none.

use crate::measure::counters::sites::DelayTotals;
use crate::measure::primitives::histogram::Histogram;
use crate::model::id::RuntimeId;

/// The histograms of the delays on one thread, which no thread has.
#[derive(Debug)]
pub(crate) enum DelayHistograms {}

impl DelayHistograms {
    pub(super) fn create(_is_tracked: bool) -> Option<Box<DelayHistograms>> {
        None
    }

    pub(super) fn iter(&self) -> std::iter::Empty<(RuntimeId, &Histogram)> {
        match *self {}
    }
}

/// The delays of the polls of a site on one thread, which no site has.
#[derive(Debug)]
pub(crate) enum DelayCounters {}

impl DelayCounters {
    pub(super) fn create(_histograms: Option<&DelayHistograms>, _runtime: RuntimeId) -> Option<Box<DelayCounters>> {
        None
    }

    pub(super) fn totals(&self) -> DelayTotals {
        match *self {}
    }
}

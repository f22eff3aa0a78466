//! The coverage of stacks: which stacks of blocked threads can be captured.

use crate::model::coverage::StackCoverage;

/// Returns which stacks can be captured, as far as that is known before the first capture.
pub(crate) fn at_start(is_wanted: bool) -> StackCoverage {
    match is_wanted {
        _ if !cfg!(feature = "capture") => StackCoverage::NotCompiled,
        false => StackCoverage::SwitchedOff,
        true => pollwatch_stack::capability().into(),
    }
}

/// Returns the coverage at the start, corrected by the captures since.
pub(crate) fn now(at_start: StackCoverage) -> StackCoverage {
    match at_start {
        StackCoverage::Taken => pollwatch_stack::degradation().map_or(at_start, Into::into),
        _ => at_start,
    }
}

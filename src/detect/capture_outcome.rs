//! The outcomes of captures, for the metrics.

use pollwatch_stack::{CaptureError, RawStack};

/// The outcome of a capture: the label `result` of `captures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CaptureOutcome {
    /// A stack that reaches the thread's first function.
    Ok,
    /// A stack whose outer part is missing.
    Incomplete,
    /// The poll was over, or the thread moved on, before the stack was taken.
    Moved,
    /// The thread did not answer in time.
    Timeout,
    /// The thread is on a stack that is not its own.
    Elsewhere,
    /// Captures are impossible here, or of this thread.
    Unavailable,
    /// Too many were requested at once.
    Limited,
}

impl CaptureOutcome {
    /// All outcomes, in the order of the enum: the counters are indexed by `outcome as usize`.
    pub(crate) const ALL: [CaptureOutcome; 7] = [
        CaptureOutcome::Ok,
        CaptureOutcome::Incomplete,
        CaptureOutcome::Moved,
        CaptureOutcome::Timeout,
        CaptureOutcome::Elsewhere,
        CaptureOutcome::Unavailable,
        CaptureOutcome::Limited,
    ];

    /// Returns the outcome of a capture.
    pub(crate) fn of(result: &Result<RawStack, CaptureError>) -> CaptureOutcome {
        match result {
            Ok(stack) if stack.is_complete() => CaptureOutcome::Ok,
            Ok(_) => CaptureOutcome::Incomplete,
            Err(CaptureError::Moved) => CaptureOutcome::Moved,
            Err(CaptureError::Timeout) => CaptureOutcome::Timeout,
            Err(CaptureError::Elsewhere) => CaptureOutcome::Elsewhere,
            Err(_) => CaptureOutcome::Unavailable,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            CaptureOutcome::Ok => "ok",
            CaptureOutcome::Incomplete => "incomplete",
            CaptureOutcome::Moved => "moved",
            CaptureOutcome::Timeout => "timeout",
            CaptureOutcome::Elsewhere => "elsewhere",
            CaptureOutcome::Unavailable => "unavailable",
            CaptureOutcome::Limited => "limited",
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn all_outcomes_are_in_the_order_of_the_enum() {
        for (i, outcome) in CaptureOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i, "{outcome:?}");
        }
    }
}

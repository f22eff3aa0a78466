//! The reason why no stack was captured of a stall.

use std::fmt;

use crate::model::labels::CaptureOutcome;

/// The reason why no stack was captured at the latest examination of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoStack {
    /// The stall was over before its thread was examined.
    EndedFirst,
    /// The thread had no CPU, so it was not asked for its stack.
    NoCpu,
    SwitchedOff,
    /// The thread copies its stack when it returns from the kernel.
    InKernel,
    /// The capture failed, or was not tried, with this outcome.
    Failed(CaptureOutcome),
}

impl fmt::Display for NoStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoStack::EndedFirst | NoStack::Failed(CaptureOutcome::Moved) => "it ended before its thread could be read",
            NoStack::NoCpu => "its thread had no CPU",
            NoStack::SwitchedOff => "captures are switched off",
            NoStack::InKernel => "its thread had not returned from the kernel",
            NoStack::Failed(CaptureOutcome::Timeout) => "its thread did not answer in time",
            NoStack::Failed(CaptureOutcome::Limited) => "too many stalls were examined at once",
            NoStack::Failed(CaptureOutcome::Elsewhere) => "its thread was on a stack that is not its own",
            NoStack::Failed(_) => "the coverage says why",
        })
    }
}

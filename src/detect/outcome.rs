//! How captures end, for the metrics.

use pollwatch_stack::{CaptureError, RawStack};

/// How a capture ended: the label `result` of `captures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// A stack up to the thread's first function.
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

impl Outcome {
    pub(crate) const ALL: [Outcome; 7] = [
        Outcome::Ok,
        Outcome::Incomplete,
        Outcome::Moved,
        Outcome::Timeout,
        Outcome::Elsewhere,
        Outcome::Unavailable,
        Outcome::Limited,
    ];

    /// Returns how a capture ended.
    pub(crate) fn of(result: &Result<RawStack, CaptureError>) -> Outcome {
        match result {
            Ok(stack) if stack.is_complete() => Outcome::Ok,
            Ok(_) => Outcome::Incomplete,
            Err(CaptureError::Moved) => Outcome::Moved,
            Err(CaptureError::Timeout) => Outcome::Timeout,
            Err(CaptureError::Elsewhere) => Outcome::Elsewhere,
            Err(_) => Outcome::Unavailable,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Incomplete => "incomplete",
            Outcome::Moved => "moved",
            Outcome::Timeout => "timeout",
            Outcome::Elsewhere => "elsewhere",
            Outcome::Unavailable => "unavailable",
            Outcome::Limited => "limited",
        }
    }
}

//! How captures end.

/// How a capture ended; the label `result` of `captures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// A stack down to the thread's first function.
    Ok,
    /// A stack whose outer part is missing.
    Incomplete,
    /// The poll was over, or the thread went on, before it was taken.
    Moved,
    /// The thread did not answer in time.
    Timeout,
    /// The thread is on a stack that is not its own.
    Elsewhere,
    /// It cannot be done here.
    Unavailable,
    /// Too many were asked for at once.
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

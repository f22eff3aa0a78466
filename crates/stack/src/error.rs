use std::fmt;

/// The reason why a capture gave no stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CaptureError {
    /// The thread moved on while it was read, or `is_current` returned false. Another attempt may
    /// succeed.
    Moved,
    /// The thread did not answer in time, because it was given no CPU. Another attempt may succeed.
    Timeout,
    /// The thread runs on a stack that is not its own, such as a coroutine's.
    Elsewhere,
    /// Captures are impossible here, the thread does not get the signal, or it has ended. See
    /// [`capability`](crate::capability) and [`degradation`](crate::degradation).
    Unavailable,
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CaptureError::Moved => "the thread moved on while its stack was read",
            CaptureError::Timeout => "the thread did not answer in time",
            CaptureError::Elsewhere => "the thread runs on a stack that is not its own",
            CaptureError::Unavailable => "the thread's stack cannot be read",
        })
    }
}

impl std::error::Error for CaptureError {}

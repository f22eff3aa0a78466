//! The closed sets of values that labels of metrics have.

use std::fmt;

use pollwatch_stack::{CaptureError, RawStack};

/// The outcome of a stack capture: the label `result` of `pollwatch_captures_total`. `Display` and
/// serde show the label.
///
/// ```
/// use pollwatch::snapshot::CaptureOutcome;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for capture in watchdog.snapshot().watchdog.captures {
///     if capture.outcome == CaptureOutcome::Timeout {
///         println!("{} stacks are missing: {}", capture.count, capture.outcome);
///     }
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CaptureOutcome {
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
    /// All outcomes, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::snapshot::CaptureOutcome;
    ///
    /// assert_eq!(CaptureOutcome::ALL.iter().position(|of| of.as_str() == "timeout"), Some(3));
    /// ```
    pub const ALL: &[CaptureOutcome] = &[
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

    /// Returns the label.
    ///
    /// ```
    /// assert_eq!(pollwatch::snapshot::CaptureOutcome::Timeout.as_str(), "timeout");
    /// ```
    pub fn as_str(self) -> &'static str {
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

/// A stage of reporting: the label `stage` of `pollwatch_reports_lost_total`. The stages do not
/// wait for each other. `Display` and serde show the label.
///
/// ```
/// use pollwatch::snapshot::ReportStage;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let lost = watchdog.snapshot().watchdog.reports_lost_by_stage;
/// let of_log = lost.iter().find(|lost| lost.stage == ReportStage::Log).unwrap();
/// assert_eq!((of_log.stage.as_str(), of_log.count), ("log", 0));
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportStage {
    /// The stage that looks up functions and lines, and adds to the profile.
    Symbols,
    /// The stage that writes log lines.
    Log,
    /// The stage that calls the callbacks of stalls.
    Callback,
}

impl ReportStage {
    /// All stages, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::snapshot::ReportStage;
    ///
    /// assert_eq!(ReportStage::ALL.iter().position(|of| of.as_str() == "callback"), Some(2));
    /// ```
    pub const ALL: &[ReportStage] = &[ReportStage::Symbols, ReportStage::Log, ReportStage::Callback];

    /// Returns the label.
    ///
    /// ```
    /// assert_eq!(pollwatch::snapshot::ReportStage::Log.as_str(), "log");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            ReportStage::Symbols => "symbols",
            ReportStage::Log => "log",
            ReportStage::Callback => "callback",
        }
    }
}

/// What an [`Action`](crate::Action) of an incident does: the label `action` of
/// `pollwatch_incident_actions_total`. `Display` and serde show the label.
///
/// ```
/// use pollwatch::snapshot::{ActionName, ActionResult};
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for action in watchdog.snapshot().watchdog.incident_actions {
///     if action.action == ActionName::WriteThreads && action.result == ActionResult::Failed {
///         println!("{} files were not written", action.count);
///     }
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ActionName {
    /// The action calls a function.
    Call,
    /// The action logs the threads.
    LogThreads,
    /// The action prints the threads to the standard error.
    PrintThreads,
    /// The action writes the threads to a file.
    WriteThreads,
    /// The action aborts the process.
    Abort,
    /// The action ends the process with an exit code.
    Exit,
}

impl ActionName {
    /// All names, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::snapshot::ActionName;
    ///
    /// assert_eq!(ActionName::ALL.iter().position(|of| of.as_str() == "write_threads"), Some(3));
    /// ```
    pub const ALL: &[ActionName] = &[
        ActionName::Call,
        ActionName::LogThreads,
        ActionName::PrintThreads,
        ActionName::WriteThreads,
        ActionName::Abort,
        ActionName::Exit,
    ];

    /// Returns the label.
    ///
    /// ```
    /// assert_eq!(pollwatch::snapshot::ActionName::Exit.as_str(), "exit");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            ActionName::Call => "call",
            ActionName::LogThreads => "log_threads",
            ActionName::PrintThreads => "print_threads",
            ActionName::WriteThreads => "write_threads",
            ActionName::Abort => "abort",
            ActionName::Exit => "exit",
        }
    }
}

/// The result of an action: the label `result` of `pollwatch_incident_actions_total`. `Display` and
/// serde show the label. [`ActionName`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActionResult {
    /// The action was done.
    Done,
    /// The action could not be done, or panicked.
    Failed,
    /// The action has not ended within its time limit. It may still end.
    TimedOut,
    /// The action was not started, because too many earlier ones wait.
    Lost,
    /// The incident was over before the process was ended, or the watchdog was shut down.
    Cancelled,
}

impl ActionResult {
    /// All results, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::snapshot::ActionResult;
    ///
    /// assert_eq!(ActionResult::ALL.iter().position(|of| of.as_str() == "timed_out"), Some(2));
    /// ```
    pub const ALL: &[ActionResult] = &[
        ActionResult::Done,
        ActionResult::Failed,
        ActionResult::TimedOut,
        ActionResult::Lost,
        ActionResult::Cancelled,
    ];

    /// Returns the label.
    ///
    /// ```
    /// assert_eq!(pollwatch::snapshot::ActionResult::TimedOut.as_str(), "timed_out");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            ActionResult::Done => "done",
            ActionResult::Failed => "failed",
            ActionResult::TimedOut => "timed_out",
            ActionResult::Lost => "lost",
            ActionResult::Cancelled => "cancelled",
        }
    }
}

/// The outcome of a request: the class of its status code, or the reason why it has none. It is the
/// label `status` of `pollwatch_route_requests_total`. `Display` and serde show the label.
///
/// ```
/// use pollwatch::snapshot::RequestStatus;
///
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// for route in watchdog.snapshot().routes {
///     let failed = route.requests.iter().filter(|of| of.status == RequestStatus::ServerError);
///     println!("{}: {} failed", route.route, failed.map(|of| of.count).sum::<u64>());
/// }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestStatus {
    /// A status code from 100 to 199.
    Informational,
    /// A status code from 200 to 299.
    Success,
    /// A status code from 300 to 399.
    Redirection,
    /// A status code from 400 to 499.
    ClientError,
    /// A status code from 500 to 599, or one of no class.
    ServerError,
    /// The service returned an error instead of a response.
    Error,
    /// The request was dropped before there was a response: the client disconnected, or a time
    /// limit passed.
    Cancelled,
    /// The service panicked.
    Panicked,
}

impl RequestStatus {
    /// All outcomes, in the order of their declaration.
    ///
    /// ```
    /// use pollwatch::snapshot::RequestStatus;
    ///
    /// assert_eq!(RequestStatus::ALL.iter().position(|of| of.as_str() == "5xx"), Some(4));
    /// ```
    pub const ALL: &[RequestStatus] = &[
        RequestStatus::Informational,
        RequestStatus::Success,
        RequestStatus::Redirection,
        RequestStatus::ClientError,
        RequestStatus::ServerError,
        RequestStatus::Error,
        RequestStatus::Cancelled,
        RequestStatus::Panicked,
    ];

    /// Returns the class of a status code. A code of no class counts as an error of the server.
    #[cfg(feature = "tower")]
    pub(crate) fn of_code(code: u16) -> RequestStatus {
        match code / 100 {
            1 => RequestStatus::Informational,
            2 => RequestStatus::Success,
            3 => RequestStatus::Redirection,
            4 => RequestStatus::ClientError,
            _ => RequestStatus::ServerError,
        }
    }

    /// Returns the label, such as `2xx`.
    ///
    /// ```
    /// assert_eq!(pollwatch::snapshot::RequestStatus::Success.as_str(), "2xx");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            RequestStatus::Informational => "1xx",
            RequestStatus::Success => "2xx",
            RequestStatus::Redirection => "3xx",
            RequestStatus::ClientError => "4xx",
            RequestStatus::ServerError => "5xx",
            RequestStatus::Error => "error",
            RequestStatus::Cancelled => "cancelled",
            RequestStatus::Panicked => "panicked",
        }
    }
}

/// Lets `Display` and serde show the label.
macro_rules! show_label {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )+};
}

show_label!(CaptureOutcome, ReportStage, ActionName, ActionResult, RequestStatus);

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// The counters are indexed by the variants.
    #[test]
    fn all_values_are_in_the_order_of_their_declaration() {
        assert!(CaptureOutcome::ALL.iter().enumerate().all(|(i, value)| *value as usize == i));
        assert!(ReportStage::ALL.iter().enumerate().all(|(i, value)| *value as usize == i));
        assert!(ActionName::ALL.iter().enumerate().all(|(i, value)| *value as usize == i));
        assert!(ActionResult::ALL.iter().enumerate().all(|(i, value)| *value as usize == i));
        assert!(RequestStatus::ALL.iter().enumerate().all(|(i, value)| *value as usize == i));
    }

    #[test]
    #[cfg(feature = "tower")]
    fn a_status_is_a_class() {
        let class = |code| RequestStatus::of_code(code).as_str();
        assert_eq!([100, 204, 304, 404, 599, 999, 0].map(class), ["1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]);
    }
}

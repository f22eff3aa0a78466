//! The crate's error: its kind, a text that names the remedy, and the cause.

use std::fmt;
use std::io;

/// The reason why something could not be started, built or watched. `Display` says what was wrong
/// and what to do about it, and [`kind`](Self::kind) lets a program tell the reasons apart.
///
/// [`source`](std::error::Error::source) is the system's error, if there is one. `{:#}` and `Debug`
/// append it, so that it is also in what a `main` that returns the error prints. Converts into
/// [`std::io::Error`], so that `?` works in functions that return that.
///
/// ```
/// use std::time::Duration;
///
/// use pollwatch::ErrorKind;
///
/// let error = pollwatch::Watchdog::builder().threshold(Duration::ZERO).start().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidSetting);
/// assert!(error.to_string().starts_with("the threshold must be from 100µs to 3600s"));
/// ```
pub struct Error {
    kind: ErrorKind,
    text: String,
    cause: Option<ErrorCause>,
}

enum ErrorCause {
    Io(io::Error),
    #[cfg(feature = "attach")]
    Process(pollwatch_stack::ProcessError),
}

/// The kind of an [`Error`]. `Display` shows it as a phrase, such as `address in use`.
///
/// ```
/// # #[cfg(feature = "server")] {
/// use pollwatch::{ErrorKind, Watchdog};
///
/// let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
/// let started = Watchdog::builder().listen(taken.local_addr().unwrap()).start();
/// let watchdog = started.or_else(|error| match error.kind() {
///     ErrorKind::AddressInUse => Watchdog::builder().listen("127.0.0.1:0").start(),
///     _ => Err(error),
/// })?;
/// # drop(watchdog);
/// # }
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is out of its range, contradicts another one, or is an empty name.
    InvalidSetting,
    /// The address of `listen` is no address, or its host has no address.
    InvalidAddress,
    /// The address of `listen` is in use.
    AddressInUse,
    /// The address of `listen` cannot be bound for another reason: it belongs to no interface of
    /// this machine, or the port is not permitted.
    CannotListen,
    /// One of pollwatch's threads could not be started.
    CannotStartThread,
    /// Another runtime of this name is watched.
    NameInUse,
    /// The watchdog distinguishes no further names of runtimes.
    TooManyNames,
    /// The runtime is watched already.
    AlreadyWatched,
    /// The runtime is shut down.
    RuntimeShutDown,
    /// tokio's builder has thread callbacks that would be lost.
    CallbacksWouldBeLost,
    /// tokio could not build the runtime, or that of pollwatch's server.
    CannotBuildRuntime,
    /// Another process cannot be watched: there is none of this id, or it may not be read.
    /// `Error::process_error` says more.
    Process,
}

/// Shows the kind as one phrase, such as `address in use`.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidSetting => "invalid setting",
            ErrorKind::InvalidAddress => "invalid address",
            ErrorKind::AddressInUse => "address in use",
            ErrorKind::CannotListen => "cannot listen",
            ErrorKind::CannotStartThread => "cannot start a thread",
            ErrorKind::NameInUse => "name in use",
            ErrorKind::TooManyNames => "too many names",
            ErrorKind::AlreadyWatched => "already watched",
            ErrorKind::RuntimeShutDown => "runtime shut down",
            ErrorKind::CallbacksWouldBeLost => "callbacks would be lost",
            ErrorKind::CannotBuildRuntime => "cannot build the runtime",
            ErrorKind::Process => "process cannot be watched",
        })
    }
}

/// The advice where the address of a server cannot be read. The crate of pollwatch's macros and its
/// program have it as well.
#[cfg(any(feature = "macros", feature = "server"))]
pub(crate) const ADDRESS_ADVICE: &str = "write an IP address and a port, such as 127.0.0.1:9464";

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into(), cause: None }
    }

    /// A setting that was refused.
    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidSetting, text)
    }

    pub(crate) fn with_io(kind: ErrorKind, text: impl Into<String>, source: io::Error) -> Error {
        Error { kind, text: text.into(), cause: Some(ErrorCause::Io(source)) }
    }

    pub(crate) fn thread(source: io::Error) -> Error {
        let text = "cannot start one of pollwatch's threads: check the limits of threads and memory for this process";
        Error::with_io(ErrorKind::CannotStartThread, text, source)
    }

    /// The error of tokio's `build`.
    pub(crate) fn build(source: io::Error) -> Error {
        let text = "tokio cannot build the runtime: check the limits of threads and open files for this process";
        Error::with_io(ErrorKind::CannotBuildRuntime, text, source)
    }

    /// The error of tokio's `build`, for the runtime of the server.
    #[cfg(feature = "server")]
    pub(crate) fn build_server(source: io::Error) -> Error {
        let text = "cannot start pollwatch's server: check the limit of open files for this process";
        Error::with_io(ErrorKind::CannotBuildRuntime, text, source)
    }

    /// Returns the kind of the error.
    ///
    /// ```
    /// use pollwatch::ErrorKind;
    ///
    /// let error = pollwatch::Watchdog::builder().max_sites(0).start().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns why another process cannot be watched, with [`ErrorKind::Process`].
    ///
    /// ```
    /// # // As the module `attach`.
    /// # #[cfg(all(
    /// #     target_os = "linux",
    /// #     target_env = "gnu",
    /// #     any(target_arch = "x86_64", target_arch = "aarch64")
    /// # ))] {
    /// use pollwatch::ProcessError;
    ///
    /// let error = pollwatch::attach::Attach::new(u32::MAX).start().unwrap_err();
    /// assert!(matches!(error.process_error(), Some(ProcessError::NotFound { .. })));
    /// # }
    /// ```
    #[cfg(feature = "attach")]
    pub fn process_error(&self) -> Option<&pollwatch_stack::ProcessError> {
        match &self.cause {
            Some(ErrorCause::Process(error)) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let mut source = std::error::Error::source(self).filter(|_| f.alternate());
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Prints the text and its sources, for the people who read what `main` or `unwrap` prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Some(ErrorCause::Io(source)) => Some(source),
            // Its text is that of this error.
            #[cfg(feature = "attach")]
            Some(ErrorCause::Process(error)) => error.source(),
            None => None,
        }
    }
}

#[cfg(feature = "attach")]
impl From<pollwatch_stack::ProcessError> for Error {
    fn from(error: pollwatch_stack::ProcessError) -> Error {
        Error { kind: ErrorKind::Process, text: error.to_string(), cause: Some(ErrorCause::Process(error)) }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match (&error.cause, error.kind) {
            (Some(ErrorCause::Io(source)), _) => source.kind(),
            #[cfg(feature = "attach")]
            (Some(ErrorCause::Process(error)), _) => kind_of_process_error(error),
            (None, ErrorKind::NameInUse | ErrorKind::AlreadyWatched) => io::ErrorKind::AlreadyExists,
            (None, _) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(feature = "attach")]
fn kind_of_process_error(error: &pollwatch_stack::ProcessError) -> io::ErrorKind {
    use pollwatch_stack::ProcessError;
    match error {
        ProcessError::NotFound { .. } | ProcessError::Exited { .. } | ProcessError::Zombie { .. } => {
            io::ErrorKind::NotFound
        }
        ProcessError::Denied { .. } => io::ErrorKind::PermissionDenied,
        ProcessError::Io { source, .. } => source.kind(),
        ProcessError::KernelThread { .. } | ProcessError::OtherArchitecture { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Unsupported,
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_systems_reason_is_in_the_long_text_and_in_that_of_debug() {
        let error = Error::thread(io::Error::other("no memory"));
        assert!(!error.to_string().contains("no memory"), "{error}");
        let long = format!("{error}: no memory");
        assert_eq!([format!("{error:#}"), format!("{error:?}")], [long.clone(), long]);
        let without = Error::invalid("the setting is wrong");
        assert_eq!([format!("{without:#}"), format!("{without:?}")], ["the setting is wrong"; 2]);
    }

    #[test]
    fn an_io_error_has_the_kind_that_a_program_expects() {
        let kind = |error: Error| io::Error::from(error).kind();
        assert_eq!(kind(Error::build(io::ErrorKind::OutOfMemory.into())), io::ErrorKind::OutOfMemory);
        assert_eq!(kind(Error::new(ErrorKind::NameInUse, "")), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(Error::new(ErrorKind::AlreadyWatched, "")), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(Error::invalid("")), io::ErrorKind::InvalidInput);
    }

    #[test]
    #[cfg(feature = "attach")]
    fn an_io_error_of_a_process_has_the_kind_that_a_program_expects() {
        use pollwatch_stack::ProcessError;
        let kind = |error: ProcessError| io::Error::from(Error::from(error)).kind();
        let pid = pollwatch_stack::Pid::current();
        assert_eq!(kind(ProcessError::NotFound { pid }), io::ErrorKind::NotFound);
        let source = io::ErrorKind::TimedOut.into();
        assert_eq!(kind(ProcessError::Io { pid, source }), io::ErrorKind::TimedOut);
        assert_eq!(kind(ProcessError::NoProcfs), io::ErrorKind::Unsupported);
    }
}

//! The crate's error: opaque, with predicates.

use std::fmt;

/// The reason why a watchdog could not be started, or a runtime could not be watched. `Display`
/// says what was wrong and what to do about it.
///
/// Converts into [`std::io::Error`].
///
/// ```
/// use std::time::Duration;
///
/// let error = pollwatch::Watchdog::builder().threshold(Duration::ZERO).start().unwrap_err();
/// assert!(error.is_invalid());
/// assert!(error.to_string().starts_with("the threshold must be from 100 µs to 1 hour"));
/// ```
#[derive(Debug)]
pub struct Error(ErrorKind);

#[derive(Debug)]
enum ErrorKind {
    Invalid(String),
    #[cfg(feature = "server")]
    Listen {
        addr: std::net::SocketAddr,
        source: std::io::Error,
    },
    Thread(std::io::Error),
}

impl Error {
    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error(ErrorKind::Invalid(text.into()))
    }

    #[cfg(feature = "server")]
    pub(crate) fn listen(addr: std::net::SocketAddr, source: std::io::Error) -> Error {
        Error(ErrorKind::Listen { addr, source })
    }

    pub(crate) fn thread(source: std::io::Error) -> Error {
        Error(ErrorKind::Thread(source))
    }

    /// Returns whether a setting, a runtime's name or a runtime was refused.
    ///
    /// ```
    /// let error = pollwatch::Watchdog::builder().max_sites(0).start().unwrap_err();
    /// assert!(error.is_invalid());
    /// ```
    pub fn is_invalid(&self) -> bool {
        matches!(self.0, ErrorKind::Invalid(_))
    }

    /// Returns whether the address of [`listen`](crate::WatchdogBuilder#method.listen) could not be
    /// bound: it is in use, or not allowed. [`source`](std::error::Error::source) is the system's
    /// error. Always `false` without the feature `server`.
    ///
    /// ```
    /// # #[cfg(feature = "server")] {
    /// let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    /// let builder = pollwatch::Watchdog::builder().listen(other.local_addr().unwrap());
    /// assert!(builder.start().unwrap_err().is_listen());
    /// # }
    /// ```
    pub fn is_listen(&self) -> bool {
        #[cfg(feature = "server")]
        return matches!(self.0, ErrorKind::Listen { .. });
        #[cfg(not(feature = "server"))]
        false
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ErrorKind::Invalid(text) => f.write_str(text),
            #[cfg(feature = "server")]
            ErrorKind::Listen { addr, .. } => {
                write!(f, "cannot listen on {addr}: use another address or port (port 0 lets the system choose)")
            }
            ErrorKind::Thread(_) => f.write_str(
                "cannot start one of pollwatch's threads: check the limits of threads and memory for this process",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            ErrorKind::Invalid(_) => None,
            #[cfg(feature = "server")]
            ErrorKind::Listen { source, .. } => Some(source),
            ErrorKind::Thread(source) => Some(source),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error.0 {
            ErrorKind::Invalid(_) => std::io::ErrorKind::InvalidInput,
            #[cfg(feature = "server")]
            ErrorKind::Listen { source, .. } => source.kind(),
            ErrorKind::Thread(source) => source.kind(),
        };
        std::io::Error::new(kind, error)
    }
}

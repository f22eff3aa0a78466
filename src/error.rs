//! The crate's error: opaque, with predicates.

use std::fmt;

/// Why a watchdog could not be started, or a runtime not be watched. The text names the remedy.
#[derive(Debug)]
pub struct Error(Kind);

#[derive(Debug)]
enum Kind {
    Invalid(String),
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    Listen(std::net::SocketAddr, std::io::Error),
    Thread(std::io::Error),
}

impl Error {
    pub(crate) fn invalid(text: impl Into<String>) -> Error {
        Error(Kind::Invalid(text.into()))
    }

    #[cfg(feature = "server")]
    pub(crate) fn listen(addr: std::net::SocketAddr, source: std::io::Error) -> Error {
        Error(Kind::Listen(addr, source))
    }

    pub(crate) fn thread(source: std::io::Error) -> Error {
        Error(Kind::Thread(source))
    }

    /// A setting or a runtime's name was refused.
    pub fn is_invalid(&self) -> bool {
        matches!(self.0, Kind::Invalid(_))
    }

    /// The address of [`listen`](crate::WatchdogBuilder::listen) could not be bound: in use, or not allowed.
    pub fn is_listen(&self) -> bool {
        matches!(self.0, Kind::Listen(..))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Invalid(text) => f.write_str(text),
            Kind::Listen(addr, _) => {
                write!(f, "cannot listen on {addr}: take another address or port (port 0 lets the system choose)")
            }
            Kind::Thread(_) => f.write_str("cannot start a thread of pollwatch's own"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::Invalid(_) => None,
            Kind::Listen(_, source) | Kind::Thread(source) => Some(source),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error.0 {
            Kind::Invalid(_) => std::io::ErrorKind::InvalidInput,
            Kind::Listen(_, source) | Kind::Thread(source) => source.kind(),
        };
        std::io::Error::new(kind, error)
    }
}

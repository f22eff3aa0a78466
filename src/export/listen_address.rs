//! The address of the server, as the user gives it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::{ADDRESS_ADVICE, Error, ErrorKind};

/// What the user has given to `listen`: one address, or several of which one is bound.
#[derive(Debug)]
pub(crate) struct ListenAddress {
    /// The text of an error, such as `"localhost:9464"`.
    shown: String,
    resolved: io::Result<Vec<SocketAddr>>,
}

impl ListenAddress {
    /// Parses the address, and looks a name up. An error is kept for [`bind`](Self::bind).
    pub(crate) fn new(address: impl ToSocketAddrs + fmt::Debug) -> ListenAddress {
        let resolved = address.to_socket_addrs().map(Iterator::collect);
        ListenAddress { shown: format!("{address:?}"), resolved }
    }

    /// Returns what `bind` returns for the first address for which it succeeds. If there is none,
    /// the error is that of an address in use rather than of another one: it can be remedied.
    pub(crate) fn bind<B>(&self, bind: impl Fn(SocketAddr) -> io::Result<B>) -> Result<B, Error> {
        let invalid = |source| {
            let text = format!(
                "cannot listen on {}: {ADDRESS_ADVICE} (or the name of a host that this machine can look up, and a port)",
                self.shown
            );
            Error::with_io(ErrorKind::InvalidAddress, text, source)
        };
        let addresses = self.resolved.as_ref().map_err(|error| invalid(copy(error)))?;
        let mut failed: Option<BindFailure> = None;
        for &address in addresses {
            match bind(address) {
                Ok(bound) => return Ok(bound),
                Err(_) if failed.as_ref().is_some_and(BindFailure::is_in_use) => {}
                Err(source) => failed = Some(BindFailure { address, source }),
            }
        }
        let Some(failed) = failed else { return Err(invalid(io::ErrorKind::AddrNotAvailable.into())) };
        Err(self.refused(failed.address, failed.source))
    }

    /// Returns the error for an address that the system has refused.
    pub(crate) fn refused(&self, address: SocketAddr, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
            _ => ErrorKind::CannotListen,
        };
        let text = format!(
            "cannot listen on {}: use another address or port (port 0 lets the system choose)",
            self.name_of(address)
        );
        Error::with_io(kind, text, source)
    }

    /// Returns the address as the user wrote it, or with what it was found by.
    fn name_of(&self, address: SocketAddr) -> String {
        match self.shown.trim_matches('"') == address.to_string() {
            true => self.shown.clone(),
            false => format!("{address} (of {})", self.shown),
        }
    }
}

/// An address that could not be bound.
struct BindFailure {
    address: SocketAddr,
    source: io::Error,
}

impl BindFailure {
    fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Returns an error of the same kind and text.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn error(address: impl ToSocketAddrs + fmt::Debug, failure: Option<io::ErrorKind>) -> (ErrorKind, String) {
        let bind = |_| failure.map_or(Ok(()), |kind| Err(kind.into()));
        let error = ListenAddress::new(address).bind(bind).unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn the_error_names_the_address_as_it_was_written() {
        for address in ["9464", "127.0.0.1", "127.0.0.1:99999", "", "[::1", "127.0.0.1:port"] {
            let (kind, text) = error(address, None);
            assert_eq!(kind, ErrorKind::InvalidAddress, "{text}");
            assert!(text.starts_with(&format!("cannot listen on {address:?}: {ADDRESS_ADVICE} (or")), "{text}");
        }
        assert_eq!(error(&[][..], None).0, ErrorKind::InvalidAddress);
        let (kind, text) = error("127.0.0.1:80", Some(io::ErrorKind::AddrInUse));
        assert!(kind == ErrorKind::AddressInUse && text.contains("\"127.0.0.1:80\""), "{text}");
        assert_eq!(error(("127.0.0.1", 80), Some(io::ErrorKind::PermissionDenied)).0, ErrorKind::CannotListen);
    }

    /// `localhost` may have an address of IPv6 that this machine does not have.
    #[test]
    fn of_several_failures_an_address_in_use_is_reported() {
        let [first, second] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        for in_use in [first, second] {
            let bind = |address| -> io::Result<()> {
                Err(if address == in_use { io::ErrorKind::AddrInUse } else { io::ErrorKind::AddrNotAvailable }.into())
            };
            let error = ListenAddress::new(&[first, second][..]).bind(bind).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddressInUse);
            assert!(error.to_string().starts_with(&format!("cannot listen on {in_use} (of [")), "{error}");
        }
        let bind = |_| -> io::Result<()> { Err(io::ErrorKind::AddrNotAvailable.into()) };
        let error = ListenAddress::new(&[first, second][..]).bind(bind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotListen);
    }

    #[test]
    fn the_first_address_that_can_be_bound_is_used() {
        let [first, second, third] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let bind = |address| if address == first { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(address) };
        assert_eq!(ListenAddress::new(&[first, second, third][..]).bind(bind).unwrap(), second);
    }
}

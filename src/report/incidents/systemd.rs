//! Notifications for systemd's watchdog, by the protocol of
//! [`sd_notify`](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html): a
//! datagram with `WATCHDOG=1`, as long as the service is healthy.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use super::Incidents;
use super::source::IncidentSource;
use crate::model::event::Notice;
use crate::model::incident::HealthProblem;
use crate::report::queues::ReportQueues;
use crate::util::call_user;

/// The variables that systemd sets for a service with `WatchdogSec=`.
#[derive(Debug, Default)]
struct SystemdEnvironment {
    notify_socket: Option<OsString>,
    watchdog_usec: Option<OsString>,
    watchdog_pid: Option<OsString>,
}

impl SystemdEnvironment {
    fn read() -> SystemdEnvironment {
        SystemdEnvironment {
            notify_socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: std::env::var_os("WATCHDOG_USEC"),
            watchdog_pid: std::env::var_os("WATCHDOG_PID"),
        }
    }

    /// Returns the address of the socket, and the interval of notifications: half of the time after
    /// which systemd acts. The error says why there is nothing to notify.
    fn parse(&self, pid: u32) -> Result<(&OsStr, Duration), String> {
        let is_set = |variable: &&OsString| !variable.is_empty();
        let socket = self.notify_socket.as_ref().filter(is_set).ok_or(
            "NOTIFY_SOCKET is not set. Either the program was not started by systemd, or its service lacks WatchdogSec= \
             or NotifyAccess=",
        )?;
        let usec = self.watchdog_usec.as_ref().filter(is_set);
        let usec = usec.ok_or("WATCHDOG_USEC is not set: the service has no WatchdogSec=")?;
        let usec: u64 = usec
            .to_str()
            .and_then(|usec| usec.parse().ok())
            .filter(|usec| *usec > 0)
            .ok_or_else(|| format!("WATCHDOG_USEC is {usec:?}, which is no number of microseconds"))?;
        if let Some(expected) = self.watchdog_pid.as_ref().filter(is_set)
            && expected.to_str() != Some(&pid.to_string())
        {
            return Err(format!("WATCHDOG_PID is {expected:?}, which is not this process ({pid})"));
        }
        Ok((socket, Duration::from_micros(usec) / 2))
    }
}

/// Notifies systemd.
pub(super) struct SystemdNotifier {
    socket: imp::NotifySocket,
    interval: Duration,
}

impl SystemdNotifier {
    /// Returns a notifier for the service that this process is. The error says why there is none.
    pub(super) fn for_this_process() -> Result<SystemdNotifier, String> {
        let environment = SystemdEnvironment::read();
        let (address, interval) = environment.parse(std::process::id())?;
        let socket =
            imp::NotifySocket::new(address).map_err(|error| format!("NOTIFY_SOCKET is {address:?}: {error}"))?;
        Ok(SystemdNotifier { socket, interval: interval.max(Duration::from_millis(1)) })
    }

    /// Runs until the incidents are stopped.
    pub(super) fn run(self, incidents: &Incidents, source: &Arc<dyn IncidentSource>, queues: &ReportQueues) {
        let (mut has_failed, mut was_healthy) = (false, true);
        loop {
            let mut health = None;
            // After a panic, which is a defect of pollwatch, the next notification is tried again.
            call_user(|| health = Some(source.health()));
            let is_healthy = health.as_ref().is_some_and(Vec::is_empty);
            let has_changed = std::mem::replace(&mut was_healthy, is_healthy) != is_healthy;
            if let Some(problem) = health.iter().flatten().next().filter(|_| has_changed) {
                let HealthProblem { kind, reason, .. } = problem;
                queues.push_notice(Notice::Degraded(format!(
                    "systemd is not notified while this lasts ({kind}), and ends the service after its WatchdogSec=: {reason}"
                )));
            }
            if is_healthy
                && let Err(error) = self.socket.send(b"WATCHDOG=1")
                && !std::mem::replace(&mut has_failed, true)
            {
                queues.push_notice(Notice::Degraded(format!(
                    "systemd could not be notified that the service is healthy ({error}): it will act as if it were not"
                )));
            }
            if !incidents.systemd_signal.sleep(Some(self.interval)) {
                return;
            }
        }
    }
}

#[cfg(unix)]
mod imp {
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    pub(super) struct NotifySocket {
        socket: UnixDatagram,
        address: SocketAddr,
    }

    impl NotifySocket {
        /// Takes the path of a socket, or on Linux `@` and an abstract name.
        pub(super) fn new(address: &OsStr) -> io::Result<NotifySocket> {
            let address = match address.as_bytes() {
                [b'@', name @ ..] => abstract_address(name)?,
                [b'/', ..] => SocketAddr::from_pathname(address)?,
                _ => return Err(io::Error::other("neither a path nor an abstract name (@name)")),
            };
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not block this thread.
            socket.set_nonblocking(true)?;
            Ok(NotifySocket { socket, address })
        }

        pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
            self.socket.send_to_addr(message, &self.address).map(drop)
        }
    }

    #[cfg(target_os = "linux")]
    fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
        use std::os::linux::net::SocketAddrExt;
        SocketAddr::from_abstract_name(name)
    }

    #[cfg(not(target_os = "linux"))]
    fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
        Err(io::Error::other("abstract names are only on Linux"))
    }
}

#[cfg(not(unix))]
mod imp {
    use std::ffi::OsStr;
    use std::io;

    pub(super) struct NotifySocket;

    impl NotifySocket {
        pub(super) fn new(_address: &OsStr) -> io::Result<NotifySocket> {
            Err(io::Error::other("there is no systemd on this system"))
        }

        pub(super) fn send(&self, _message: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn parse(socket: &str, usec: &str, pid: &str) -> Result<(String, Duration), String> {
        let some = |text: &str| Some(OsString::from(text));
        let environment =
            SystemdEnvironment { notify_socket: some(socket), watchdog_usec: some(usec), watchdog_pid: some(pid) };
        environment.parse(42).map(|(socket, interval)| (socket.to_str().unwrap().to_owned(), interval))
    }

    #[test]
    fn systemd_is_notified_twice_in_its_time() {
        let expected = Ok(("/run/notify".into(), Duration::from_secs(15)));
        assert_eq!(parse("/run/notify", "30000000", "42"), expected);
        assert_eq!(parse("/run/notify", "30000000", ""), expected);
        assert_eq!(parse("@name", "1", "42"), Ok(("@name".into(), Duration::from_nanos(500))));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |socket, usec, pid| parse(socket, usec, pid).unwrap_err();
        assert!(SystemdEnvironment::default().parse(42).unwrap_err().starts_with("NOTIFY_SOCKET is not set"));
        assert!(error("", "1", "42").starts_with("NOTIFY_SOCKET is not set"));
        assert!(error("/run/notify", "", "42").starts_with("WATCHDOG_USEC is not set"));
        for usec in ["0", "-1", "1s", "99999999999999999999"] {
            assert!(error("/run/notify", usec, "42").contains("no number of microseconds"));
        }
        assert!(error("/run/notify", "1", "41").contains("not this process (42)"));
    }

    #[cfg(unix)]
    #[test]
    fn an_address_of_another_kind_is_an_error() {
        for address in ["vsock:2:1234", "relative/path"] {
            let error = imp::NotifySocket::new(OsStr::new(address)).err().unwrap();
            assert!(error.to_string().contains("neither a path"), "{error}");
        }
    }
}

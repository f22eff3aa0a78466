//! Notifications for systemd, at a socket as systemd has it.

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pollwatch::Watchdog;

use super::fixture::*;
use test_support::*;

/// Twice the interval of notifications.
const WATCHDOG_USEC: Duration = Duration::from_millis(200);

/// The program of the child: blocks and continues as its standard input says.
fn serve() {
    let blockable = Blockable::new(Watchdog::builder().unhealthy_after(AFTER).systemd_watchdog());
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    while let Some(line) = lines.next() {
        assert_eq!(line, "block");
        let gate = Gate::new();
        blockable.block(&gate);
        let is_ongoing = || blockable.watchdog.incidents().iter().any(|i| i.phase == pollwatch::Phase::Ongoing);
        wait_until("it is an incident", is_ongoing);
        println!("blocked");
        lines.next();
        gate.open();
        wait_until("it is over", || !is_ongoing());
    }
}

struct Service {
    child: Child,
    socket: UnixDatagram,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(name: &str, socket: UnixDatagram, address: &str, set: impl FnOnce(&mut Command)) -> Service {
        let mut command = rerun(name);
        command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", WATCHDOG_USEC.as_micros().to_string());
        set(&mut command);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Service { child: child.expect("the child starts"), socket }
    }

    /// Waits for a notification.
    fn receive(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 64];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn command(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{line}").expect("the child lives");
    }

    fn wait_for_line(&mut self, expected: &str) {
        // The harness prints the name of the test in front of the first line.
        let mut lines = BufReader::new(self.child.stdout.as_mut().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with(expected)), "{expected}");
    }
}

fn is_notified_while_healthy(name: &str, socket: UnixDatagram, address: &str) {
    let mut service = Service::start(name, socket, address, |_| {});
    for _ in 0..3 {
        assert_eq!(service.receive(TIMEOUT).as_deref(), Some("WATCHDOG=1"));
    }
    service.command("block");
    service.wait_for_line("blocked");
    // What was sent before the incident is still in the socket.
    while service.receive(Duration::from_millis(1)).is_some() {}
    wait_until("nothing is sent during the incident", || service.receive(5 * WATCHDOG_USEC).is_none());
    service.command("continue");
    assert_eq!(service.receive(TIMEOUT).as_deref(), Some("WATCHDOG=1"), "again after it");
}

#[test]
fn a_socket_at_a_path_is_notified_while_healthy() {
    if is_child() {
        return serve();
    }
    let path = std::env::temp_dir().join(format!("pollwatch-notify-{}", std::process::id()));
    let socket = UnixDatagram::bind(&path).expect("the path is free");
    is_notified_while_healthy("systemd::a_socket_at_a_path_is_notified_while_healthy", socket, path.to_str().unwrap());
    let _ = std::fs::remove_file(path);
}

#[test]
fn an_abstract_socket_is_notified_while_healthy() {
    if is_child() {
        return serve();
    }
    let name = format!("pollwatch-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).expect("the name is free");
    is_notified_while_healthy("systemd::an_abstract_socket_is_notified_while_healthy", socket, &format!("@{name}"));
}

/// The variables of another process, and none.
#[test]
fn nothing_is_sent_for_another_process_or_without_a_socket() {
    if is_child() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
        let _watchdog = Watchdog::builder().systemd_watchdog().start().expect("it starts all the same");
        println!("started");
        // The parent closes it.
        let _ = std::io::stdin().lines().next();
        return;
    }
    let name = "systemd::nothing_is_sent_for_another_process_or_without_a_socket";
    type SetVariable = fn(&mut Command);
    let set: [(SetVariable, &str); 3] = [
        (|command| _ = command.env("WATCHDOG_PID", "1"), "WATCHDOG_PID is \"1\", which is not this process"),
        (|command| _ = command.env_remove("NOTIFY_SOCKET"), "NOTIFY_SOCKET is not set"),
        (|command| _ = command.env("WATCHDOG_USEC", "soon"), "WATCHDOG_USEC is \"soon\""),
    ];
    for (number, (set, expected)) in set.into_iter().enumerate() {
        let path = std::env::temp_dir().join(format!("pollwatch-notify-{}-{number}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("the path is free");
        let mut service = Service::start(name, socket, path.to_str().unwrap(), set);
        service.wait_for_line("started");
        assert_eq!(service.receive(3 * WATCHDOG_USEC), None);
        drop(service.child.stdin.take());
        let _ = std::fs::remove_file(path);
        assert!(service.child.wait().unwrap().success());
        let mut log = String::new();
        std::io::Read::read_to_string(service.child.stderr.as_mut().unwrap(), &mut log).unwrap();
        assert!(log.contains("systemd's watchdog is not notified") && log.contains(expected), "{log}");
    }
}

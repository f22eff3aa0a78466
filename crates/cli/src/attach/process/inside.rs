//! Processes that have the library pollwatch inside, and the addresses of its server there.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Pid;

/// The names of the library's threads: the watchdog's, and the HTTP server's.
const WATCHDOG: &str = "pollwatch";
const SERVER: &str = "pollwatch-http";

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The readings until the server's thread is found waiting for requests.
const TRIES: usize = 5;

/// What a process has of the library pollwatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Nothing,
    /// A watchdog, and no HTTP server, or one whose address is not known.
    Watchdog,
    Server(SocketAddr),
}

/// Returns what a process has of the library. It is recognised by the names of its threads.
pub(crate) fn inside(pid: Pid) -> Inside {
    let threads = threads(pid);
    // The main thread has the name of the program, which may be `pollwatch` too.
    let is_watchdog = |(thread, name): &(Pid, String)| *thread != pid && name == WATCHDOG;
    if !threads.iter().any(is_watchdog) {
        return Inside::Nothing;
    }
    let server = threads.iter().find(|(_, name)| name == SERVER);
    match server.and_then(|(thread, _)| (0..TRIES).find_map(|_| address_of(pid, *thread))) {
        Some(address) => Inside::Server(address),
        None => Inside::Watchdog,
    }
}

/// Returns the threads of a process with their names.
fn threads(pid: Pid) -> Vec<(Pid, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let tids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid));
    let named = tids.filter_map(|tid| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
        Some((tid, name.trim_end().to_owned()))
    });
    named.collect()
}

/// Returns the address of the socket that a thread waits on for connections. The thread is in
/// `epoll_wait`. Its epoll instance lists the sockets that it waits on, so that no request has to
/// be made to the service's own sockets.
fn address_of(pid: Pid, thread: Pid) -> Option<SocketAddr> {
    let syscall = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    let epoll = parse_epoll(&syscall)?;
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{epoll}")).ok()?;
    let inodes: HashSet<u64> = parse_targets(&info).filter_map(|fd| socket_inode(pid, fd)).collect();
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    tables.iter().flat_map(|table| parse_listening(table)).find(|(_, inode)| inodes.contains(inode)).map(reachable)
}

/// Returns the descriptor of the epoll instance that a thread waits on, from its `syscall` file.
fn parse_epoll(syscall: &str) -> Option<u64> {
    let mut fields = syscall.split_ascii_whitespace();
    let number: u64 = fields.next()?.parse().ok()?;
    // epoll_wait, epoll_pwait and epoll_pwait2.
    let epoll: &[u64] = if cfg!(target_arch = "x86_64") { &[232, 281, 441] } else { &[22, 441] };
    let first = fields.next()?.strip_prefix("0x")?;
    epoll.contains(&number).then(|| u64::from_str_radix(first, 16).ok()).flatten()
}

/// Returns the descriptors that an epoll instance waits on, from its `fdinfo` file.
fn parse_targets(info: &str) -> impl Iterator<Item = u64> {
    let targets = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    targets.filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok())
}

fn socket_inode(pid: Pid, fd: u64) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns the listening sockets of a table of the kernel (`/proc/net/tcp` or `tcp6`), with their
/// inodes.
fn parse_listening(table: &str) -> impl Iterator<Item = (SocketAddr, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let is_listening = *fields.get(3)? == LISTENING;
        let address = parse_address(fields.get(1)?).filter(|_| is_listening)?;
        Some((address, fields.get(9)?.parse().ok()?))
    })
}

/// Parses an address such as `0100007F:24F8`. The kernel prints the words of the address as numbers
/// of this machine's byte order.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| Some(u32::from_str_radix(ip.get(8 * i..8 * i + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (i, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(i)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Returns the address that a client on the same machine uses.
fn reachable((address, _): (SocketAddr, u64)) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_sockets_of_the_kernels_tables_are_parsed() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:24F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
                     1: 0100007F:24F8 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        let parsed: Vec<_> = parse_listening(table).collect();
        assert_eq!(parsed, [("127.0.0.1:9464".parse().unwrap(), 4711)]);
        let loopback = parse_address("00000000000000000000000001000000:0050").unwrap();
        assert_eq!(loopback, "[::1]:80".parse().unwrap());
        let any = parse_address("00000000000000000000000000000000:0050").unwrap();
        assert_eq!(reachable((any, 0)), "[::1]:80".parse().unwrap());
        for wrong in ["", "0100007F", "0100007F:", "zz00007F:0050", "010000:0050"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_sockets_of_an_epoll_instance_are_parsed() {
        let epoll_pwait = if cfg!(target_arch = "x86_64") { 281 } else { 22 };
        assert_eq!(parse_epoll(&format!("{epoll_pwait} 0x1f 0x7f 0x400 0x1 0x0 0x8 0x7f 0x7f")), Some(31));
        for other in ["202 0x7f 0x80", "running", "-1 0x7f 0x7f", ""] {
            assert_eq!(parse_epoll(other), None, "{other}");
        }
        let info =
            "pos:\t0\nflags:\t02000002\nmnt_id:\t16\ntfd:       12 events: 80002019 data: 1 pos:0 ino:f sdev:9\n";
        assert_eq!(parse_targets(info).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn a_process_with_pollwatch_inside_is_recognised() {
        let own = Pid(std::process::id());
        let watchdog = pollwatch::Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
        let address = watchdog.local_addr().unwrap();
        // Its threads may not have their names yet, or not wait for requests.
        let found = (0..4000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            Some(inside(own)).filter(|found| matches!(found, Inside::Server(_)))
        });
        assert_eq!(found, Some(Inside::Server(address)));
        assert_eq!(inside(Pid(1)), Inside::Nothing);
    }
}

//! The kernel's view of this process' threads: readers of files below `/proc/self/task`.
//!
//! Every function returns `None` elsewhere than on Linux. A call opens, reads and closes one file,
//! which takes some microseconds.

use std::fs;
use std::time::Duration;

use crate::{Address, Tid};

/// The state of a thread in the kernel: the content of `/proc/self/task/<tid>/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallState {
    /// The thread runs, or is ready to run.
    Running,
    /// The thread waits in the kernel.
    Waiting {
        /// The system call that it waits in. `None` for another wait, such as a page fault.
        call: Option<SyscallEntry>,
        /// Its stack pointer when it entered the kernel.
        sp: Address,
        /// Its instruction pointer when it entered the kernel.
        ip: Address,
    },
}

/// A system call that a thread has made and that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyscallEntry {
    /// The kernel's number of the call (`libc::SYS_*`).
    pub number: i64,
    /// The first argument, which is a file descriptor for most calls that have one.
    pub first_argument: u64,
}

/// Returns the state of a thread; `None` when it has ended, or where the file cannot be read.
///
/// ```
/// use pollwatch_stack::procfs::{self, SyscallState};
/// use pollwatch_stack::Tid;
///
/// let own = Tid::current();
/// let reader = std::thread::spawn(move || own.and_then(procfs::syscall)).join().unwrap();
/// if let Some(state) = reader {
///     // This thread waits for the other one, or has just been woken.
///     assert!(matches!(state, SyscallState::Waiting { .. } | SyscallState::Running));
/// }
/// ```
pub fn syscall(tid: Tid) -> Option<SyscallState> {
    parse_syscall(&read(tid, "syscall")?)
}

fn parse_syscall(line: &str) -> Option<SyscallState> {
    let line = line.trim();
    if line == "running" {
        return Some(SyscallState::Running);
    }
    let mut words = line.split(' ');
    let number: i64 = words.next()?.parse().ok()?;
    let rest: Vec<u64> =
        words.map(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16)).collect::<Result<_, _>>().ok()?;
    let (call, sp, ip) = match (number, &rest[..]) {
        (0.., &[first_argument, .., sp, ip]) => (Some(SyscallEntry { number, first_argument }), sp, ip),
        (_, &[sp, ip]) => (None, sp, ip),
        _ => return None,
    };
    Some(SyscallState::Waiting { call, sp: Address::new(sp), ip: Address::new(ip) })
}

/// The time that a thread has been on a CPU, and how often it was given one.
///
/// Two readings differ if the thread has run in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunCount {
    /// The time on a CPU.
    pub on_cpu: Duration,
    /// The number of times that the thread was given a CPU.
    pub times: u64,
}

/// Returns the time and the number of times that a thread has been on a CPU (`schedstat`); `None`
/// when it has ended, or where the kernel does not count them.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// // A thread that is reading has run since its reading before.
/// let own = Tid::current();
/// if let (Some(before), Some(now)) = (own.and_then(procfs::ran), own.and_then(procfs::ran)) {
///     assert!(now.on_cpu >= before.on_cpu);
/// }
/// ```
pub fn ran(tid: Tid) -> Option<RunCount> {
    let line = read(tid, "schedstat")?;
    let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
    let on_cpu = Duration::from_nanos(words.next()?.ok()?);
    let times = words.nth(1)?.ok()?;
    (times > 0).then_some(RunCount { on_cpu, times })
}

/// Returns how long a thread was ready to run without a CPU, over its whole life (`schedstat`).
///
/// The kernel adds a wait when the thread gets its CPU, not before.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// if let Some(delay) = Tid::current().and_then(procfs::run_delay) {
///     println!("this thread has waited {delay:?} for a CPU");
/// }
/// ```
pub fn run_delay(tid: Tid) -> Option<Duration> {
    let nanos = read(tid, "schedstat")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// Returns what a file descriptor of this process refers to: a path, `socket:[..]`, `pipe:[..]`.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use std::os::fd::AsRawFd;
///
/// let null = std::fs::File::open("/dev/null")?;
/// let name = pollwatch_stack::procfs::descriptor(null.as_raw_fd() as u64);
/// assert_eq!(name.as_deref(), Some("/dev/null"));
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn descriptor(fd: u64) -> Option<String> {
    Some(fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.to_string_lossy().into_owned())
}

/// Returns the ids of all threads of this process; `None` where they cannot be listed.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// if let (Some(own), Some(threads)) = (Tid::current(), procfs::threads()) {
///     assert!(threads.contains(&own));
/// }
/// ```
pub fn threads() -> Option<Vec<Tid>> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    Some(tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).map(Tid::from_raw).collect())
}

pub(crate) fn read(tid: Tid, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).ok()
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn syscall_lines_are_parsed() {
        assert_eq!(parse_syscall("running\n"), Some(SyscallState::Running));
        let waiting = |call, sp, ip| SyscallState::Waiting { call, sp: Address::new(sp), ip: Address::new(ip) };
        let line = "35 0x7ffd 0x0 0x1 0x2 0x3 0x4 0x7fff00 0x401000\n";
        let call = SyscallEntry { number: 35, first_argument: 0x7ffd };
        assert_eq!(parse_syscall(line), Some(waiting(Some(call), 0x7fff00, 0x401000)));
        assert_eq!(parse_syscall("-1 0x10 0x20"), Some(waiting(None, 0x10, 0x20)));
        for bad in ["", "x", "35", "35 zz", "35 0x1"] {
            assert_eq!(parse_syscall(bad), None, "{bad}");
        }
    }

    #[test]
    fn state_of_a_parked_thread() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(Tid::current().unwrap()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let in_futex = |state| match state {
            Some(SyscallState::Waiting { call: Some(call), .. }) => call.number == libc::SYS_futex,
            _ => false,
        };
        while !in_futex(syscall(tid)) {
            assert!(std::time::Instant::now() < deadline, "{:?}", syscall(tid));
            std::thread::yield_now();
        }
        assert!(ran(tid).is_some() && ran(tid) == ran(tid));
        assert!(threads().unwrap().contains(&tid));
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

//! Reasons of threads that wait in a system call, or for a page of memory.

use super::called::Called;
use super::locks::{BLOCK_ON, LOCK};
use super::{Reason, advised, library};
use crate::model::cause::{Purpose, Syscall};

/// The functions by which a program writes its log. All loggers of the crate `log` are called by
/// `log::__private_api`.
pub(super) const LOG_FUNCTIONS: &[&str] = &["tracing_subscriber::fmt::", "log::__private_api"];

pub(super) const LOG: Reason = advised(
    "the writer of the program's own log",
    "log through tracing_appender::non_blocking, and find out why whatever takes the log (a collector, a disk) is slow",
);

/// The functions of std that use the standard input, output and error.
pub(super) const STANDARD_STREAMS: &[&str] = &["std::io::stdio::", "std::io::_print", "std::io::_eprint"];

pub(super) const PRINT: Reason = advised(
    "a print to standard output or error",
    "print on a thread of its own, as tracing_appender::non_blocking does, and find out why nobody reads the output",
);

pub(super) const INPUT: Reason =
    advised("a read from standard input", "read it on a thread of its own (std::thread) that sends to a channel");

pub(super) const PAGE: Reason = advised(
    "a page of memory (a page fault)",
    "use memory-mapped files in tokio::task::spawn_blocking, and lock hot memory (mlock)",
);

const SOCKET: Reason = advised(
    "a sync socket call",
    "use tokio::net or an async driver (client), or move it to tokio::task::spawn_blocking",
);

const FILE_ADVICE: &str = "use tokio::fs or move it to tokio::task::spawn_blocking";
const BLOCKING_ADVICE: &str = "move it to tokio::task::spawn_blocking";

/// The functions of executors that wait for a future with a system call.
const BLOCK_ON_FUNCTIONS: &[&str] =
    &["futures_executor::", "futures_lite::future::block_on", "pollster::", "tokio::runtime::park::"];

/// Returns the reason of a thread that waits in a system call, or for a page of memory.
pub(super) fn reason(called: &Called<'_>, syscall: Option<&Syscall>) -> Reason {
    let Some(syscall) = syscall else {
        return library::waiting(called).unwrap_or(PAGE);
    };
    let is_read = syscall.name.contains("read");
    let moves_data = matches!(syscall.purpose, Purpose::Io | Purpose::Socket | Purpose::Nonblocking | Purpose::Poll);
    let stream = || match is_read {
        _ if !moves_data => None,
        true => called.any(STANDARD_STREAMS).then_some(INPUT),
        false if called.any(LOG_FUNCTIONS) => Some(LOG),
        false => called.any(STANDARD_STREAMS).then_some(PRINT),
    };
    let by_functions = || library::child(called).or_else(stream).or_else(|| library::waiting(called));
    let is_block_on = || called.any(BLOCK_ON_FUNCTIONS) || called.any(&["::block_on"]);
    let block_on = || (syscall.purpose == Purpose::Poll && is_block_on()).then_some(BLOCK_ON);
    by_functions().or_else(block_on).unwrap_or_else(|| by_purpose(syscall))
}

pub(super) fn by_purpose(syscall: &Syscall) -> Reason {
    match syscall.purpose {
        Purpose::Sleep => advised("a sleep", "use tokio::time::sleep"),
        Purpose::Poll => advised("a wait for I/O", "use an async driver, or move it to tokio::task::spawn_blocking"),
        Purpose::Child => advised("a wait for a child process", "use tokio::process::Command"),
        Purpose::FileLock => advised("a file lock", "take it in tokio::task::spawn_blocking"),
        Purpose::Socket => SOCKET,
        Purpose::Io => by_target(syscall),
        Purpose::Nonblocking => advised(
            "a call that does not wait for the other side (non-blocking)",
            "find out what keeps the kernel in it: a filter of packets or calls (nftables, eBPF, seccomp), or a lack of memory",
        ),
        Purpose::Device => advised("a call to a device (ioctl)", BLOCKING_ADVICE),
        Purpose::File => advised("a sync file call", FILE_ADVICE),
        Purpose::Descriptor => advised("a system call that makes a descriptor", BLOCKING_ADVICE),
        Purpose::Futex => LOCK,
        Purpose::AsyncIo => advised(
            "a wait for I/O that the kernel was given (io_uring, AIO)",
            "await its completion through an eventfd in tokio::io::unix::AsyncFd, or wait on a thread of its own",
        ),
        Purpose::Memory => advised(
            "a change of the process's memory map",
            "map, unmap and drop large memory in tokio::task::spawn_blocking. Other threads' calls of this kind, \
             forks and page faults take the same lock",
        ),
        Purpose::Spawn => advised(
            "the start of a process or thread",
            "start it in tokio::task::spawn_blocking; a process of many gigabytes forks slowly",
        ),
        Purpose::Signal => advised("a wait for a signal", "use tokio::signal"),
        Purpose::Restart => advised("a wait that the kernel resumed after a stop of the process", BLOCKING_ADVICE),
        Purpose::Ipc => advised(
            "a semaphore or message queue between processes",
            "wait on a thread of its own (std::thread) that sends to a tokio channel",
        ),
        Purpose::Random => advised("random numbers of the kernel", "draw them before the runtime starts"),
        Purpose::Mount => advised("a call about file systems (mounts, quotas, swap)", BLOCKING_ADVICE),
        Purpose::Process => advised("a system call about the process", BLOCKING_ADVICE),
        Purpose::Time => advised("a system call about clocks", BLOCKING_ADVICE),
        Purpose::Schedule => advised("a system call about scheduling", BLOCKING_ADVICE),
        Purpose::Security => advised("a system call about keys or permissions", BLOCKING_ADVICE),
        Purpose::System => advised("a system call about the machine", BLOCKING_ADVICE),
        Purpose::Unknown => advised("a system call", BLOCKING_ADVICE),
    }
}

/// Returns the reason of a call that reads, writes or syncs, by what its descriptor refers to.
fn by_target(syscall: &Syscall) -> Reason {
    let target = syscall.target.as_deref().unwrap_or("");
    if target.starts_with("socket") {
        return SOCKET;
    }
    if target.starts_with("pipe:") {
        let advice = "use tokio::process or tokio::io, or move it to tokio::task::spawn_blocking";
        return advised("a sync pipe call", advice);
    }
    if target.starts_with("anon_inode:") {
        let advice = "make the descriptor non-blocking, and await it in tokio::io::unix::AsyncFd";
        return advised("a sync read of an event descriptor", advice);
    }
    if ["/dev/pts/", "/dev/tty", "/dev/console"].iter().any(|terminal| target.starts_with(terminal)) {
        let advice = "use the terminal on a thread of its own (std::thread) that sends to a channel";
        return advised("a sync terminal call", advice);
    }
    match &*syscall.name {
        name if name.contains("write") => advised("a sync file write", FILE_ADVICE),
        "read" | "readv" | "pread64" | "preadv" | "preadv2" => advised("a sync file read", FILE_ADVICE),
        "fsync" | "fdatasync" | "syncfs" | "sync_file_range" => advised("a sync of a file to its disk", FILE_ADVICE),
        _ => advised("a sync file call", FILE_ADVICE),
    }
}

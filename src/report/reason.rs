//! The table of reasons and advice: a text that says why a poll blocks, and one that says what to
//! do about it. Pure functions.

use pollwatch_stack::{Frame, Stack};

use crate::model::cause::{Cause, Purpose, Syscall};
use crate::model::stall::Stall;

/// The texts of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// The noun phrase that follows "blocked in", or a clause for causes that are no wait.
    pub(crate) text: &'static str,
    pub(crate) advice: Option<&'static str>,
}

/// The reasons by functions near the leaf of the stack, which are more specific than the system
/// call. The first match is used, so the more specific rows come first.
const LOCKS: &[(&[&str], Reason)] = &[
    (
        &["futures_executor::", "futures_lite::future::block_on", "pollster::", "async_std::task::block_on"],
        Reason {
            text: "another executor's block_on",
            advice: Some("await the future instead of calling block_on inside a task"),
        },
    ),
    (
        &[
            "tokio::runtime::park::",
            "tokio::runtime::context::blocking",
            "tokio::runtime::handle::Handle::block_on",
            "tokio::runtime::runtime::Runtime::block_on",
        ],
        BLOCK_ON,
    ),
    (
        &[
            "std::thread::JoinHandle",
            "std::thread::join_handle",
            "std::thread::JoinInner",
            "std::sys::thread::",
            "pthread_join",
        ],
        Reason {
            text: "a wait for another thread's end",
            advice: Some("join in tokio::task::spawn_blocking, or have the thread send on a tokio::sync::oneshot"),
        },
    ),
    (
        &["std::sync::mpsc", "std::sync::mpmc", "crossbeam_channel::", "flume::"],
        Reason {
            text: "a receive from a blocking channel",
            advice: Some("use tokio::sync::mpsc, or receive in tokio::task::spawn_blocking"),
        },
    ),
    (
        &["Condvar", "condvar"],
        Reason { text: "a wait on a Condvar", advice: Some("use tokio::sync::Notify or tokio::sync::watch") },
    ),
    (
        &["std::sync::once", "std::sync::poison::once", "std::sys::sync::once", "OnceLock", "LazyLock", "once_cell::"],
        Reason {
            text: "a value that another thread is initialising",
            advice: Some("initialise it before the runtime starts, or use tokio::sync::OnceCell"),
        },
    ),
    (
        &["RwLock", "rwlock", "raw_rwlock"],
        Reason {
            text: "an RwLock",
            advice: Some("hold it for less time elsewhere, never across blocking work, or use tokio::sync::RwLock"),
        },
    ),
    (
        &["Mutex", "mutex", "parking_lot"],
        Reason {
            text: "a Mutex",
            advice: Some("shorten the critical section of whoever holds it, or use tokio::sync::Mutex"),
        },
    ),
    (
        &["std::thread::park", "std::sys::sync::thread_parking", "Parker"],
        Reason { text: "thread::park", advice: Some("use tokio::sync::Notify") },
    ),
];

const BLOCK_ON: Reason = Reason {
    text: "block_on inside a task",
    advice: Some("await the future, or move the call to tokio::task::spawn_blocking"),
};

const LOCK: Reason =
    Reason { text: "a lock", advice: Some("use the one of tokio::sync, or take it in tokio::task::spawn_blocking") };

const FILE_ADVICE: &str = "use tokio::fs or move it to tokio::task::spawn_blocking";

const DNS: Reason =
    Reason { text: "a name look-up (DNS)", advice: Some("use tokio::net::lookup_host or an async resolver") };

/// The functions of executors that wait for a future with a system call.
const BLOCK_ON_FUNCTIONS: &[&str] =
    &["futures_executor::", "futures_lite::future::block_on", "pollster::", "tokio::runtime::park::", "::block_on"];

/// Sets the reason and the advice of a stall by its cause, system call and stack.
pub(crate) fn explain(stall: &mut Stall) {
    let reason = reason(stall.cause, stall.syscall.as_ref(), stall.stack.as_ref());
    (stall.reason, stall.advice) = (reason.text, reason.advice);
}

/// The number of functions near the leaf that are matched.
const NEAR: usize = 24;

/// Returns the reason for a cause, a system call and a stack.
pub(crate) fn reason(cause: Cause, syscall: Option<&Syscall>, stack: Option<&Stack>) -> Reason {
    let advised = |text, advice| Reason { text, advice: Some(advice) };
    match cause {
        Cause::Cpu => advised(
            "computing",
            "move it to tokio::task::spawn_blocking or rayon, or split it with tokio::task::yield_now().await",
        ),
        Cause::Lock => by_symbols(stack, LOCKS).unwrap_or(LOCK),
        Cause::Syscall if near(stack, &["getaddrinfo", "lookup_host", "LookupHost"]) => DNS,
        Cause::Syscall => by_syscall(syscall, stack),
        Cause::Starved => Reason { text: "ready to run, but was given no CPU", advice: None },
        Cause::Paused => Reason { text: "the whole process was paused", advice: None },
        Cause::Unknown => Reason { text: "", advice: None },
    }
}

fn by_syscall(syscall: Option<&Syscall>, stack: Option<&Stack>) -> Reason {
    let advised = |text, advice| Reason { text, advice: Some(advice) };
    let Some(syscall) = syscall else {
        return advised(
            "a page of memory (a page fault)",
            "use memory-mapped files in tokio::task::spawn_blocking, and lock hot memory (mlock)",
        );
    };
    let target = syscall.target.as_deref().unwrap_or("");
    match syscall.purpose {
        Purpose::Sleep => advised("a sleep", "use tokio::time::sleep"),
        Purpose::Poll if near(stack, BLOCK_ON_FUNCTIONS) => BLOCK_ON,
        Purpose::Poll => advised("a wait for I/O", "use an async driver, or move it to tokio::task::spawn_blocking"),
        Purpose::Process => advised("a wait for a child process", "use tokio::process::Command"),
        Purpose::FileLock => advised("a file lock", "take it in tokio::task::spawn_blocking"),
        Purpose::Io if target.starts_with("socket") || matches!(syscall.name, "connect" | "accept" | "accept4") => {
            advised(
                "a sync socket call",
                "use tokio::net or an async driver (client), or move it to tokio::task::spawn_blocking",
            )
        }
        Purpose::Io if target.starts_with("pipe") => {
            advised("a sync pipe call", "use tokio::process or tokio::io, or move it to tokio::task::spawn_blocking")
        }
        Purpose::Io if syscall.name.contains("write") => advised("a sync file write", FILE_ADVICE),
        Purpose::Io if syscall.name.contains("read") => advised("a sync file read", FILE_ADVICE),
        Purpose::Io | Purpose::File => advised("a sync file call", FILE_ADVICE),
        Purpose::Futex => LOCK,
        Purpose::Other => advised("a system call", "move it to tokio::task::spawn_blocking"),
    }
}

fn by_symbols(stack: Option<&Stack>, table: &[(&[&str], Reason)]) -> Option<Reason> {
    table.iter().find(|(patterns, _)| near(stack, patterns)).map(|(_, reason)| *reason)
}

/// Returns whether a function near the leaf matches one of the patterns. Only functions within the
/// poll are considered.
fn near(stack: Option<&Stack>, patterns: &[&str]) -> bool {
    let Some(stack) = stack else { return false };
    let name = |frame: &'_ Frame| frame.function.clone();
    let inner = stack.leaf_frames().iter().chain(stack.user_frames().iter().filter(|frame| frame.dependency));
    // Without debug information, a function of a dependency is only recognized by its name.
    inner.take(NEAR).filter_map(name).any(|f| patterns.iter().any(|p| f.contains(p)))
        || stack.user_frames().iter().take(NEAR).filter_map(name).any(|f| patterns.iter().any(|p| f.starts_with(p)))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn stack(leaf: &[&str]) -> Stack {
        let frame = |name: &str, library| {
            let mut frame = Frame::default();
            (frame.function, frame.library) = (Some(name.into()), library);
            frame
        };
        let mut frames: Vec<Frame> = leaf.iter().map(|name| frame(name, true)).collect();
        frames.push(frame("app::Mutex_like", false));
        Stack::new(frames, true, |_| false)
    }

    fn lock(leaf: &[&str]) -> &'static str {
        reason(Cause::Lock, None, Some(&stack(leaf))).text
    }

    #[test]
    fn locks_by_the_functions_near_the_leaf() {
        assert_eq!(lock(&["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended"]), "a Mutex");
        assert_eq!(lock(&["syscall", "std::sys::sync::rwlock::futex::RwLock::read_contended"]), "an RwLock");
        assert_eq!(lock(&["syscall", "std::sys::sync::condvar::futex::Condvar::wait"]), "a wait on a Condvar");
        assert_eq!(
            lock(&["syscall", "std::thread::park", "std::sync::mpmc::context::Context::wait_until"]),
            "a receive from a blocking channel"
        );
        assert_eq!(
            lock(&["syscall", "std::sys::sync::once::futex::Once::call", "deref"]),
            "a value that another thread is initialising"
        );
        assert_eq!(lock(&["pthread_join", "std::thread::JoinInner::join"]), "a wait for another thread's end");
        assert_eq!(lock(&[]), "a lock", "the user's own functions decide nothing");
        assert_eq!(reason(Cause::Lock, None, None).text, "a lock");
    }

    #[test]
    fn calls_by_what_they_are_for_and_on() {
        let call = |name, purpose, target: &str| {
            let syscall = Syscall { name, target: Some(target.into()), purpose };
            reason(Cause::Syscall, Some(&syscall), None).text
        };
        assert_eq!(call("read", Purpose::Io, "/var/data"), "a sync file read");
        assert_eq!(call("read", Purpose::Io, "socket:[1]"), "a sync socket call");
        assert_eq!(call("write", Purpose::Io, "pipe:[1]"), "a sync pipe call");
        assert_eq!(call("connect", Purpose::Io, ""), "a sync socket call");
        assert_eq!(call("nanosleep", Purpose::Sleep, ""), "a sleep");
        assert_eq!(call("openat", Purpose::File, ""), "a sync file call");
        assert_eq!(call("fsync", Purpose::Io, "/var/data"), "a sync file call");
        assert_eq!(call("wait4", Purpose::Process, ""), "a wait for a child process");
        assert_eq!(reason(Cause::Syscall, None, None).text, "a page of memory (a page fault)");
        let syscall = Syscall { name: "poll", target: None, purpose: Purpose::Poll };
        let resolving = stack(&["poll", "getaddrinfo"]);
        assert_eq!(reason(Cause::Syscall, Some(&syscall), Some(&resolving)), DNS);
    }

    /// The advice is about files only where the call is about one.
    #[test]
    fn other_calls_are_no_file_calls() {
        for name in ["mmap", "munmap", "clone", "execve", "semtimedop", "io_uring_enter", "another"] {
            let syscall = Syscall { name, target: None, purpose: Purpose::Other };
            let expected = Reason { text: "a system call", advice: Some("move it to tokio::task::spawn_blocking") };
            assert_eq!(reason(Cause::Syscall, Some(&syscall), None), expected);
        }
    }

    #[test]
    fn causes_outside_of_the_task_have_no_advice() {
        for cause in [Cause::Starved, Cause::Paused, Cause::Unknown] {
            assert_eq!(reason(cause, None, None).advice, None);
        }
    }
}

//! Reasons that follow from a library's functions alone, whether the thread waits or computes.

use super::called::Called;
use super::{Reason, advised};

/// A row of the table of libraries.
pub(super) struct LibraryRow {
    functions: &'static [&'static str],
    /// The text of a thread that waits in a system call or for a lock.
    pub(super) waiting: &'static str,
    /// The text of a thread that computes.
    pub(super) computing: &'static str,
    pub(super) advice: &'static str,
}

/// The functions of std that resolve and print the backtrace of a panic.
const PANIC_BACKTRACE: &[&str] = &[
    "std::sys::backtrace::_print_fmt",
    "std::sys::backtrace::lock",
    "std::sys::backtrace::BacktraceLock",
    "std::backtrace_rs::symbolize",
];

/// The table. The first match is used, so the more specific rows come first.
pub(super) const LIBRARIES: &[LibraryRow] = &[
    LibraryRow {
        functions: &["std::backtrace::Backtrace", "std::backtrace::LazilyResolved", "backtrace::capture::Backtrace"],
        waiting: "the backtrace of an error",
        computing: "resolving the backtrace of an error",
        advice: "set RUST_LIB_BACKTRACE=0, or print the error elsewhere: its first backtrace reads all symbols",
    },
    LibraryRow {
        functions: PANIC_BACKTRACE,
        waiting: "the backtrace of a panic",
        computing: "formatting the backtrace of a panic",
        advice: "set RUST_BACKTRACE=0, or a panic hook (std::panic::set_hook) that prints only message and location",
    },
    LibraryRow {
        functions: &["getaddrinfo", "std::net::socket_addr::ToSocketAddrs", "lookup_host", "LookupHost"],
        waiting: "a name look-up (DNS)",
        computing: "a name look-up (DNS)",
        advice: "use tokio::net::lookup_host or an async resolver",
    },
    LibraryRow {
        functions: &["take_gil", "PyEval_RestoreThread", "PyEval_AcquireThread", "PyGILState_Ensure"],
        waiting: "the Python GIL",
        computing: "taking the Python GIL",
        advice: "call Python in tokio::task::spawn_blocking, and release the GIL wherever Rust code waits or computes",
    },
    LibraryRow {
        functions: &["PyEval_EvalFrame", "PyEval_EvalCode", "PyRun_", "PyObject_Call", "PyObject_Vectorcall"],
        waiting: "Python code",
        computing: "computing in Python code",
        advice: "call Python in tokio::task::spawn_blocking",
    },
    LibraryRow {
        functions: &["sqlite3", "rusqlite::"],
        waiting: "a database call (SQLite)",
        computing: "computing in a database call (SQLite)",
        advice: "call it in tokio::task::spawn_blocking, or on a thread of its own (as tokio-rusqlite does)",
    },
    LibraryRow {
        functions: &["PQconnect", "PQexec", "PQgetResult", "PQprepare", "PQsetdb", "PQreset"],
        waiting: "a database call (libpq)",
        computing: "computing in a database call (libpq)",
        advice: "use tokio-postgres, sqlx or diesel-async, or call it in tokio::task::spawn_blocking",
    },
    LibraryRow {
        functions: CHILD_STARTS,
        waiting: "the start of a child process",
        computing: "starting a child process (fork)",
        advice: "start it in tokio::task::spawn_blocking, also with tokio::process. Without pre_exec, uid, gid and \
                 groups, std needs no fork, which copies the page tables of a large process",
    },
];

/// The functions that start a child process: of `std::process::Command` and of those built on it.
const CHILD_STARTS: &[&str] = &["::Command::spawn", "::Command::do_fork", "::Command::posix_spawn"];

/// The functions that start a child process and then wait for it or its output, or only wait.
const CHILD_WAITS: &[&str] = &[
    "std::process::Child",
    "std::process::Command::output",
    "std::process::Command::status",
    "std::sys::process::unix::common::wait",
    "std::sys::process::unix::unix::Process::wait",
    "std::sys::process::read_output",
];

pub(super) const CHILD: Reason = advised("a wait for a child process", "use tokio::process::Command");

/// Returns the reason of a thread that waits within a library.
pub(super) fn waiting(called: &Called<'_>) -> Option<Reason> {
    find(called).map(|row| advised(row.waiting, row.advice))
}

/// Returns the reason of a thread that computes within a library.
pub(super) fn computing(called: &Called<'_>) -> Option<Reason> {
    find(called).map(|row| advised(row.computing, row.advice))
}

fn find(called: &Called<'_>) -> Option<&'static LibraryRow> {
    LIBRARIES.iter().find(|row| called.any(row.functions))
}

/// Returns the reason of a thread that waits for a child process or reads its output.
pub(super) fn child(called: &Called<'_>) -> Option<Reason> {
    (called.any(CHILD_WAITS) && !called.any(CHILD_STARTS)).then_some(CHILD)
}

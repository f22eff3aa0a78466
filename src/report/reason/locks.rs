//! Reasons of threads that wait for other threads: locks, channels, joins, pools of threads.

use super::called::Called;
use super::syscalls::{INPUT, LOG, LOG_FUNCTIONS, PRINT, STANDARD_STREAMS};
use super::{Reason, ReasonRow, advised, first_match, library};

const fn row(functions: &'static [&'static str], text: &'static str, advice: &'static str) -> ReasonRow {
    ReasonRow { functions, reason: advised(text, advice) }
}

/// The waits that are no locks. The first match is used, so the more specific rows come first.
pub(super) const WAITS: &[ReasonRow] = &[
    row(
        &["futures_executor::", "futures_lite::future::block_on", "pollster::", "async_std::task::block_on"],
        "another executor's block_on",
        "await the future instead of calling block_on inside a task",
    ),
    ReasonRow {
        functions: &[
            "tokio::runtime::park::",
            "tokio::runtime::context::blocking",
            "tokio::runtime::handle::Handle::block_on",
            "tokio::runtime::runtime::Runtime::block_on",
        ],
        reason: BLOCK_ON,
    },
    row(
        &["rayon_core::latch::", "rayon_core::registry::", "rayon_core::scope::", "rayon_core::broadcast::"],
        "a wait for a rayon pool",
        "call it in tokio::task::spawn_blocking, or rayon::spawn it and await a tokio::sync::oneshot",
    ),
    row(
        &["threadpool::ThreadPool::join", "std::thread::scoped::", "crossbeam_utils::thread::"],
        "a wait for the threads of a pool or scope",
        "wait in tokio::task::spawn_blocking, or have the last thread send on a tokio::sync::oneshot",
    ),
    row(
        &[
            "std::thread::JoinHandle",
            "std::thread::join_handle",
            "std::thread::JoinInner",
            "std::sys::thread::",
            "pthread_join",
        ],
        "a wait for another thread's end",
        "join in tokio::task::spawn_blocking, or have the thread send on a tokio::sync::oneshot",
    ),
    ReasonRow { functions: LOG_FUNCTIONS, reason: LOG },
    ReasonRow { functions: &["std::io::stdio::Stdin"], reason: INPUT },
    ReasonRow { functions: STANDARD_STREAMS, reason: PRINT },
    row(
        &[
            "std::sync::mpsc::SyncSender",
            "std::sync::mpmc::Sender",
            "std::sync::mpmc::array::Channel::send",
            "std::sync::mpmc::zero::Channel::send",
            "crossbeam_channel::channel::Sender",
            "crossbeam_channel::flavors::array::Channel::send",
            "crossbeam_channel::flavors::zero::Channel::send",
            "flume::Sender",
            "flume::Shared::send",
        ],
        "a send into a full blocking channel",
        "use tokio::sync::mpsc, whose send is awaited, or try_send and reject what does not fit",
    ),
    row(
        &["std::sync::mpsc", "std::sync::mpmc", "crossbeam_channel::", "flume::"],
        "a receive from a blocking channel",
        "use tokio::sync::mpsc, or receive in tokio::task::spawn_blocking",
    ),
    row(&["std::sync::barrier", "std::sync::Barrier"], "a wait at a Barrier", "use tokio::sync::Barrier"),
    row(&["Condvar", "condvar"], "a wait on a Condvar", "use tokio::sync::Notify or tokio::sync::watch"),
    row(
        &["pthread_cond_"],
        "a wait on a condition variable of C code",
        "call that code in tokio::task::spawn_blocking",
    ),
    row(
        &[
            "std::sync::once",
            "std::sync::poison::once",
            "std::sys::sync::once",
            "OnceLock",
            "LazyLock",
            "once_cell::",
            "parking_lot::once",
        ],
        "a value that another thread is initialising",
        "initialise it before the runtime starts, or use tokio::sync::OnceCell",
    ),
];

/// The locks, as [`WAITS`].
pub(super) const LOCKS: &[LockRow] = &[
    LockRow {
        functions: &["dashmap::"],
        text: "a shard of a DashMap",
        in_a_task: "drop its Ref, RefMut and Entry values soon: before an .await, and before the next call of that map",
        shorten: "drop its Ref, RefMut and Entry values soon, and before the next call of that map",
    },
    LockRow {
        functions: &["tokio::sync::watch::"],
        text: "the value of a tokio::sync::watch channel",
        in_a_task: "drop the Ref that borrow returns before an .await and before slow work, or clone the value",
        shorten: "drop the Ref that borrow returns before slow work, or clone the value",
    },
    LockRow {
        functions: &["tokio::loom::", "tokio::util::sharded", "tokio::util::idle_notified_set"],
        text: "a lock within tokio",
        in_a_task: "spawn and wake less often: many threads use the same part of the runtime at once",
        shorten: "spawn and wake less often: many threads use the same part of the runtime at once",
    },
    LockRow {
        functions: &["RwLock", "rwlock", "raw_rwlock"],
        text: "an RwLock",
        in_a_task: "hold it for less time elsewhere, never across blocking work, or use tokio::sync::RwLock",
        shorten: "hold it for less time elsewhere, and never across blocking work",
    },
    LockRow {
        functions: &["pthread_mutex_", "pthread_rwlock_", "mtx_lock"],
        text: "a lock of C code",
        in_a_task: "call that code in tokio::task::spawn_blocking",
        shorten: "shorten the critical section of whoever holds it",
    },
    LockRow {
        functions: &["Mutex", "mutex", "parking_lot"],
        text: "a Mutex",
        in_a_task: "shorten the critical section of whoever holds it, or use tokio::sync::Mutex",
        shorten: "shorten the critical section of whoever holds it",
    },
];

/// A row of the table of locks.
pub(super) struct LockRow {
    functions: &'static [&'static str],
    pub(super) text: &'static str,
    /// The advice for code of a task.
    pub(super) in_a_task: &'static str,
    /// The advice for code that may block its thread: an async lock would not help there.
    shorten: &'static str,
}

pub(super) const PARK: ReasonRow =
    row(&["std::thread::park", "std::sys::sync::thread_parking", "Parker"], "thread::park", "use tokio::sync::Notify");

pub(crate) const BLOCK_ON: Reason =
    advised("block_on inside a task", "await the future, or move the call to tokio::task::spawn_blocking");

/// A lock of a kind that is not known.
pub(super) const LOCK: Reason = advised(
    "a lock",
    "use tokio::sync::Mutex if the guard lives across .await, otherwise hold the lock for a shorter time",
);

/// The advice for a lock in `block_in_place` that still occupies the worker.
pub(super) const IN_PLACE: &str = "shorten the critical section of whoever holds it, and raise max_blocking_threads: \
                        block_in_place found no free thread to take the worker over";

/// Returns the reason of a thread that waits in a futex.
pub(super) fn reason(called: &Called<'_>) -> Reason {
    let before_locks = || library::waiting(called).or_else(|| first_match(called, WAITS));
    before_locks().or_else(|| lock(called)).or_else(|| first_match(called, &[PARK])).unwrap_or(LOCK)
}

fn lock(called: &Called<'_>) -> Option<Reason> {
    let row = LOCKS.iter().find(|row| called.any(row.functions))?;
    // Innermost first: a worker of tokio is itself a task of the blocking pool.
    let context = called.innermost_of_thread(&[
        "tokio::task::blocking::block_in_place",
        "tokio::runtime::scheduler::multi_thread::worker::block_in_place",
        "tokio::runtime::blocking::task::BlockingTask",
        "tokio::runtime::scheduler::multi_thread::worker::run",
        "tokio::runtime::scheduler::multi_thread::worker::Context",
    ]);
    Some(match context {
        Some(name) if name.ends_with("block_in_place") => advised(row.text, IN_PLACE),
        Some(name) if name.contains("BlockingTask") => advised(row.text, row.shorten),
        _ => advised(row.text, row.in_a_task),
    })
}

//! Reasons of threads that compute, in the program or in the kernel.

use super::called::Called;
use super::{Reason, ReasonRow, advised, first_match, library};
use crate::report::kernel_share::KernelShare;

pub(super) const COMPUTING: Reason = advised(
    "computing",
    "move it to tokio::task::spawn_blocking or rayon, or split it with tokio::task::yield_now().await",
);

pub(super) const WORK: &[ReasonRow] = &[
    ReasonRow {
        functions: &["tower_http::compression::body", "tower_http::compression_utils"],
        reason: advised(
            "compressing a response body in a layer",
            "lower the layer's level (CompressionLayer::quality), exclude what is large or compressed already \
             (compress_when), or let a proxy compress",
        ),
    },
    ReasonRow {
        functions: &["async_compression::"],
        reason: advised(
            "compressing a stream",
            "lower the level (async_compression::Level), keep what was compressed once, or compress in \
             tokio::task::spawn_blocking",
        ),
    },
];

/// The functions of the standard library that drop the elements of a collection.
const DROPS_OF_ELEMENTS: &[&str] = &["drop_elements", "alloc::collections::btree::map::IntoIter::drop"];
const DROP_GLUE: &str = "drop_in_place";
/// The functions of tokio's `Core` that drop a task's future or its output.
const DROPS_OF_TASKS: &[&str] = &["::drop_future_or_output", "::set_stage", "::store_output"];
/// The number of drops of one type within each other that only a list or a tree has.
const MIN_NESTED: usize = 3;

const DROP_ADVICE: &str =
    "drop large values elsewhere: tokio::task::spawn_blocking(move || drop(value)), or a thread of its own";
pub(super) const DROP: Reason = advised("dropping a large value", DROP_ADVICE);
pub(super) const DROP_OF_TASK: Reason = advised("dropping what an aborted or finished task owned", DROP_ADVICE);

/// The system calls in which a thread can compute for long, by the functions of the C library that
/// make them.
pub(super) const KERNEL: &[ReasonRow] = &[
    ReasonRow { functions: &["munmap"], reason: advised("computing in the kernel: munmap", DROP_ADVICE) },
    ReasonRow { functions: &["fork", "vfork", "clone", "clone3", "arch_fork", "Fork", "spawni"], reason: FORK },
    ReasonRow {
        functions: &["read", "pread64", "pread", "readv", "preadv", "preadv64v2", "getdents64"],
        reason: advised(
            "computing in the kernel: a read of cached data",
            "use tokio::fs or move it to tokio::task::spawn_blocking, in parts of at most some 100 KiB",
        ),
    },
    ReasonRow {
        functions: &["write", "pwrite64", "pwrite", "writev", "pwritev"],
        reason: advised("computing in the kernel: a write", "use tokio::fs or move it to tokio::task::spawn_blocking"),
    },
    ReasonRow {
        functions: &["copy_file_range", "sendfile", "sendfile64", "splice"],
        reason: advised(
            "computing in the kernel: a copy of a file",
            "use tokio::fs or move it to tokio::task::spawn_blocking",
        ),
    },
    ReasonRow {
        functions: &["mmap", "mmap64", "mremap", "madvise", "mprotect", "brk", "sbrk", "mlock", "msync"],
        reason: advised(
            "computing in the kernel: a change of the memory map",
            "map and unmap large memory in tokio::task::spawn_blocking, or keep it mapped",
        ),
    },
];

const FORK: Reason = advised(
    "computing in the kernel: fork",
    "start processes in tokio::task::spawn_blocking, and without pre_exec, uid, gid and groups, which need a \
     fork: it copies the page tables of the whole process. A small helper process can start them, too",
);

pub(super) const PAGE_FAULTS: Reason = advised(
    "computing in the kernel: page faults",
    "touch new memory or mapped files in tokio::task::spawn_blocking, keep and reuse buffers, or use huge pages",
);

pub(super) const IN_KERNEL: Reason =
    advised("computing in the kernel", "move it to tokio::task::spawn_blocking, or make fewer or smaller system calls");

/// Returns the reason of a thread that computes.
pub(super) fn reason(called: &Called<'_>, kernel: KernelShare) -> Reason {
    let in_kernel = || in_kernel(called, kernel);
    let by_functions = || library::computing(called).or_else(|| drops(called)).or_else(|| first_match(called, WORK));
    by_functions().or_else(in_kernel).unwrap_or(COMPUTING)
}

/// Returns the reason of a thread that spends its time in the kernel. A stack that is taken as the
/// thread returns from a system call has the C library's function for that call innermost.
fn in_kernel(called: &Called<'_>, kernel: KernelShare) -> Option<Reason> {
    let call = called.innermost().map(bare);
    match KERNEL.iter().find(|work| call.is_some_and(|call| work.functions.contains(&call))) {
        _ if kernel == KernelShare::Minor => None,
        _ if kernel == KernelShare::Fork => Some(FORK),
        Some(work) => Some(work.reason),
        None => match kernel {
            KernelShare::MostWithPageFaults => Some(PAGE_FAULTS),
            KernelShare::Most => Some(IN_KERNEL),
            KernelShare::Likely | KernelShare::Minor | KernelShare::Fork => None,
        },
    }
}

/// Returns the name of a C function without what the C library puts before it: `__GI___libc_read`
/// is `read`.
fn bare(name: &str) -> &str {
    let name = name.trim_start_matches('_');
    let name = name.strip_prefix("GI_").unwrap_or(name).trim_start_matches('_');
    name.strip_prefix("libc_").unwrap_or(name)
}

/// Returns the reason of a thread that drops a large value.
///
/// Every loop that allocates drops values, too. So a value counts as large only if the thread is
/// within the drop of a collection's elements, within drops that nest as those of a list or tree
/// do, or within the drop of a task's future.
fn drops(called: &Called<'_>) -> Option<Reason> {
    let glue: Vec<&str> = called.names().filter(|name| name.contains(DROP_GLUE)).collect();
    let innermost = glue.first()?;
    let nests = glue.iter().filter(|name| *name == innermost).count() >= MIN_NESTED;
    let drops_elements = glue.iter().any(|name| is_drop_of_slice(name)) || called.any(DROPS_OF_ELEMENTS);
    let entry = called.innermost_of_thread(&["tokio::runtime::task::core::"]).unwrap_or("");
    if DROPS_OF_TASKS.iter().any(|function| entry.ends_with(function)) {
        return Some(DROP_OF_TASK);
    }
    (nests || drops_elements).then_some(DROP)
}

/// Returns whether a function drops the elements of a slice: `drop_in_place<[String]>`. The number
/// of elements of an array (`drop_in_place<[String; 2]>`) is that of the source.
fn is_drop_of_slice(name: &str) -> bool {
    let value = name.split_once(DROP_GLUE).map_or("", |(_, value)| value.trim_start_matches("::"));
    let Some(inner) = value.strip_prefix("<[").and_then(|rest| rest.strip_suffix("]>")) else { return false };
    let count = inner.rsplit_once("; ").map_or("", |(_, count)| count);
    count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit())
}

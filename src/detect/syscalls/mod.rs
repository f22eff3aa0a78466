//! The table of Linux's system calls: the name and the purpose of each.
//!
//! The numbers are those of the [kernel's tables][tables] up to Linux 6.18. From number 424 on, all
//! processors have the same numbers.
//!
//! [tables]: https://github.com/torvalds/linux/tree/master/scripts

mod common;

#[cfg(any(all(test, not(pollwatch_loom)), target_arch = "aarch64"))]
mod aarch64;
#[cfg(any(all(test, not(pollwatch_loom)), target_arch = "x86_64"))]
mod x86_64;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

use std::borrow::Cow;

use crate::model::cause::Purpose;

#[cfg(target_arch = "aarch64")]
use aarch64::TABLE;
#[cfg(target_arch = "x86_64")]
use x86_64::TABLE;

/// No other processor has a table, since pollwatch reads no system calls there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const TABLE: &[SyscallRow] = &[];

/// A row of the table.
#[derive(Clone, Copy, Debug)]
struct SyscallRow {
    number: i64,
    name: &'static str,
    purpose: Purpose,
}

const fn row(number: i64, name: &'static str, purpose: Purpose) -> SyscallRow {
    SyscallRow { number, name, purpose }
}

/// Returns the name and the purpose of a system call. A call that is not in the table is named by
/// its number: `syscall 1000`.
pub(crate) fn describe(number: i64) -> (Cow<'static, str>, Purpose) {
    match find(number) {
        Some(row) => (row.name.into(), row.purpose),
        None => (format!("syscall {number}").into(), Purpose::Unknown),
    }
}

fn find(number: i64) -> Option<&'static SyscallRow> {
    [TABLE, common::TABLE].into_iter().find_map(|table| find_in(table, number))
}

fn find_in(table: &'static [SyscallRow], number: i64) -> Option<&'static SyscallRow> {
    table.binary_search_by_key(&number, |row| row.number).ok().map(|at| &table[at])
}

//! The table of Linux's system calls: the name and the purpose of each.
//!
//! The numbers are those of the [kernel's tables][tables] up to Linux 6.18. From number 424 on, all
//! processors have the same numbers.
//!
//! [tables]: https://github.com/torvalds/linux/tree/master/scripts

mod common;

mod aarch64;
mod x86_64;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

use std::borrow::Cow;

use crate::model::cause::Purpose;

/// The rows below number 424. The kernel has one table for aarch64, riscv64 and loongarch64. On
/// other processors calls are reported by their numbers.
const TABLE: &[SyscallRow] = if cfg!(target_arch = "x86_64") {
    x86_64::TABLE
} else if cfg!(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "loongarch64")) {
    aarch64::TABLE
} else {
    &[]
};

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

/// Returns whether a system call is `futex`, whose first argument is the address of the futex.
pub(crate) fn is_futex(number: i64) -> bool {
    find(number).is_some_and(|row| row.name == "futex")
}

fn find(number: i64) -> Option<&'static SyscallRow> {
    [TABLE, common::TABLE].into_iter().find_map(|table| find_in(table, number))
}

fn find_in(table: &'static [SyscallRow], number: i64) -> Option<&'static SyscallRow> {
    table.binary_search_by_key(&number, |row| row.number).ok().map(|at| &table[at])
}

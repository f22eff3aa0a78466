//! The reasons why polls block, and the advice for each. Pure functions.
//!
//! A reason follows from the cause, the system call, and the functions that the program's innermost
//! own function called ([`called`]). Functions are more specific than a cause or a system call, so
//! they are matched first, in the order of the tables: [`library`] for all causes, then [`locks`],
//! [`syscalls`] or [`computing`].

mod called;
mod computing;
mod library;
mod locks;
mod syscalls;

#[cfg(all(test, not(pollwatch_loom)))]
mod documented;
#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

use pollwatch_stack::Stack;

use crate::model::cause::{Cause, Purpose, Syscall};
use crate::model::stall::Stall;
use crate::model::thread_dump::ThreadActivity;
use crate::report::kernel_share::KernelShare;
use called::Called;
use locks::BLOCK_ON;

/// The texts of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// The noun phrase that follows "blocked in", or a clause for causes that are no wait.
    pub(crate) text: &'static str,
    pub(crate) advice: Option<&'static str>,
}

const fn advised(text: &'static str, advice: &'static str) -> Reason {
    Reason { text, advice: Some(advice) }
}

/// A row of a table: the reason of a thread that has one of these functions on its stack.
struct ReasonRow {
    functions: &'static [&'static str],
    reason: Reason,
}

/// The evidence that a reason follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReasonEvidence<'a> {
    pub(crate) cause: Cause,
    pub(crate) syscall: Option<&'a Syscall>,
    pub(crate) stack: Option<&'a Stack>,
    pub(crate) kernel: KernelShare,
}

/// Sets the reason and the advice of a stall by its cause, system call and stack. `kernel` is the
/// kernel's share of the segment that these are of.
pub(crate) fn explain(stall: &mut Stall, kernel: KernelShare) {
    let (syscall, stack) = (stall.syscall.as_ref(), stall.stack.as_ref());
    let reason = reason(ReasonEvidence { cause: stall.cause, syscall, stack, kernel });
    (stall.reason, stall.advice) = (reason.text, reason.advice);
}

/// Returns the reason that the evidence shows.
pub(crate) fn reason(evidence: ReasonEvidence<'_>) -> Reason {
    let called = evidence.stack.map(Called::of).unwrap_or_default();
    match evidence.cause {
        Cause::Cpu => computing::reason(&called, evidence.kernel),
        Cause::Lock => locks::reason(&called),
        Cause::Syscall => syscalls::reason(&called, evidence.syscall),
        Cause::Starved => Reason { text: "ready to run, but was given no CPU", advice: None },
        Cause::Paused => Reason { text: "the whole process was paused", advice: None },
        Cause::Unknown => Reason { text: "", advice: None },
    }
}

/// Returns what a thread waits for or does, as the report of a stall says it. `is_in_a_task` says
/// whether it is in the poll of a task.
pub(crate) fn of_thread(
    activity: ThreadActivity,
    syscall: Option<&Syscall>,
    stack: Option<&Stack>,
    is_in_a_task: bool,
) -> &'static str {
    let cause = match (activity, syscall) {
        (ThreadActivity::Running, _) => Cause::Cpu,
        (ThreadActivity::Waiting, Some(Syscall { purpose: Purpose::Futex, .. })) => Cause::Lock,
        (ThreadActivity::Waiting, _) => Cause::Syscall,
        (ThreadActivity::Unknown, _) => Cause::Unknown,
    };
    let reason = reason(ReasonEvidence { cause, syscall, stack, kernel: KernelShare::Minor });
    // Other threads may wait in block_on as they like.
    if reason == BLOCK_ON && !is_in_a_task { "block_on" } else { reason.text }
}

/// Returns the reason of the first row that has a function on the stack.
fn first_match(called: &Called<'_>, table: &[ReasonRow]) -> Option<Reason> {
    table.iter().find(|row| called.any(row.functions)).map(|row| row.reason)
}

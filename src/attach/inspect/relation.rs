//! The relation of a thread to a runtime, by its stack.

use std::sync::atomic::Ordering;

use pollwatch_stack::{Address, RawStack};

use super::TargetStacks;
use crate::attach::inlined_loops::{DrivenLoop, LoopFinding};
use crate::attach::runtimes::RuntimeFlavor;
use crate::detect::outside::functions::{DriverRole, FunctionRole, StackRole};
use crate::model::cause::Purpose;

/// What a stack shows of the thread's relation to a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuntimeRelation {
    /// The thread is in no runtime, or in a pool for blocking work.
    Outside,
    /// The thread is in a runtime of this flavor, and in no poll: it is parked if it waits.
    Idle(RuntimeFlavor),
    /// The thread is in `block_in_place`, and another one may drive its worker.
    HandedOn,
    /// The thread is in the poll of a task or of a root. The poll starts at this index of the
    /// addresses.
    InPoll { flavor: RuntimeFlavor, at: usize },
}

impl TargetStacks {
    /// Returns the part of a worker's stack that may hand its worker on: from the poll of the task
    /// inwards. A `LocalSet` or another poll within that task may be within a call that does.
    pub(super) fn worker_poll<'s>(&self, outermost_first: &'s [Address]) -> &'s [Address] {
        let position = |addresses: &[Address], role| {
            addresses.iter().position(|&address| self.functions.role(address) == Some(role))
        };
        let worker = &outermost_first[position(outermost_first, FunctionRole::WorkerLoop).unwrap_or_default()..];
        &worker[position(worker, FunctionRole::TaskPoll).unwrap_or_default()..]
    }

    /// Returns what a stack shows. `purpose` is that of the system call that the thread waits in.
    pub(super) fn relation(&mut self, outermost_first: &[Address], purpose: Option<Purpose>) -> RuntimeRelation {
        let functions = &self.functions;
        let position = |role| outermost_first.iter().position(|&address| functions.role(address) == Some(role));
        let poll_after = |at: usize| {
            let inner = outermost_first[at..].iter();
            inner.rev().position(|&address| functions.role(address) == Some(FunctionRole::TaskPoll))
        };
        let poll_after = |at: usize| Some(outermost_first.len() - 1 - poll_after(at)?);
        if let Some(at) = position(FunctionRole::WorkerLoop) {
            let flavor = RuntimeFlavor::MultiThread;
            let has_handed_on = functions.stack_role(outermost_first) == StackRole::HandedOn
                // A runtime within a task runs in `block_in_place` only.
                || functions.drives_inlined(&outermost_first[at..]).is_some()
                || position(FunctionRole::CurrentThread).is_some_and(|inner| inner > at);
            return match poll_after(at) {
                _ if has_handed_on => RuntimeRelation::HandedOn,
                Some(at) => RuntimeRelation::InPoll { flavor, at },
                None => RuntimeRelation::Idle(flavor),
            };
        }
        let drive = functions.drive(outermost_first).map(|drive| drive.role);
        if let Some(role) = drive.or_else(|| functions.drives_inlined(outermost_first)) {
            let functions = &self.functions;
            let is_loop = |&address: &Address| {
                let role = functions.role(address);
                matches!(role, Some(FunctionRole::CurrentThread | FunctionRole::CurrentThreadEnter))
            };
            let at = outermost_first.iter().rposition(is_loop).unwrap_or_default();
            return self.drive_relation(
                outermost_first,
                DrivenLoop { flavor: RuntimeFlavor::CurrentThread, role, at },
                purpose,
            );
        }
        // A poll alone is no evidence: it may be a closure of `spawn_blocking`, below a loop of the
        // pool that the compiler has inlined.
        match position(FunctionRole::LocalTasks).and_then(poll_after) {
            Some(at) => RuntimeRelation::InPoll { flavor: RuntimeFlavor::LocalSet, at },
            None => RuntimeRelation::Outside,
        }
    }

    /// Returns what a stack shows of a thread that is in this loop.
    fn drive_relation(
        &mut self,
        outermost_first: &[Address],
        driven: DrivenLoop,
        purpose: Option<Purpose>,
    ) -> RuntimeRelation {
        let DrivenLoop { flavor, role, at } = driven;
        self.park_was_visible |= role == DriverRole::Parked;
        let may_park = match role {
            DriverRole::Parked => true,
            DriverRole::InTask => purpose == Some(Purpose::Poll),
            DriverRole::InLoop => {
                purpose == Some(Purpose::Poll) || purpose == Some(Purpose::Futex) && !self.park_was_visible
            }
        };
        let is_task = |&address: &Address| self.functions.role(address) == Some(FunctionRole::TaskPoll);
        let at = outermost_first.iter().rposition(is_task).unwrap_or(at);
        if may_park { RuntimeRelation::Idle(flavor) } else { RuntimeRelation::InPoll { flavor, at } }
    }

    /// Returns what a stack shows in which no function of tokio is visible: that of a thread in a
    /// loop that was inlined, or outside of all runtimes. `None` if that is not known, because the
    /// symbols cannot be used at this moment. `member` is the flavor of the runtime that the thread
    /// was in before.
    pub(super) fn relation_by_inlined(
        &mut self,
        raw: &RawStack,
        outermost_first: &[Address],
        purpose: Option<Purpose>,
        member: Option<RuntimeFlavor>,
    ) -> Option<RuntimeRelation> {
        // Without a symbol of tokio there is no debug information either.
        if self.functions.is_empty() {
            return Some(RuntimeRelation::Outside);
        }
        let found = self.find_loop(raw, outermost_first, member);
        let may_miss_loops = self.loops.lacks_lines() && !self.functions.show_current_thread();
        self.state.counters.may_miss_loops.store(may_miss_loops, Ordering::Relaxed);
        match found {
            LoopFinding::Absent => Some(RuntimeRelation::Outside),
            LoopFinding::Present(driven) => Some(self.drive_relation(outermost_first, driven, purpose)),
            // Such threads are watched wherever they are.
            LoopFinding::Unavailable if member == Some(RuntimeFlavor::OtherThreads) => Some(RuntimeRelation::Outside),
            LoopFinding::PutOff | LoopFinding::Unavailable => None,
        }
    }

    /// Returns the flavor of a thread in the task of a `LocalSet`: that of the current-thread
    /// runtime around it, if its loop was inlined. `member` is the flavor of the runtime that the
    /// thread was in before.
    pub(super) fn flavor_around_local_set(
        &mut self,
        raw: &RawStack,
        outermost_first: &[Address],
        member: Option<RuntimeFlavor>,
    ) -> RuntimeFlavor {
        match self.find_loop(raw, outermost_first, member) {
            LoopFinding::Present(driven) => driven.flavor,
            LoopFinding::Absent => RuntimeFlavor::LocalSet,
            LoopFinding::PutOff | LoopFinding::Unavailable => {
                member.filter(|flavor| *flavor == RuntimeFlavor::CurrentThread).unwrap_or(RuntimeFlavor::LocalSet)
            }
        }
    }

    fn find_loop(&mut self, raw: &RawStack, outermost_first: &[Address], member: Option<RuntimeFlavor>) -> LoopFinding {
        let is_member = member.is_some_and(|flavor| flavor != RuntimeFlavor::OtherThreads);
        self.loops.find(raw, outermost_first, &self.functions, is_member)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::attach::inlined::InlinedHandOffs;
    use crate::attach::settings::AttachSettings;
    use crate::attach::state::AttachState;
    use crate::detect::outside::functions::TokioFunctions;

    #[test]
    fn a_poll_is_in_no_runtime_without_a_loop_around_it() {
        let range = |start| Address::new(start)..Address::new(start + 10);
        let functions = TokioFunctions::new(vec![
            (range(100), FunctionRole::TaskPoll),
            (range(200), FunctionRole::LocalTasks),
            (range(300), FunctionRole::PoolLoop),
            (range(400), FunctionRole::CurrentThreadEnter),
            (range(500), FunctionRole::CurrentThreadPark),
        ]);
        let threshold = Duration::from_millis(10);
        let settings = AttachSettings { pid: 1, threshold, stop: true, all_threads: false, log: None };
        let hand_offs = InlinedHandOffs::new(Some(false));
        let mut stacks = TargetStacks::new(functions, hand_offs, Arc::new(AttachState::new(settings)));
        let mut relation = |stack: &[u64]| {
            let addresses: Vec<Address> = stack.iter().map(|&address| Address::new(address)).collect();
            stacks.relation(&addresses, None)
        };
        assert_eq!(relation(&[1, 305, 105, 7]), RuntimeRelation::Outside);
        // The pool's loop is inlined into a function of the standard library.
        assert_eq!(relation(&[1, 2, 105, 7]), RuntimeRelation::Outside);
        let in_local = RuntimeRelation::InPoll { flavor: RuntimeFlavor::LocalSet, at: 2 };
        assert_eq!(relation(&[1, 205, 105, 7]), in_local);
        // The loop of a current-thread runtime is inlined into a function of the program.
        let flavor = RuntimeFlavor::CurrentThread;
        assert_eq!(relation(&[1, 2, 505, 405, 7]), RuntimeRelation::Idle(flavor));
        assert_eq!(relation(&[1, 2, 405, 7]), RuntimeRelation::InPoll { flavor, at: 2 });
        assert_eq!(relation(&[1, 2, 405, 105, 7]), RuntimeRelation::InPoll { flavor, at: 3 });
    }

    #[test]
    fn a_call_around_a_local_set_may_hand_the_worker_on() {
        let range = |start| Address::new(start)..Address::new(start + 10);
        let functions = TokioFunctions::new(vec![
            (range(100), FunctionRole::TaskPoll),
            (range(200), FunctionRole::LocalTasks),
            (range(300), FunctionRole::WorkerLoop),
        ]);
        let threshold = Duration::from_millis(10);
        let settings = AttachSettings { pid: 1, threshold, stop: true, all_threads: false, log: None };
        let mut stacks =
            TargetStacks::new(functions, InlinedHandOffs::new(Some(false)), Arc::new(AttachState::new(settings)));
        // The call of `block_in_place` is inlined into the function at 7, or into the poll at 105.
        let stack = [1, 305, 105, 7, 205, 106, 8].map(Address::new);
        let in_local_task = RuntimeRelation::InPoll { flavor: RuntimeFlavor::MultiThread, at: 5 };
        assert_eq!(stacks.relation(&stack, None), in_local_task);
        assert_eq!(stacks.worker_poll(&stack), &stack[2..]);
    }
}

//! Thread dumps, as a user takes them.

use super::Watchdog;
use super::config::Config;
use crate::detect::stack_coverage;
use crate::detect::threads::{DumpSettings, ThreadEvidence};
use crate::model::thread_dump::ThreadDump;
use crate::report::reason;

impl Watchdog {
    /// Returns what all threads of the process do now, grouped by stack: workers, threads of the
    /// blocking pool, pollwatch's own and all others.
    ///
    /// Threads that wait are read without a signal, so that no system call of theirs is
    /// interrupted. A thread of a watched runtime that runs gets the signal of a capture, as in a
    /// stall. Stacks of other running threads are not captured (`docs/threads.md`).
    ///
    /// # Cost
    ///
    /// The call blocks for some 200 ms, half of which are a window in which shares of CPU time are
    /// measured, and for 2.5 s at most. Within a task, call it in `spawn_blocking`. The threads are
    /// read by a thread of its own, at most for 500 ms, so that stalls are found meanwhile. Some
    /// 0.1 ms of CPU time is used for each thread. There is one dump at a time. A dump is returned
    /// again until a second, and ten times the time that it took, has passed.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let dump = watchdog.threads();
    /// println!("{dump}");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn threads(&self) -> ThreadDump {
        (*self.state.thread_dumps.dump()).clone()
    }
}

/// Returns the settings of thread dumps.
pub(super) fn settings(config: &Config) -> DumpSettings {
    let &Config { capture_stacks, symbols, .. } = config;
    let stacks = stack_coverage::at_start(capture_stacks);
    DumpSettings { capture_stacks, symbols, stacks, explain }
}

/// Returns what a thread waits for or does, as the report of a stall says it.
fn explain(&ThreadEvidence { activity, syscall, stack, is_in_a_task }: &ThreadEvidence<'_>) -> &'static str {
    reason::of_thread(activity, syscall, stack, is_in_a_task)
}

#[cfg(all(test, unix, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_has_no_dump() {
        let watchdog = Watchdog::builder().log(false).start().unwrap();
        let says_why = |dump: &ThreadDump| dump.stacks_missing.as_deref().is_some_and(|why| why.contains("fork"));
        let ended = crate::util::in_a_fork(|| {
            let dump = watchdog.threads();
            dump.threads == 0 && says_why(&dump)
        });
        assert_eq!(ended, Some(true));
        assert!(!says_why(&watchdog.threads()));
    }
}

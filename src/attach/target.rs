//! The process that is watched, as the engine reads it.

use pollwatch_stack::procfs::SyscallState;
use pollwatch_stack::{CaptureError, RawStack, ReadLosses, StopError, Tid};

use super::outcome::{Ended, Stops};
use super::run_times::RunTimes;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::procfs::Descriptor;

/// The threads of another process. Only the thread that opened the process may stop a thread of it,
/// so all is read by one thread.
pub(super) trait TargetProcess {
    /// Returns tokio's functions in the process. Empty where it has no symbols.
    fn functions(&mut self) -> TokioFunctions;

    /// Returns whether the program calls `block_in_place` anywhere, as far as its symbols show.
    /// `None` where they cannot be read.
    fn calls_block_in_place(&mut self) -> Option<bool>;

    /// Returns a number that changes when other modules are loaded, and so other functions.
    fn version(&self) -> u64;

    /// Returns the ids of all threads, or why the process can no longer be watched.
    fn threads(&mut self) -> Result<Vec<Tid>, Ended>;

    /// Returns the name of a thread; `None` when it has ended.
    fn name(&mut self, tid: Tid) -> Option<String>;

    /// Returns what the scheduler counts of a thread; `None` when it has ended.
    fn times(&mut self, tid: Tid) -> Option<RunTimes>;

    /// Returns how often a thread has given up its CPU to wait, over its life. A stop by
    /// [`capture_running`](Self::capture_running) is such a wait, a loss of the CPU is none.
    fn waits(&mut self, tid: Tid) -> Option<u64>;

    /// Returns the state of a thread in the kernel; `None` when it has ended.
    fn state(&mut self, tid: Tid) -> Option<SyscallState>;

    /// Returns whether the process is stopped, by a signal or a debugger, as far as its first
    /// thread shows.
    fn is_paused(&mut self) -> bool;

    /// Returns whether a thread that waits is stopped or frozen from outside, and not by what it
    /// does.
    fn is_held(&mut self, tid: Tid) -> bool;

    /// Reads a descriptor of the process.
    fn descriptor(&mut self, fd: u64) -> Option<Descriptor>;

    /// Captures the stack of a thread that waits, without stopping it.
    fn capture_waiting(&mut self, tid: Tid, state: SyscallState) -> Result<RawStack, CaptureError>;

    /// Stops a thread that runs for a moment, and captures its stack. `earlier` is an earlier
    /// reading, since which the thread has to have used CPU time. `None` where the limit of stops
    /// is reached.
    fn capture_running(&mut self, tid: Tid, earlier: RunTimes) -> Option<Result<RawStack, CaptureError>>;

    /// Returns why threads that run cannot be stopped; `None` as far as they can.
    fn stop_problem(&self) -> Option<StopError>;

    /// Returns what could not be read of the process so far.
    fn losses(&self) -> ReadLosses;

    /// Returns the stops so far.
    fn stops(&self) -> Stops;
}

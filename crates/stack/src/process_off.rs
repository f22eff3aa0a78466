//! The API of `process/` where captures are off or the platform is not supported. No process can be
//! opened.

#[path = "process/stop/budget.rs"]
mod budget;
#[path = "process/error.rs"]
mod error;
#[path = "process/losses.rs"]
mod losses;
#[path = "process/stop/stats.rs"]
mod stats;
#[path = "process/stop/error.rs"]
mod stop_error;

use std::convert::Infallible;
use std::path::PathBuf;

pub use budget::StopBudget;
pub use error::{Denial, ProcessError};
pub use losses::ReadLosses;
pub use stats::{StopStats, StoppedStack};
pub use stop_error::StopError;

use crate::procfs::{ProcessFolder, RunCount, SyscallState};
use crate::{CaptureError, Frame, ModuleFunctions, Pid, RawStack, Tid};

/// Another process. None can be opened on this platform.
#[derive(Debug)]
pub struct Process(Infallible);

/// What was found to have changed in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessChange {
    /// Nothing that matters for stacks.
    Nothing,
    /// Libraries were loaded or unloaded.
    Modules,
    /// The process runs another program.
    Program,
}

impl Process {
    /// Opens no process.
    ///
    /// # Errors
    ///
    /// Always [`ProcessError::Unsupported`].
    pub fn open(_pid: Pid) -> Result<Process, ProcessError> {
        Err(ProcessError::Unsupported)
    }

    /// Sets the function that recognises the boundary between a runtime and the user's code.
    #[must_use]
    pub fn with_boundary(self, _is_boundary: fn(&Frame) -> bool) -> Process {
        match self.0 {}
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> Pid {
        match self.0 {}
    }

    /// Returns the folder of the process in procfs.
    pub fn folder(&self) -> ProcessFolder {
        match self.0 {}
    }

    /// Returns the ids of all threads.
    ///
    /// # Errors
    ///
    /// None: there is no process.
    pub fn threads(&self) -> Result<Vec<Tid>, ProcessError> {
        match self.0 {}
    }

    /// Returns the id by which the process itself knows a thread.
    pub fn inner_id(&self, _tid: Tid) -> Option<Tid> {
        match self.0 {}
    }

    /// Returns how often the modules have changed since the process was opened.
    pub fn version(&self) -> u64 {
        match self.0 {}
    }

    /// Returns how often the process was found to run another program.
    pub fn execs(&self) -> u64 {
        match self.0 {}
    }

    /// Returns what could not be read so far, and what was left out.
    pub fn losses(&self) -> ReadLosses {
        match self.0 {}
    }

    /// Reads again what is mapped in the process.
    ///
    /// # Errors
    ///
    /// None: there is no process.
    pub fn refresh(&mut self) -> Result<ProcessChange, ProcessError> {
        match self.0 {}
    }

    /// Captures the stack of a thread that waits.
    ///
    /// # Errors
    ///
    /// None: there is no process.
    pub fn capture_waiting(&mut self, _tid: Tid, _state: Option<SyscallState>) -> Result<RawStack, CaptureError> {
        match self.0 {}
    }

    /// Returns the functions of all modules that `kind` wants.
    pub fn find_functions<K: Clone>(&self, _part: &str, _kind: impl Fn(&str) -> Option<K>) -> Vec<ModuleFunctions<K>> {
        match self.0 {}
    }

    /// Returns the paths of the modules.
    pub fn module_paths(&self) -> Vec<PathBuf> {
        match self.0 {}
    }
}

/// Stops running threads of other processes. There are none on this platform.
#[derive(Debug, Default)]
pub struct Stopper {}

impl Stopper {
    /// Makes a stopper.
    pub fn new() -> Stopper {
        Stopper {}
    }

    /// Makes a stopper. Its budget is never spent.
    pub fn with_budget(_budget: StopBudget) -> Stopper {
        Stopper {}
    }

    /// Returns that nothing was done.
    pub fn stats(&self) -> StopStats {
        StopStats::default()
    }

    /// Captures no stack: there is no process.
    ///
    /// # Errors
    ///
    /// None.
    pub fn capture(
        &mut self,
        process: &mut Process,
        _tid: Tid,
        _earlier: Option<RunCount>,
    ) -> Result<StoppedStack, StopError> {
        match process.0 {}
    }
}

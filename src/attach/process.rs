//! The other process, by `pollwatch_stack`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pollwatch_stack::procfs::{ProcessFolder, RunCount, RunState, SyscallState};
use pollwatch_stack::{CaptureError, Process, ProcessError, RawStack, ReadLosses, StopError, Stopper, Tid};

use super::dump;
use super::inlined::BLOCK_IN_PLACE;
use super::outcome::{Ended, Stops};
use super::run_times::{RunTimes, RunTimesFiles};
use super::target::TargetProcess;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::procfs::Descriptor;
use crate::error::Error;

/// The kernel's functions in which the threads of a frozen or traced process sleep.
const PAUSED_CHANNELS: [&str; 4] = ["do_freezer_trap", "__refrigerator", "do_signal_stop", "ptrace_stop"];

/// The time between two checks for another program and other modules. Captures check as well.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// A process that `pollwatch_stack` reads.
struct OtherProcess {
    process: Process,
    folder: ProcessFolder,
    run_times: RunTimesFiles,
    /// The number of programs that the process had run when it was opened.
    execs: u64,
    /// The moment at which the modules were read last.
    refreshed: Option<Instant>,
    stopper: Stopper,
    /// The reason why the latest thread that was to be stopped could not be.
    stop_problem: Option<StopError>,
}

/// Opens a process.
///
/// # Errors
///
/// [`ErrorKind::Process`](crate::ErrorKind::Process): the text says what is missing.
pub(super) fn open(pid: u32) -> Result<Box<dyn TargetProcess>, Error> {
    let process = dump::open(pid)?;
    let (folder, execs) = (process.folder(), process.execs());
    Ok(Box::new(OtherProcess {
        process,
        folder,
        run_times: RunTimesFiles::default(),
        execs,
        refreshed: None,
        stopper: Stopper::new(),
        stop_problem: None,
    }))
}

impl TargetProcess for OtherProcess {
    fn functions(&mut self) -> TokioFunctions {
        dump::functions(&self.process)
    }

    fn calls_block_in_place(&mut self) -> Option<bool> {
        let of_tokio = |name: &str| name.contains("tokio").then_some(());
        let found = self.process.find_functions(BLOCK_IN_PLACE, of_tokio);
        let is_called = found.iter().any(|of_module| !of_module.functions.is_empty());
        let is_read = found.iter().any(|of_module| of_module.is_program && of_module.has_symbols);
        (is_called || is_read).then_some(is_called)
    }

    fn version(&self) -> u64 {
        self.process.version()
    }

    fn threads(&mut self) -> Result<Vec<Tid>, Ended> {
        let is_due = self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH_INTERVAL);
        let threads = self.process.threads().and_then(|threads| {
            if is_due {
                self.process.refresh()?;
                self.refreshed = Some(Instant::now());
            }
            Ok(threads)
        });
        if self.process.execs() != self.execs {
            return Err(Ended::Replaced);
        }
        if let Ok(threads) = &threads {
            let alive: HashSet<Tid> = threads.iter().copied().collect();
            self.run_times.retain(|tid| alive.contains(&tid));
        }
        threads.map_err(|error| match error {
            ProcessError::Exited { .. } | ProcessError::NotFound { .. } | ProcessError::Zombie { .. } => Ended::Exited,
            error => Ended::Lost(error.to_string().into()),
        })
    }

    fn name(&mut self, tid: Tid) -> Option<String> {
        self.folder.name(tid)
    }

    fn times(&mut self, tid: Tid) -> Option<RunTimes> {
        self.run_times.read(self.folder, tid)
    }

    fn waits(&mut self, tid: Tid) -> Option<u64> {
        self.folder.waits(tid)
    }

    fn state(&mut self, tid: Tid) -> Option<SyscallState> {
        self.folder.syscall(tid)
    }

    fn is_paused(&mut self) -> bool {
        is_stopped(self.folder, Tid::from_raw(self.process.pid().as_raw()))
    }

    fn is_held(&mut self, tid: Tid) -> bool {
        let is_frozen = |channel: String| PAUSED_CHANNELS.contains(&&*channel);
        is_stopped(self.folder, tid) || self.folder.wait_channel(tid).is_some_and(is_frozen)
    }

    fn descriptor(&mut self, fd: u64) -> Option<Descriptor> {
        Descriptor::read(self.folder, fd)
    }

    fn capture_waiting(&mut self, tid: Tid, state: SyscallState) -> Result<RawStack, CaptureError> {
        self.process.capture_waiting(tid, Some(state))
    }

    fn capture_running(&mut self, tid: Tid, earlier: RunTimes) -> Option<Result<RawStack, CaptureError>> {
        let RunTimes { cpu, run_delay, runs } = earlier;
        let earlier = RunCount { on_cpu: cpu.to_duration(), run_delay: run_delay.to_duration(), times: runs };
        match self.stopper.capture(&mut self.process, tid, Some(earlier)) {
            Ok(captured) => {
                // The other tracer has let the threads go, or the memory can be read again.
                let is_over =
                    |problem: &mut StopError| matches!(problem, StopError::AlreadyTraced | StopError::Unreadable);
                self.stop_problem.take_if(is_over);
                Some(Ok(captured.stack))
            }
            Err(StopError::OverBudget) => None,
            Err(StopError::NotRunning | StopError::InSyscall { .. }) => Some(Err(CaptureError::Moved)),
            Err(StopError::Timeout) => Some(Err(CaptureError::Timeout)),
            Err(error) => {
                if error != StopError::Exited {
                    self.stop_problem = Some(error);
                }
                Some(Err(CaptureError::Unavailable))
            }
        }
    }

    fn stop_problem(&self) -> Option<StopError> {
        self.stop_problem
    }

    fn losses(&self) -> ReadLosses {
        self.process.losses()
    }

    fn stops(&self) -> Stops {
        let stats = self.stopper.stats();
        Stops { count: stats.stops, longest: stats.longest, total: stats.stopped }
    }
}

/// Returns whether a thread is stopped by a signal or a debugger.
fn is_stopped(folder: ProcessFolder, tid: Tid) -> bool {
    folder.stat(tid).is_some_and(|stat| matches!(stat.state, RunState::Stopped | RunState::Traced))
}

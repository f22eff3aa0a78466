//! Another process: its threads, and their stacks.
//!
//! [`maps`] and [`objects`] describe what is mapped in it, [`permission`] finds why it cannot be
//! read. Unwinding and symbolization are those of this process' threads
//! ([`capture`](crate::capture)).

mod code;
mod contents;
mod error;
mod identity;
mod losses;
mod maps;
mod modules;
mod objects;
mod permission;
mod stop;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use code::CodePages;
pub use error::{Denial, ProcessError};
use identity::{Identity, ProgramIdentity};
pub use losses::ReadLosses;
use maps::Maps;
use modules::ModulesReading;
pub use stop::{StopBudget, StopError, StopStats, StoppedStack, Stopper};

use crate::capture::waiting::{self, WaitingThread};
use crate::capture::{Modules, OtherMemory, Regs, unwind_copy};
use crate::procfs::{ProcessFolder, RunState, SyscallState};
use crate::{Address, CaptureError, Frame, Pid, RawStack, Tid};

/// The age up to which the mappings are not read again: at least this, and [`AGE_FACTOR`] times
/// what reading them took. A process of 10,000 threads has 20,000 mappings.
const MIN_AGE: Duration = Duration::from_millis(50);
const AGE_FACTOR: u32 = 50;
/// The same factor where the mappings seem to lack something. Reading them then takes a twentieth
/// of the time, half of what may be spent.
const NEEDED_FACTOR: u32 = 20;
const MAX_AGE: Duration = Duration::from_secs(1);

/// The number of the next program that is opened. This process has number 0.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Another process, whose threads are read from outside.
///
/// The process is not changed, and nothing in it has to know of this crate. Threads that wait are
/// read without being stopped.
///
/// ```
/// use pollwatch_stack::{Pid, Process, Symbolizer};
///
/// # fn print(pid: Pid) -> Result<(), pollwatch_stack::ProcessError> {
/// let mut process = Process::open(pid)?;
/// for tid in process.threads()? {
///     let state = process.folder().syscall(tid);
///     match process.capture_waiting(tid, state) {
///         Ok(raw) => println!("{tid}\n{:#}", Symbolizer::shared().symbolize(&raw)),
///         Err(error) => println!("{tid}: {error}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Permission
///
/// The kernel permits what it permits a debugger: the same user where `yama` does not forbid it,
/// or `CAP_SYS_PTRACE`. [`ProcessError::Denied`] says what is missing.
///
/// # Memory
///
/// The unwind tables of all modules are copied, some MB for most programs, and 128 MiB at most.
/// What the symbols take is bounded by the [`Symbolizer`](crate::Symbolizer).
///
/// # Trust
///
/// The process is not trusted. Whatever it has in its memory and in its files, reading it takes
/// bounded memory, and ends in bounded time:
///
/// - **Memory that never comes**, such as that of a dead mount or of `userfaultfd`, and memory
///   whose lock the process holds, as it does while it unmaps a file of a dead mount, is read by
///   other threads with time limits: 10 s at once for the list of modules, 0.2 s for each kind of
///   read of captures (what is in memory, what is not, and that of stopped threads), and a tenth
///   of the time after that for each of them. All who have this process open share them.
///   [`losses`](Self::losses) counts what was given up.
/// - **The system call of a thread**, and the auxiliary vector of the process, are read by the
///   calling thread, without a limit of time. The kernel may let it wait while the process is
///   within an `exec`, for ever if that waits for a file of a dead mount.
/// - **Files** are found as the process itself finds them, below its root folder. Links out of it
///   are not followed, and only regular files are opened. Their reading has limits of time, too,
///   which all processes that are open share: one of them can make files of others be left out.
/// - **Unwind tables** are checked before they are interpreted. An entry with a DWARF expression
///   that jumps is not used, since it may loop, and the length of all entries of one stack is
///   limited. The stack ends there.
/// - **Other tables** are read up to a limit, which [`losses`](Self::losses) counts.
pub struct Process {
    pid: Pid,
    /// A thread with memory, whose files describe the process. The first thread may have ended.
    anchor: Pid,
    identity: Identity,
    program: ProgramIdentity,
    memory: OtherMemory,
    maps: Maps,
    modules: Arc<Modules>,
    code: CodePages,
    /// The number of mappings that were not searched for modules.
    unsearched: usize,
    /// The number of this program among all that were opened.
    number: u64,
    /// What was read of the modules.
    reading: ModulesReading,
    version: u64,
    execs: u64,
    copy: Vec<u8>,
    boundary: Option<fn(&Frame) -> bool>,
}

/// What was found to have changed in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessChange {
    /// Nothing that matters for stacks.
    Nothing,
    /// Libraries were loaded or unloaded.
    Modules,
    /// The process runs another program (`exec`), which has been opened.
    Program,
}

impl Process {
    /// Opens a process by its id, or by that of any of its threads, and reads its unwind tables.
    ///
    /// ```
    /// use pollwatch_stack::{Pid, Process, ProcessError};
    ///
    /// let error = Process::open(Pid::from_raw(i32::MAX)).unwrap_err();
    /// # #[cfg(all(target_os = "linux", target_env = "gnu"))]
    /// assert!(matches!(error, ProcessError::NotFound { .. }), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// [`ProcessError`] says what is missing.
    pub fn open(pid: Pid) -> Result<Process, ProcessError> {
        identity::check_procfs()?;
        let identity = Identity::read(pid)?;
        let pid = identity.pid;
        let anchor = identity.anchor(pid)?;
        let mut process = Process {
            pid,
            anchor,
            identity,
            program: ProgramIdentity::default(),
            memory: OtherMemory::of(anchor),
            maps: Maps::default(),
            modules: Arc::new(Modules::of_another_process()),
            code: CodePages::default(),
            unsearched: 0,
            number: 0,
            reading: ModulesReading::default(),
            version: 0,
            execs: 0,
            copy: Vec::new(),
            boundary: None,
        };
        process.open_program()?;
        Ok(process)
    }

    /// Sets the function that recognises the boundary between a runtime and the user's code, for
    /// all stacks of this process; see [`Stack::new`](crate::Stack::new).
    #[must_use]
    pub fn with_boundary(mut self, is_boundary: fn(&Frame) -> bool) -> Process {
        self.boundary = Some(is_boundary);
        self
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the folder of the process in procfs, which describes its threads.
    pub fn folder(&self) -> ProcessFolder {
        ProcessFolder::of(self.pid)
    }

    /// Returns the ids of all threads.
    ///
    /// They are those by which this process' `/proc` knows them. A process in another pid namespace
    /// knows its threads by other ones.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Exited`] when the process has ended.
    pub fn threads(&self) -> Result<Vec<Tid>, ProcessError> {
        let folder = self.folder();
        let threads = folder.threads().unwrap_or_default();
        self.identity.check()?;
        // The last thread stays until the parent has asked for the exit status.
        let has_ended = |tid: &Tid| folder.stat(*tid).is_none_or(|stat| stat.state == RunState::Ended);
        if threads.len() <= 1 && threads.iter().all(has_ended) {
            return Err(ProcessError::Exited { pid: self.pid });
        }
        Ok(threads)
    }

    /// Returns the id by which the process itself knows a thread, and writes it to its log. It is
    /// another one if the process is in another pid namespace. `None` when the thread has ended.
    pub fn inner_id(&self, tid: Tid) -> Option<Tid> {
        let status = self.folder().read_of(tid, "status")?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        ids.split_ascii_whitespace().last()?.parse().ok().map(Tid::from_raw)
    }

    /// Returns how often the modules have changed since the process was opened. Addresses of
    /// functions are valid as long as the number stays.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns how often the process was found to run another program.
    pub fn execs(&self) -> u64 {
        self.execs
    }

    /// Reads again what is mapped in the process. Captures do so themselves from time to time.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Exited`] when the process has ended, and any other one if it now runs a
    /// program that cannot be read.
    pub fn refresh(&mut self) -> Result<ProcessChange, ProcessError> {
        self.identity.check()?;
        if self.read_program()?.is_some_and(|program| program == self.program) {
            return self.read_modules(self.number, self.program.entry());
        }
        // Another program, or another thread has to stand for the process.
        self.anchor = self.identity.anchor(self.pid)?;
        self.memory = self.memory.again(self.anchor);
        if self.read_program()?.is_some_and(|program| program == self.program) {
            return self.read_modules(self.number, self.program.entry());
        }
        self.open_program()?;
        self.execs += 1;
        Ok(ProcessChange::Program)
    }

    /// Captures the stack of a thread that waits in the kernel and was observed in `state`.
    ///
    /// The thread is not stopped and not disturbed.
    ///
    /// # Errors
    ///
    /// As [`Capturer::capture_waiting`](crate::Capturer::capture_waiting).
    pub fn capture_waiting(&mut self, tid: Tid, state: Option<SyscallState>) -> Result<RawStack, CaptureError> {
        if let Some(SyscallState::Waiting { sp, .. }) = state {
            self.refresh_for(sp)?;
        }
        let memory = &self.memory;
        let regs = waiting::copy_waiting(&mut WaitingThread {
            folder: ProcessFolder::of(self.pid),
            tid,
            state,
            stack_at: &mut |sp| self.maps.stack_at(sp),
            read_prefix: &|from, to| memory.read_prefix(from, to),
            copy: &mut self.copy,
        })?;
        self.check_unchanged()?;
        let copy = std::mem::take(&mut self.copy);
        let raw = self.unwind(regs, &copy);
        self.copy = copy;
        raw
    }

    /// Reads the mappings again if they are old, or if they lack the stack of a new thread.
    fn refresh_for(&mut self, sp: Address) -> Result<(), CaptureError> {
        let is_needed = self.maps.stack_at(sp).is_none() && self.maps.may_be_read();
        if is_needed { self.refresh_for_capture().map(drop) } else { self.refresh_if_old() }
    }

    /// Reads the mappings again if they are old.
    fn refresh_if_old(&mut self) -> Result<(), CaptureError> {
        if self.maps.are_old() { self.refresh_for_capture().map(drop) } else { Ok(()) }
    }

    /// Reads the mappings again. What a capture has observed before an `exec` is of no use.
    fn refresh_for_capture(&mut self) -> Result<ProcessChange, CaptureError> {
        match self.refresh() {
            Ok(ProcessChange::Program) => Err(CaptureError::Moved),
            Ok(change) => Ok(change),
            Err(_) => Err(CaptureError::Unavailable),
        }
    }

    /// Checks that what was copied belongs to this process, and to the program whose tables are
    /// known.
    fn check_unchanged(&mut self) -> Result<(), CaptureError> {
        self.identity.check().map_err(|_| CaptureError::Unavailable)?;
        if self.read_program().is_ok_and(|program| program.is_some_and(|program| program == self.program)) {
            return Ok(());
        }
        // The thread that stood for the process has ended, or it runs another program.
        self.refresh_for_capture().map(drop)
    }

    /// Unwinds the copy, with the modules of this moment.
    fn unwind(&mut self, regs: Regs, copy: &[u8]) -> Result<RawStack, CaptureError> {
        let raw = self.unwind_once(regs, copy)?;
        // A library may have been loaded since.
        let may_be_outdated = !raw.is_complete() && self.maps.may_be_read();
        if may_be_outdated && self.refresh_for_capture()? != ProcessChange::Nothing {
            return self.unwind_once(regs, copy);
        }
        Ok(raw)
    }

    fn unwind_once(&self, regs: Regs, copy: &[u8]) -> Result<RawStack, CaptureError> {
        let read = |from: u64, to: &mut [u8]| self.code.read(&self.memory, from, to);
        unwind_copy(self.modules.clone(), copy, regs, &read, self.boundary)
    }

    /// Reads which program the process runs now. `None` if the thread that stands for the process
    /// has no memory any more.
    fn read_program(&self) -> Result<Option<ProgramIdentity>, ProcessError> {
        ProgramIdentity::read(self.anchor).map_err(|error| permission::explain(self.pid, self.anchor, error))
    }

    /// Opens the program that the process runs now. Where that fails, the one before stays the one
    /// that is known, so that the next attempt opens it.
    fn open_program(&mut self) -> Result<(), ProcessError> {
        permission::check_attach(self.pid, self.anchor, &self.memory)?;
        permission::check_architecture(self.pid, self.anchor)?;
        let Some(program) = self.read_program()? else {
            self.identity.check()?;
            return Err(ProcessError::Zombie { pid: self.pid });
        };
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        self.reading = ModulesReading::default();
        self.read_modules(number, program.entry())?;
        (self.number, self.program) = (number, program);
        Ok(())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("pid", &self.pid)
            .field("modules", &self.modules.list.len())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Returns the time since a moment, if there is one.
fn elapsed(since: Option<Instant>) -> Duration {
    since.map_or(Duration::MAX, |at| at.elapsed())
}

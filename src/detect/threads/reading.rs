//! One reading of all threads of the process: state, system call, CPU time, stack.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pollwatch_stack::{Address, CaptureError, Capturer, RawStack, Tid, procfs};

use super::DumpSettings;
use super::known::{self, KnownThread};
use crate::detect::examine;
use crate::detect::poll_entry::is_poll_entry;
use crate::detect::procfs::SyscallState;
use crate::measure::runtime::meter::Meter;
use crate::model::cause::Syscall;

/// The window over which shares of CPU time are measured.
pub(super) const CPU_WINDOW: Duration = Duration::from_millis(100);
/// The time after the window within which threads are read.
pub(super) const TIME_LIMIT: Duration = Duration::from_millis(500);
/// The most threads whose waits are remembered from one dump to the next.
const MAX_REMEMBERED: usize = 16_384;
/// The most stacks that are kept from one dump to the next, and the most calls of each.
const MAX_KEPT_STACKS: usize = 1_024;
const MAX_KEPT_CALLS: usize = 512;
/// The attempts to capture the stack of a thread that runs or moves.
const ATTEMPTS: u32 = 3;

/// The threads that waited at the previous dump, by id.
pub(super) type PreviousWaits = HashMap<Tid, WaitSince>;

/// A wait that a dump has observed. The thread is in the same wait, and its stack is the same, as
/// long as it has not run.
#[derive(Clone, Debug)]
pub(super) struct WaitSince {
    ran: RunCounts,
    first_observed: Instant,
    stack: Option<Arc<RawStack>>,
    runtime: Option<Arc<str>>,
}

/// What the kernel counts while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RunCounts {
    cpu: Duration,
    runs: u64,
}

impl RunCounts {
    fn of(tid: Tid) -> Option<RunCounts> {
        Some(RunCounts { cpu: tid.cpu_time()?, runs: procfs::ran(tid)?.times })
    }
}

/// One thread, as it was read.
#[derive(Debug)]
pub(super) struct ReadThread {
    pub(super) tid: Tid,
    pub(super) name: Arc<str>,
    pub(super) known: Option<KnownThread>,
    pub(super) cpu_time: Option<Duration>,
    pub(super) cpu_share: Option<f64>,
    pub(super) state: Option<SyscallState>,
    pub(super) syscall: Option<Syscall>,
    pub(super) waits_at_least: Option<Duration>,
    /// The runtime that the thread has entered, by its thread-local variables.
    pub(super) runtime: Option<Arc<str>>,
    /// The index of the stack in [`AllThreads::stacks`], or the reason why there is none.
    pub(super) stack: Result<usize, &'static str>,
}

/// All threads, as they were read.
pub(super) struct AllThreads {
    pub(super) taken_at: SystemTime,
    pub(super) took: Duration,
    pub(super) cpu_window: Duration,
    pub(super) threads: Vec<ReadThread>,
    pub(super) not_reached: usize,
    /// The different stacks.
    pub(super) stacks: Vec<Arc<RawStack>>,
    /// The reason why no thread could be read.
    pub(super) problem: Option<&'static str>,
}

pub(super) const NOT_REACHED: &str = "the time limit of the dump was reached";
const SWITCHED_OFF: &str = "stacks are switched off (capture_stacks)";
const RUNS_UNKNOWN: &str = "the thread runs, and only stacks of threads of watched runtimes are captured then";

impl AllThreads {
    /// Reads all threads but the calling one.
    pub(super) fn take(meter: &Meter, settings: &DumpSettings, waits: &mut PreviousWaits) -> AllThreads {
        let (taken_at, started) = (SystemTime::now(), Instant::now());
        let mut readings = AllThreads {
            taken_at,
            took: Duration::ZERO,
            cpu_window: CPU_WINDOW,
            threads: Vec::new(),
            not_reached: 0,
            stacks: Vec::new(),
            problem: None,
        };
        let (own, Some(tids)) = (Tid::current(), procfs::threads()) else {
            readings.problem = Some("the threads of this process cannot be listed here");
            return readings;
        };
        let first: HashMap<Tid, FirstReading> =
            tids.iter().filter_map(|&tid| Some((tid, first_reading(tid)?))).collect();
        std::thread::sleep(CPU_WINDOW.saturating_sub(started.elapsed()));
        let mut known = known::threads(meter);
        let mut tids: Vec<Tid> = tids.into_iter().filter(|tid| Some(*tid) != own).collect();
        // Known threads first: they are of interest if not all threads are reached.
        tids.sort_by_key(|tid| !known.contains_key(tid));
        let deadline = Instant::now() + TIME_LIMIT;
        let mut capture = ThreadCapture::new(meter, settings.capture_stacks);
        let mut previous = std::mem::take(waits);
        for tid in tids {
            let known = known.remove(&tid);
            if Instant::now() >= deadline {
                readings.not_reached += 1;
                waits.extend(previous.remove(&tid).map(|wait| (tid, wait)));
                readings.threads.push(ReadThread::not_reached(tid, known));
                continue;
            }
            let Some(mut thread) = ReadThread::read(tid, known, first.get(&tid)) else { continue };
            if let Some(SyscallState::Waiting { .. }) = thread.state {
                thread.read_wait(previous.remove(&tid), waits, &mut capture);
            }
            readings.threads.push(thread);
        }
        // A signal to a running thread takes up to 5 ms, so these come last.
        for attempt in 1..=ATTEMPTS {
            for thread in readings.threads.iter_mut().filter(|thread| thread.stack.is_err()) {
                if Instant::now() >= deadline {
                    break;
                }
                thread.capture_again(&mut capture);
            }
            if attempt < ATTEMPTS && Instant::now() < deadline && readings.threads.iter().any(ReadThread::may_move) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        readings.stacks = capture.stacks.stacks;
        readings.took = started.elapsed();
        readings
    }
}

/// The CPU time of a thread at the start of the window.
#[derive(Clone, Copy)]
struct FirstReading {
    at: Instant,
    cpu: Duration,
}

fn first_reading(tid: Tid) -> Option<FirstReading> {
    Some(FirstReading { at: Instant::now(), cpu: tid.cpu_time()? })
}

impl ReadThread {
    /// Reads a thread; `None` when it has ended.
    fn read(tid: Tid, known: Option<KnownThread>, first: Option<&FirstReading>) -> Option<ReadThread> {
        let cpu = tid.cpu_time()?;
        let window = first.map(|first| (cpu.saturating_sub(first.cpu), first.at.elapsed()));
        let cpu_share = window.map(|(used, length)| used.as_secs_f64() / length.as_secs_f64().max(1e-3));
        let name = match &known {
            Some(known) => known.name.clone(),
            None => procfs::name(tid)?.into(),
        };
        let state = procfs::syscall(tid);
        let syscall = examine::syscall_of(state);
        let stack = Err(RUNS_UNKNOWN);
        Some(ReadThread {
            tid,
            name,
            known,
            cpu_time: Some(cpu),
            cpu_share,
            state,
            syscall,
            waits_at_least: None,
            runtime: None,
            stack,
        })
    }

    /// Reads the stack of a thread that waits, and since when it waits at least. A thread that has
    /// not run since the previous dump still has the stack that it had then.
    fn read_wait(&mut self, previous: Option<WaitSince>, waits: &mut PreviousWaits, capture: &mut ThreadCapture) {
        let ran = RunCounts::of(self.tid);
        let same = previous.filter(|wait| Some(wait.ran) == ran);
        let known = same.as_ref().and_then(|wait| wait.stack.clone());
        match known {
            Some(stack) => {
                self.stack = Ok(capture.stacks.keep(stack));
                self.runtime = same.as_ref().and_then(|wait| wait.runtime.clone());
            }
            None => self.set_stack(capture.waiting(self.tid, self.state)),
        }
        self.waits_at_least = same.as_ref().map(|wait| wait.first_observed.elapsed());
        let Some(ran) = ran.filter(|_| waits.len() < MAX_REMEMBERED) else { return };
        // The thread may have run while its stack was captured. The next dump captures it again
        // then, since the counts differ.
        let stack =
            self.stack.ok().filter(|&index| index < MAX_KEPT_STACKS).map(|index| capture.stacks.stacks[index].clone());
        let stack = stack.filter(|stack| stack.addresses().len() <= MAX_KEPT_CALLS);
        let first_observed = same.map_or_else(Instant::now, |wait| wait.first_observed);
        waits.insert(self.tid, WaitSince { ran, first_observed, stack, runtime: self.runtime.clone() });
    }

    fn set_stack(&mut self, captured: Result<CapturedThread, &'static str>) {
        self.stack = captured.map(|captured| {
            self.runtime = captured.runtime;
            captured.index
        });
    }

    pub(super) fn not_reached(tid: Tid, known: Option<KnownThread>) -> ReadThread {
        ReadThread {
            tid,
            name: known.as_ref().map_or_else(|| "".into(), |known| known.name.clone()),
            known,
            cpu_time: None,
            cpu_share: None,
            state: None,
            syscall: None,
            waits_at_least: None,
            runtime: None,
            stack: Err(NOT_REACHED),
        }
    }

    /// Returns whether a further attempt may give the thread's stack.
    fn may_move(&self) -> bool {
        self.stack.is_err() && self.state.is_some()
    }

    /// Tries once more to capture the stack of a thread that ran, or moved while it was read.
    fn capture_again(&mut self, capture: &mut ThreadCapture) {
        if !self.may_move() {
            return;
        }
        let state = procfs::syscall(self.tid);
        let captured = match (state, self.known.as_ref().and_then(|known| known.target)) {
            (None, _) => return,
            (Some(SyscallState::Running), None) => return,
            (Some(SyscallState::Running), Some(target)) => {
                let is_current = || true;
                capture.add(|capturer| capturer.capture_if_current(target, state, is_current))
            }
            (Some(SyscallState::Waiting { .. }), _) => capture.waiting(self.tid, state),
        };
        self.set_stack(captured);
        if self.stack.is_ok() {
            (self.state, self.syscall) = (state, examine::syscall_of(state));
        }
    }
}

/// What a capture of a thread has found.
struct CapturedThread {
    index: usize,
    runtime: Option<Arc<str>>,
}

/// Captures stacks, and keeps each different one once.
struct ThreadCapture {
    is_on: bool,
    /// The addresses of the schedulers of all runtimes. tokio stores the one of the runtime that a
    /// thread has entered in a thread-local variable, also on the threads of its pool.
    schedulers: Vec<(u64, Arc<str>)>,
    capturer: Capturer,
    stacks: DifferentStacks,
}

/// The different stacks of a dump.
#[derive(Default)]
pub(super) struct DifferentStacks {
    pub(super) stacks: Vec<Arc<RawStack>>,
    indices: HashMap<Vec<Address>, usize>,
}

impl DifferentStacks {
    /// Returns the index of a stack, which is added if it is new.
    pub(super) fn keep(&mut self, raw: Arc<RawStack>) -> usize {
        let next = self.stacks.len();
        let index = *self.indices.entry(raw.addresses().collect()).or_insert(next);
        if index == next {
            self.stacks.push(raw);
        }
        index
    }
}

impl ThreadCapture {
    fn new(meter: &Meter, is_on: bool) -> ThreadCapture {
        let capturer = Capturer::new().with_boundary(is_poll_entry);
        let runtimes = meter.runtimes.all().into_iter();
        let schedulers = runtimes.filter_map(|runtime| Some((runtime.scheduler()?, runtime.name.clone()))).collect();
        ThreadCapture { is_on, schedulers, capturer, stacks: DifferentStacks::default() }
    }

    /// Captures the stack of a thread that waits. It gets no signal.
    fn waiting(&mut self, tid: Tid, state: Option<SyscallState>) -> Result<CapturedThread, &'static str> {
        self.add(|capturer| capturer.capture_waiting(tid, state))
    }

    fn add(
        &mut self,
        capture: impl FnOnce(&mut Capturer) -> Result<RawStack, CaptureError>,
    ) -> Result<CapturedThread, &'static str> {
        if !self.is_on {
            return Err(SWITCHED_OFF);
        }
        let raw = capture(&mut self.capturer).map_err(reason_of)?;
        let mut entered = self.schedulers.iter().filter(|(word, _)| self.capturer.copy_contains_beyond(&raw, *word));
        // A thread that has entered several runtimes may belong to any of them.
        let runtime = match (entered.next(), entered.next()) {
            (Some((_, name)), None) => Some(name.clone()),
            _ => None,
        };
        Ok(CapturedThread { index: self.stacks.keep(Arc::new(raw)), runtime })
    }
}

pub(super) fn reason_of(error: CaptureError) -> &'static str {
    match error {
        CaptureError::Moved => "the thread moved on while its stack was read",
        CaptureError::Timeout => "the thread runs, and was given no CPU to copy its stack",
        CaptureError::Elsewhere => "the thread runs on a stack that is not its own",
        _ => "the thread's stack cannot be read",
    }
}

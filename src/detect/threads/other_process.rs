//! One reading of all threads of another process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use pollwatch_stack::procfs::{ProcessFolder, RunCount};
use pollwatch_stack::{CaptureError, Process, RawStack, StopError, Stopper, Tid};

use super::DumpSettings;
use super::grouping::Grouping;
use super::reading::{AllThreads, CPU_WINDOW, DifferentStacks, NOT_REACHED, ReadThread, TIME_LIMIT, reason_of};
use crate::detect::classify::syscall_in;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::procfs::{Descriptor, SyscallState};
use crate::model::thread_dump::ThreadDump;

/// The process, and what is known of its threads already.
pub(crate) struct OtherThreads<'a> {
    pub(crate) process: &'a mut Process,
    pub(crate) functions: &'a TokioFunctions,
    /// Stops threads that run; `None` if none may be stopped.
    pub(crate) stopper: Option<&'a mut Stopper>,
    /// The names of the runtimes that threads drive.
    pub(crate) runtimes: &'a HashMap<Tid, Arc<str>>,
}

/// What the scheduler counted of a thread at the start of the window.
struct FirstCount {
    at: Instant,
    ran: RunCount,
}

const NO_STOP: &str = "the thread runs, and threads that run are not stopped";

impl OtherThreads<'_> {
    /// Returns all threads, grouped by what they do. Takes some 100 ms, and 600 ms at most without
    /// the symbols.
    pub(crate) fn dump(&mut self, settings: &DumpSettings) -> ThreadDump {
        let readings = self.read();
        let mut grouping = Grouping::new(&readings, settings, self.functions);
        if grouping.must_load_symbols() {
            grouping.symbolize();
        }
        grouping.dump()
    }

    fn read(&mut self) -> AllThreads {
        let (taken_at, started) = (SystemTime::now(), Instant::now());
        let folder = self.process.folder();
        let tids = self.process.threads().unwrap_or_default();
        let first: HashMap<Tid, FirstCount> = tids
            .iter()
            .filter_map(|&tid| Some((tid, FirstCount { at: Instant::now(), ran: folder.ran(tid)? })))
            .collect();
        std::thread::sleep(CPU_WINDOW.saturating_sub(started.elapsed()));
        let deadline = Instant::now() + TIME_LIMIT;
        let (mut threads, mut stacks) = (Vec::new(), DifferentStacks::default());
        let mut not_reached = 0;
        for tid in tids {
            if Instant::now() >= deadline {
                not_reached += 1;
                threads.push(ReadThread::not_reached(tid, None));
                continue;
            }
            let Some(mut thread) = self.read_thread(folder, tid) else { continue };
            let first = first.get(&tid);
            thread.cpu_share = first.zip(thread.cpu_time).map(|(first, now)| {
                now.saturating_sub(first.ran.on_cpu).as_secs_f64() / first.at.elapsed().as_secs_f64().max(1e-3)
            });
            let raw = self.capture(&thread, first.map(|first| first.ran));
            thread.stack = raw.map(|raw| stacks.keep(Arc::new(raw)));
            threads.push(thread);
        }
        AllThreads {
            taken_at,
            took: started.elapsed(),
            cpu_window: CPU_WINDOW,
            threads,
            not_reached,
            stacks: stacks.stacks,
            problem: None,
        }
    }

    /// Reads a thread without its stack; `None` when it has ended.
    fn read_thread(&self, folder: ProcessFolder, tid: Tid) -> Option<ReadThread> {
        let cpu_time = folder.ran(tid).map(|ran| ran.on_cpu);
        let state = folder.syscall(tid);
        Some(ReadThread {
            tid,
            name: folder.name(tid)?.into(),
            known: None,
            cpu_time,
            cpu_share: None,
            state,
            syscall: syscall_in(state, |fd| Descriptor::read(folder, fd)),
            waits_at_least: None,
            runtime: self.runtimes.get(&tid).cloned(),
            stack: Err(NOT_REACHED),
        })
    }

    fn capture(&mut self, thread: &ReadThread, earlier: Option<RunCount>) -> Result<RawStack, &'static str> {
        match thread.state {
            Some(state @ SyscallState::Waiting { .. }) => {
                self.process.capture_waiting(thread.tid, Some(state)).map_err(reason_of)
            }
            Some(SyscallState::Running) => {
                let Some(stopper) = &mut self.stopper else { return Err(NO_STOP) };
                match stopper.capture(self.process, thread.tid, earlier) {
                    Ok(captured) => Ok(captured.stack),
                    Err(StopError::OverBudget) => Err("the thread runs, and no more threads may be stopped now"),
                    Err(StopError::AlreadyTraced) => Err("the thread runs, and a debugger has attached to it"),
                    Err(StopError::Denied(_)) => Err("the thread runs, and may not be stopped"),
                    Err(_) => Err(reason_of(CaptureError::Moved)),
                }
            }
            None => Err(reason_of(CaptureError::Unavailable)),
        }
    }
}

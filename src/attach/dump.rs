//! Thread dumps of another process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch_stack::{Pid, Process, ProcessError, Stopper, Tid};

use super::outcome::Ended;
use super::runtimes::FoundRuntimes;
use super::settings::AttachSettings;
use super::threads::tid;
use crate::detect::outside::functions::{TokioFunctions, role_of};
use crate::detect::poll_entry::is_poll_entry;
use crate::detect::threads::other_process::OtherThreads;
use crate::detect::threads::{DumpSettings, ThreadEvidence};
use crate::error::Error;
use crate::model::coverage::StackCoverage;
use crate::model::thread_dump::ThreadDump;
use crate::report::reason;
use crate::util::lock;

/// The shortest and the longest time for which a dump is returned again.
const SHORTEST_REUSE: Duration = Duration::from_secs(1);
const LONGEST_REUSE: Duration = Duration::from_secs(6);
/// The factor between the duration of a dump and the time for which it is returned again.
const REST: u32 = 10;

/// Returns what all threads of a process do now, grouped by stack. The process is not watched.
///
/// `stop` says whether threads that run may be stopped for a moment, as by
/// [`Attach::stop`](super::Attach::stop). The call takes some 200 ms, and seconds where the symbols
/// of a large program have to be loaded.
///
/// ```no_run
/// println!("{}", pollwatch::attach::threads(4711, true)?);
/// # Ok::<(), pollwatch::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::Process`](crate::ErrorKind::Process) where the process does not exist or may not be
/// read.
pub fn threads(pid: u32, stop: bool) -> Result<ThreadDump, Error> {
    Ok(take(pid, stop, &HashMap::new())?)
}

fn take(pid: u32, stop: bool, runtimes: &HashMap<Tid, Arc<str>>) -> Result<ThreadDump, ProcessError> {
    let mut process = open(pid)?;
    let functions = functions(&process);
    // Each dump has a budget of its own, of a millisecond.
    let mut stopper = stop.then(Stopper::new);
    let mut threads =
        OtherThreads { process: &mut process, functions: &functions, stopper: stopper.as_mut(), runtimes };
    let stacks = StackCoverage::Taken;
    Ok(threads.dump(&DumpSettings { capture_stacks: true, symbols: true, explain, stacks }))
}

/// Opens a process, whose stacks then say where tokio calls the user's code.
pub(super) fn open(pid: u32) -> Result<Process, ProcessError> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
    Ok(Process::open(pid)?.with_boundary(is_poll_entry))
}

/// Returns tokio's functions in all modules of a process. Empty where these have no symbols.
pub(super) fn functions(process: &Process) -> TokioFunctions {
    let found = process.find_functions(TokioFunctions::PART_OF_NAMES, role_of);
    TokioFunctions::new(found.into_iter().flat_map(|of_module| of_module.functions).collect())
}

/// Returns what a thread waits for or does, as the report of a stall says it.
fn explain(&ThreadEvidence { activity, syscall, stack, is_in_a_task }: &ThreadEvidence<'_>) -> &'static str {
    reason::of_thread(activity, syscall, stack, is_in_a_task)
}

/// Takes the dumps of one attach, one at a time.
#[derive(Debug, Default)]
pub(super) struct OtherDumper {
    latest: Mutex<Option<KeptDump>>,
}

#[derive(Debug)]
struct KeptDump {
    dump: Arc<ThreadDump>,
    expires: Instant,
}

impl OtherDumper {
    /// Returns the latest dump, if it is recent, or takes one.
    pub(super) fn dump(
        &self,
        settings: &AttachSettings,
        runtimes: &Mutex<FoundRuntimes>,
        ended: Option<Ended>,
    ) -> Arc<ThreadDump> {
        let mut latest = lock(&self.latest);
        if let Some(kept) = latest.as_ref().filter(|kept| Instant::now() < kept.expires) {
            return kept.dump.clone();
        }
        if let Some(ended) = ended {
            return Arc::new(ThreadDump::unavailable(&ended.to_string()));
        }
        let mut names = HashMap::new();
        for (_, found) in lock(runtimes).all() {
            names.extend(found.threads.iter().map(|thread| (tid(*thread), found.name.clone())));
        }
        let start = Instant::now();
        let taken = take(settings.pid, settings.stop, &names);
        let dump = Arc::new(taken.unwrap_or_else(|error| ThreadDump::unavailable(&error.to_string())));
        let expires = Instant::now() + (start.elapsed() * REST).clamp(SHORTEST_REUSE, LONGEST_REUSE);
        *latest = Some(KeptDump { dump: dump.clone(), expires });
        dump
    }
}

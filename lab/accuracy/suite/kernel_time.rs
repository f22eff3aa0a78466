//! A run of polls that compute in the kernel: whether a stall says so, is captured there, and
//! counts its page faults.
//!
//! The blocks run one after the other, each in a task of its own, whose id its report has.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Phase, Stall};

use super::cpu_monitor;
use super::ground_truth::MS;
use super::kinds::compute;
use super::rng::Rng;
use super::statements::{MissedBars, Score, Statement, Statements, TaskReports};

/// The most bytes of one block.
const MAX_BYTES: usize = 512 << 20;
/// The bytes with which the speed of each kind is measured.
const PROBE_BYTES: usize = 64 << 20;
const PAGE: usize = 4096;
/// The time limit for the report of a block that is over.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time that a thread may wait for a CPU without an effect on the cause.
const MAX_WAIT: u64 = MS / 2;

/// The work of a block. All but the first are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Computes,
    ReadsCachedData,
    Unmaps,
    TouchesNewMemory,
}

impl Work {
    const ALL: [Work; 4] = [Work::Computes, Work::ReadsCachedData, Work::Unmaps, Work::TouchesNewMemory];

    /// Returns the name of the function that blocks.
    fn leaf(self) -> &'static str {
        match self {
            Work::Computes => "kinds::compute",
            Work::ReadsCachedData => "kernel_time::reads_cached_data",
            Work::Unmaps => "kernel_time::unmaps",
            Work::TouchesNewMemory => "kernel_time::touches_new_memory",
        }
    }

    fn is_in_kernel(self) -> bool {
        self != Work::Computes
    }
}

/// Memory of small pages.
struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: an address range that only the holder uses.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(len: usize) -> Mapping {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of which only advice is given.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "{len} bytes are available");
            libc::madvise(at, len, libc::MADV_NOHUGEPAGE);
            Mapping { at, len }
        }
    }

    fn touched(len: usize) -> Mapping {
        let mapping = Mapping::new(len);
        touches_new_memory(&mapping);
        mapping
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

#[inline(never)]
fn reads_cached_data(file: &File, buffer: &mut [u8]) {
    let read = file.read_at(buffer, 0).expect("a file in memory");
    assert_eq!(read, buffer.len());
}

#[inline(never)]
fn unmaps(mapping: Mapping) {
    // SAFETY: nothing refers to the mapping any more.
    let result = unsafe { libc::munmap(mapping.at, mapping.len) };
    std::mem::forget(mapping);
    // What follows the call keeps this function's frame on the stack.
    assert_eq!(result, 0);
}

#[inline(never)]
fn touches_new_memory(mapping: &Mapping) {
    let mut at = 0;
    while at < mapping.len {
        // SAFETY: the byte is in the mapping.
        unsafe { mapping.at.cast::<u8>().add(at).write_volatile(1) };
        at += PAGE;
    }
}

/// A block that is still to run, with all that it needs.
enum Job {
    Compute(Duration),
    Read { file: Arc<File>, buffer: Vec<u8> },
    Unmap(Mapping),
    Touch(Mapping),
}

/// The memory that a block has used.
enum Memory {
    None,
    Buffer { _buffer: Vec<u8> },
    Mapping { _mapping: Mapping },
}

/// What a block did.
#[derive(Clone, Copy, Debug)]
struct Done {
    task: tokio::task::Id,
    time: Duration,
    /// The time in nanoseconds that the thread waited for a CPU.
    waited: u64,
    faults: u64,
}

impl Job {
    fn new(work: Work, bytes: usize, time: Duration, file: &Arc<File>) -> Job {
        match work {
            Work::Computes => Job::Compute(time),
            Work::ReadsCachedData => Job::Read { file: file.clone(), buffer: vec![1; bytes] },
            Work::Unmaps => Job::Unmap(Mapping::touched(bytes)),
            Work::TouchesNewMemory => Job::Touch(Mapping::new(bytes)),
        }
    }

    /// Runs the block. Returns its memory as well, since to free that is no part of the block.
    fn run(self) -> (Done, Memory) {
        let (waited, faults, start) = (cpu_monitor::own_run_delay(), own_faults(), Instant::now());
        let memory = match self {
            Job::Compute(time) => {
                compute(time);
                Memory::None
            }
            Job::Read { file, mut buffer } => {
                reads_cached_data(&file, &mut buffer);
                Memory::Buffer { _buffer: buffer }
            }
            Job::Unmap(mapping) => {
                unmaps(mapping);
                Memory::None
            }
            Job::Touch(mapping) => {
                touches_new_memory(&mapping);
                Memory::Mapping { _mapping: mapping }
            }
        };
        let (time, waited) = (start.elapsed(), cpu_monitor::own_run_delay().saturating_sub(waited));
        let (faults, task) = (own_faults() - faults, tokio::task::id());
        (Done { task, time, waited, faults }, memory)
    }
}

/// Returns the page faults of this thread.
fn own_faults() -> u64 {
    // SAFETY: the structure is valid for the write, and all zeros are a value of it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        (usage.ru_minflt + usage.ru_majflt) as u64
    }
}

/// Returns a file of [`MAX_BYTES`] in memory.
fn cached_file() -> File {
    // SAFETY: the name is a C string, and the descriptor is new.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"cached".as_ptr(), libc::MFD_CLOEXEC)) };
    let part = vec![7; 1 << 20];
    (0..MAX_BYTES / part.len()).for_each(|_| file.write_all(&part).expect("memory for the file"));
    file
}

/// The figures of the run, which are the columns of its table.
#[derive(Debug, Default)]
pub(crate) struct KernelTime {
    pub(crate) blocks: usize,
    /// The blocks that lasted for at least two thresholds without their wait for a CPU.
    pub(crate) long: usize,
    pub(crate) missed: usize,
    /// The statements about where most of the CPU time was spent. None is made if no CPU time was
    /// sampled.
    pub(crate) mode: Statements,
    pub(crate) cause: Statements,
    /// The innermost functions. None is known without a stack.
    pub(crate) leaf: Statements,
    /// The counts of page faults. The wrong ones are more than there were.
    pub(crate) page_faults: Statements,
    pub(crate) faults: Vec<String>,
}

impl KernelTime {
    fn evaluate(&mut self, work: Work, done: Done, stall: Option<&Stall>) {
        self.long += 1;
        let Some(stall) = stall else {
            self.missed += 1;
            return self.faults.push(format!("missed: {work:?} {done:?}"));
        };
        let Stall { cause, on_cpu, system_time, page_faults, .. } = stall;
        let leaf = stall.stack.as_ref().and_then(|stack| stack.user_frames().first()?.function.clone());
        let text = || {
            let reported = format!("{cause}, {on_cpu:?} {system_time:?} {page_faults:?}, leaf {leaf:?}");
            format!("{work:?} {done:?}, reported {reported}")
        };
        let mode = system_time.zip(*on_cpu).map(|(system, on_cpu)| (system > on_cpu / 2) == work.is_in_kernel());
        let is_right = *cause == Cause::Cpu
            || done.waited >= MAX_WAIT && matches!(cause, Cause::Starved | Cause::Unknown | Cause::Paused);
        // The report itself may be a little late.
        let counted = page_faults.map(|counted| counted.minor + counted.major <= done.faults + 16);
        let leaf = leaf.as_ref().map(|leaf| leaf.ends_with(work.leaf()));
        for (sort, statements, is_right) in [
            ("mode", &mut self.mode, mode),
            ("cause", &mut self.cause, Some(is_right)),
            ("count of page faults", &mut self.page_faults, counted),
            ("stack", &mut self.leaf, leaf),
        ] {
            let statement = is_right.map_or(Statement::Missing, Statement::of);
            statements.add(sort, statement, &mut self.faults, text);
        }
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let mut bars = MissedBars::default();
        let two_percent = |score: Score| score.of / 50;
        bars.allow(0, Score { wrong: self.missed, of: self.long }, "were not reported");
        bars.allow(two_percent(self.mode.made), self.mode.made, "name the wrong mode of the CPU");
        bars.allow(two_percent(self.cause.made), self.cause.made, "have a wrong cause");
        bars.allow(two_percent(self.leaf.made), self.leaf.made, "have a wrong innermost function");
        // Some 2 of 100 have none. A short run, of fewer than 40 blocks, may have two by chance.
        let without = Score { wrong: self.leaf.missing, of: self.long };
        bars.allow((self.long / 20).max(2), without, "have no stack");
        bars.allow(0, self.page_faults.made, "count more page faults than there were");
        bars.into_vec()
    }
}

/// Runs blocks of all kinds, for at least `time`.
pub(crate) fn run(threshold: Duration, time: Duration, seed: u64) -> KernelTime {
    let reports = TaskReports::default();
    let watchdog = reports.start(threshold);
    let runtime = watchdog.runtime("kernel").worker_threads(1).enable_all().build().expect("builds");
    let file = Arc::new(cached_file());
    let run_job = |job: Job| {
        let task = async { watchdog.spawn(async move { job.run() }).await };
        let (done, memory) = runtime.block_on(task).expect("a block does not panic");
        drop(memory);
        done
    };
    // The time that a byte of each kind takes.
    let per_byte = Work::ALL.map(|work| {
        let done = run_job(Job::new(work, PROBE_BYTES, threshold * 3, &file));
        done.time.as_secs_f64() / PROBE_BYTES as f64
    });
    let (mut result, mut rng, end) = (KernelTime::default(), Rng::new(seed), Instant::now() + time);
    // On a busy machine few blocks are long by themselves.
    while Instant::now() < end || result.long < 2 * Work::ALL.len() && Instant::now() < end + 10 * time {
        for (work, per_byte) in Work::ALL.into_iter().zip(per_byte) {
            let wanted = threshold.mul_f64(rng.between(1.5, 6.0));
            let bytes = ((wanted.as_secs_f64() / per_byte) as usize / PAGE * PAGE).clamp(PAGE, MAX_BYTES);
            let job = Job::new(work, bytes, wanted, &file);
            let done = run_job(job);
            result.blocks += 1;
            if done.time.saturating_sub(Duration::from_nanos(done.waited)) >= threshold * 2 {
                let end = reports.wait(done.task, PATIENCE, |stall| stall.phase == Phase::Resolved);
                result.evaluate(work, done, end.as_ref());
            }
            reports.clear();
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(change: impl FnOnce(&mut KernelTime)) -> Vec<String> {
        let mut result = KernelTime { long: 100, ..KernelTime::default() };
        change(&mut result);
        result.missed_bars()
    }

    #[test]
    fn every_bar_can_be_missed() {
        assert!(missed(|_| ()).is_empty());
        const WRONG: Statements = Statements { made: Score { wrong: 3, of: 100 }, missing: 0 };
        for (change, word) in [
            ((|r| r.missed = 1) as fn(&mut KernelTime), "not reported"),
            (|r| r.leaf.missing = 6, "no stack"),
            (|r| r.mode = WRONG, "mode"),
            (|r| r.cause = WRONG, "cause"),
            (|r| r.leaf = WRONG, "function"),
            (|r| r.page_faults.made.wrong = 1, "page faults"),
        ] {
            let missed = missed(change);
            assert!(missed.len() == 1 && missed[0].contains(word), "{word}: {missed:?}");
        }
        assert!(missed(|r| r.mode.made = Score { wrong: 2, of: 100 }).is_empty());
    }

    #[test]
    fn a_block_without_a_report_is_missed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        let task = runtime.block_on(async { tokio::spawn(async {}).id() });
        let done = Done { task, time: Duration::from_millis(30), waited: 0, faults: 100 };
        let mut result = KernelTime::default();
        result.evaluate(Work::Unmaps, done, None);
        assert_eq!((result.long, result.missed, result.faults.len()), (1, 1, 1));
    }
}

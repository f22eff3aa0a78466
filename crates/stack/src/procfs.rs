//! The kernel's view of threads: readers of files below `/proc/self/task`, and of the same files of
//! another process ([`ProcessFolder`]).
//!
//! Every function returns `None` elsewhere than on Linux. A call opens, reads and closes one file,
//! which takes some microseconds.

mod folder;
mod stat;

use std::fs;
use std::time::Duration;

use crate::{Address, Tid};
pub use folder::ProcessFolder;
pub use stat::{RunState, ThreadStat};

/// The state of a thread in the kernel: the content of `/proc/<pid>/task/<tid>/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallState {
    /// The thread runs, or is ready to run.
    Running,
    /// The thread waits in the kernel.
    Waiting {
        /// The system call that it waits in. `None` for another wait, such as a page fault.
        call: Option<SyscallEntry>,
        /// Its stack pointer when it entered the kernel.
        sp: Address,
        /// Its instruction pointer when it entered the kernel.
        ip: Address,
    },
}

/// A system call that a thread has made and that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyscallEntry {
    /// The kernel's number of the call (`libc::SYS_*`).
    pub number: i64,
    /// The first argument, which is a file descriptor for most calls that have one.
    pub first_argument: u64,
}

/// Returns the state of a thread; `None` when it has ended, or where the file cannot be read.
///
/// In a process that is not dumpable, and not root's, the file belongs to root. A thread that runs
/// is recognised by `stat` then, and the state of one that waits is `None`.
///
/// ```
/// use pollwatch_stack::procfs::{self, SyscallState};
/// use pollwatch_stack::Tid;
///
/// let own = Tid::current();
/// let reader = std::thread::spawn(move || own.and_then(procfs::syscall)).join().unwrap();
/// if let Some(state) = reader {
///     // This thread waits for the other one, or has just been woken.
///     assert!(matches!(state, SyscallState::Waiting { .. } | SyscallState::Running));
/// }
/// ```
pub fn syscall(tid: Tid) -> Option<SyscallState> {
    ProcessFolder::OWN.syscall(tid)
}

fn parse_syscall(line: &str) -> Option<SyscallState> {
    let line = line.trim();
    if line == "running" {
        return Some(SyscallState::Running);
    }
    let mut words = line.split(' ');
    let number: i64 = words.next()?.parse().ok()?;
    let rest: Vec<u64> =
        words.map(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16)).collect::<Result<_, _>>().ok()?;
    let (call, sp, ip) = match (number, &rest[..]) {
        (0.., &[first_argument, .., sp, ip]) => (Some(SyscallEntry { number, first_argument }), sp, ip),
        (_, &[sp, ip]) => (None, sp, ip),
        _ => return None,
    };
    Some(SyscallState::Waiting { call, sp: Address::new(sp), ip: Address::new(ip) })
}

/// The time that a thread has been on a CPU, how long it waited for one, and how often it got one,
/// over its whole life.
///
/// Two readings differ if the thread has run in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunCount {
    /// The time on a CPU. The kernel updates it at each scheduler tick.
    pub on_cpu: Duration,
    /// The run delay: how long the thread was ready to run without a CPU. The kernel adds a wait
    /// when the thread gets its CPU, not before.
    pub run_delay: Duration,
    /// The number of times that the thread was given a CPU.
    pub times: u64,
}

/// Returns the times that the kernel's scheduler counts for a thread (`schedstat`); `None` when it
/// has ended, or where the kernel does not count them.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// // A thread that is reading has run since its reading before.
/// let own = Tid::current();
/// if let (Some(before), Some(now)) = (own.and_then(procfs::ran), own.and_then(procfs::ran)) {
///     assert!(now.on_cpu >= before.on_cpu);
/// }
/// ```
pub fn ran(tid: Tid) -> Option<RunCount> {
    ProcessFolder::OWN.ran(tid)
}

impl RunCount {
    /// Parses the content of a file `schedstat`. `None` if its counts are zero: the kernel does not
    /// count, or the thread has never run.
    ///
    /// ```
    /// use pollwatch_stack::procfs::RunCount;
    ///
    /// assert_eq!(RunCount::parse("5000 700 3\n").map(|count| count.times), Some(3));
    /// assert_eq!(RunCount::parse("0 0 0\n"), None);
    /// ```
    pub fn parse(schedstat: &str) -> Option<RunCount> {
        let mut words = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
        let on_cpu = Duration::from_nanos(words.next()?.ok()?);
        let run_delay = Duration::from_nanos(words.next()?.ok()?);
        let times = words.next()?.ok()?;
        (times > 0).then_some(RunCount { on_cpu, run_delay, times })
    }
}

/// The page faults of a thread: accesses to memory that was not mapped, which the kernel handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PageFaults {
    /// Those that did not wait: the page was new, or in the page cache.
    pub minor: u64,
    /// Those that waited for the page, which was on a disk or elsewhere.
    pub major: u64,
}

/// Returns the page faults of a thread over its whole life (`stat`); `None` when it has ended.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// if let Some(faults) = Tid::current().and_then(procfs::page_faults) {
///     println!("{} faults, {} of which waited", faults.minor + faults.major, faults.major);
/// }
/// ```
pub fn page_faults(tid: Tid) -> Option<PageFaults> {
    ProcessFolder::OWN.page_faults(tid)
}

/// Returns the name of a thread, of which the kernel stores 15 bytes; `None` when it has ended.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// if let Some(name) = Tid::current().and_then(procfs::name) {
///     println!("this is {name}");
/// }
/// ```
pub fn name(tid: Tid) -> Option<String> {
    ProcessFolder::OWN.name(tid)
}

/// Returns the name of the kernel's function in which a thread sleeps (`wchan`); `None` for a
/// thread that does not, and where the kernel does not say.
///
/// Unlike the [system call](syscall), it can be read in a process that is not dumpable.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// // A thread that is reading does not sleep.
/// assert_eq!(Tid::current().and_then(procfs::wait_channel), None);
/// ```
pub fn wait_channel(tid: Tid) -> Option<String> {
    ProcessFolder::OWN.wait_channel(tid)
}

/// Returns the time that the hypervisor gave this machine's CPUs to others while they had work to
/// do, summed over all CPUs since the start (`steal` of `/proc/stat`); zero on real hardware.
///
/// The kernel counts it in units of 10 ms. A call takes some 20 microseconds, and more with each
/// CPU.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// let before = pollwatch_stack::procfs::steal();
/// # let work = || ();
/// work();
/// if let (Some(before), Some(now)) = (before, pollwatch_stack::procfs::steal()) {
///     println!("{:?} were stolen in {:?}", now.saturating_sub(before), start.elapsed());
/// }
/// ```
pub fn steal() -> Option<Duration> {
    time_of_cpus(STEAL)
}

/// Returns the time that this machine's CPUs had nothing to do, summed over all of them since the
/// start (`idle` and `iowait` of `/proc/stat`).
///
/// A call takes some 20 microseconds, and more with each CPU.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let (before, start) = (pollwatch_stack::procfs::idle(), Instant::now());
/// # let work = || ();
/// work();
/// if let (Some(before), Some(now)) = (before, pollwatch_stack::procfs::idle()) {
///     println!("{:?} of idle CPUs in {:?}", now.saturating_sub(before), start.elapsed());
/// }
/// ```
pub fn idle() -> Option<Duration> {
    time_of_cpus(IDLE)
}

/// The unit of times in procfs: USER_HZ is 100 on all platforms that captures work on.
const UNIT_MILLIS: u64 = 10;

/// The fields `idle` and `iowait` in the line of all CPUs in `/proc/stat`.
const IDLE: &[usize] = &[3, 4];
/// The field `steal` there.
const STEAL: &[usize] = &[7];

fn time_of_cpus(fields: &[usize]) -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    parse_time_of_cpus(stat.lines().next()?, fields)
}

/// Returns the sum of some fields of the line of all CPUs.
fn parse_time_of_cpus(line: &str, fields: &[usize]) -> Option<Duration> {
    let times: Vec<&str> = line.strip_prefix("cpu ")?.split_ascii_whitespace().collect();
    let time = |&field: &usize| times.get(field)?.parse::<u64>().ok();
    let units = fields.iter().map(time).try_fold(0u64, |sum, time| sum.checked_add(time?))?;
    units.checked_mul(UNIT_MILLIS).map(Duration::from_millis)
}

/// Returns what a file descriptor of this process refers to: a path, `socket:[..]`, `pipe:[..]`.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use std::os::fd::AsRawFd;
///
/// let null = std::fs::File::open("/dev/null")?;
/// let name = pollwatch_stack::procfs::descriptor(null.as_raw_fd() as u64);
/// assert_eq!(name.as_deref(), Some("/dev/null"));
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn descriptor(fd: u64) -> Option<String> {
    ProcessFolder::OWN.descriptor(fd)
}

/// Returns the ids of all threads of this process; `None` where they cannot be listed.
///
/// ```
/// use pollwatch_stack::{Tid, procfs};
///
/// if let (Some(own), Some(threads)) = (Tid::current(), procfs::threads()) {
///     assert!(threads.contains(&own));
/// }
/// ```
pub fn threads() -> Option<Vec<Tid>> {
    ProcessFolder::OWN.threads()
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn read(tid: Tid, file: &str) -> Option<String> {
        ProcessFolder::OWN.read_of(tid, file)
    }

    #[test]
    fn syscall_lines_are_parsed() {
        assert_eq!(parse_syscall("running\n"), Some(SyscallState::Running));
        let waiting = |call, sp, ip| SyscallState::Waiting { call, sp: Address::new(sp), ip: Address::new(ip) };
        let line = "35 0x7ffd 0x0 0x1 0x2 0x3 0x4 0x7fff00 0x401000\n";
        let call = SyscallEntry { number: 35, first_argument: 0x7ffd };
        assert_eq!(parse_syscall(line), Some(waiting(Some(call), 0x7fff00, 0x401000)));
        assert_eq!(parse_syscall("-1 0x10 0x20"), Some(waiting(None, 0x10, 0x20)));
        for bad in ["", "x", "35", "35 zz", "35 0x1"] {
            assert_eq!(parse_syscall(bad), None, "{bad}");
        }
    }

    #[test]
    fn page_faults_of_this_thread() {
        let own = Tid::current().unwrap();
        let before = page_faults(own).unwrap();
        // More than the allocator ever keeps for later use.
        let mut memory = vec![0u8; 64 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = std::hint::black_box(1));
        let now = page_faults(own).unwrap();
        // Four pages at least, where they are huge.
        assert!(now.minor >= before.minor + 4, "{before:?} {now:?}");
    }

    /// A program may give a thread any name. The text of `stat` and `status` contains it.
    #[test]
    fn a_name_of_any_bytes_hides_nothing() {
        std::thread::spawn(|| {
            // SAFETY: the kernel copies a string that ends with a zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"a\xff) R\xfe".as_ptr()) };
            let own = Tid::current().unwrap();
            assert!(page_faults(own).is_some());
            assert_eq!(ProcessFolder::OWN.stat(own).unwrap().state, RunState::Running);
            assert!(read(own, "status").unwrap().contains("\nSigBlk:"));
            assert_eq!(name(own).as_deref(), Some("a\u{fffd}) R\u{fffd}"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn times_of_all_cpus_are_parsed() {
        let line = "cpu  10 2 3 400 50 6 7 250 9 10";
        assert_eq!(parse_time_of_cpus(line, STEAL), Some(Duration::from_millis(2500)));
        assert_eq!(parse_time_of_cpus(line, IDLE), Some(Duration::from_millis(4500)));
        for bad in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3 4", "cpu  1 2 3 4 x 6 7 x"] {
            assert_eq!(parse_time_of_cpus(bad, STEAL), None, "{bad}");
            assert_eq!(parse_time_of_cpus(bad, IDLE), None, "{bad}");
        }
        assert!(steal().is_some() && idle() > Some(Duration::ZERO));
    }

    #[test]
    fn state_of_a_parked_thread() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(Tid::current().unwrap()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let in_futex = |state| match state {
            Some(SyscallState::Waiting { call: Some(call), .. }) => call.number == libc::SYS_futex,
            _ => false,
        };
        while !in_futex(syscall(tid)) {
            assert!(std::time::Instant::now() < deadline, "{:?}", syscall(tid));
            std::thread::yield_now();
        }
        assert!(ran(tid).is_some() && ran(tid) == ran(tid));
        assert!(threads().unwrap().contains(&tid));
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

//! A thread of this process: its id, its CPU time, the bounds of its stack.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod imp;
#[cfg(not(target_os = "linux"))]
#[path = "other.rs"]
mod imp;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use crate::Address;

/// The kernel's id of a process, as this process' `/proc` knows it.
///
/// ```
/// use pollwatch_stack::Pid;
///
/// assert_eq!(Pid::current().as_raw() as u32, std::process::id());
/// assert_eq!("42".parse(), Ok(Pid::from_raw(42)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pid(i32);

impl Pid {
    /// Returns the id of this process.
    pub fn current() -> Pid {
        Pid(std::process::id() as i32)
    }

    /// Wraps an id that the kernel gave, such as a name in `/proc`.
    pub const fn from_raw(id: i32) -> Pid {
        Pid(id)
    }

    /// Returns the id as the kernel's integer.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Returns the CPU time that all threads of this process have used so far; `None` where that
    /// cannot be known. Costs one system call.
    ///
    /// ```
    /// let (before, start) = (pollwatch_stack::Pid::own_cpu_time(), std::time::Instant::now());
    /// # let work = || ();
    /// work();
    /// if let (Some(before), Some(now)) = (before, pollwatch_stack::Pid::own_cpu_time()) {
    ///     println!("{:?} of CPU time in {:?}", now - before, start.elapsed());
    /// }
    /// ```
    pub fn own_cpu_time() -> Option<Duration> {
        imp::cpu_time_of_process()
    }

    /// Returns the id of the process' first thread, which is the same number.
    pub const fn first_thread(self) -> Tid {
        Tid(self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Pid {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Pid, ParseIntError> {
        text.parse().map(Pid)
    }
}

/// The kernel's id of a thread.
///
/// ```
/// use pollwatch_stack::Tid;
///
/// assert_eq!(Tid::from_raw(42).to_string(), "42");
/// assert_eq!(Tid::from_raw(42).as_raw(), 42);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tid(i32);

impl Tid {
    /// Returns the calling thread's id; `None` elsewhere than on Linux. Costs one system call.
    ///
    /// ```
    /// # use pollwatch_stack::Tid;
    /// assert_eq!(Tid::current().is_some(), cfg!(target_os = "linux"));
    /// ```
    pub fn current() -> Option<Tid> {
        imp::thread_id().map(Tid)
    }

    /// Wraps an id that the kernel gave, such as a name in `/proc/self/task`.
    pub const fn from_raw(id: i32) -> Tid {
        Tid(id)
    }

    /// Returns the id as the kernel's integer.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Returns the CPU time that the thread has used; `None` when it has ended. Costs one system
    /// call, some 200 ns.
    ///
    /// ```
    /// # use pollwatch_stack::Tid;
    /// if let Some(tid) = Tid::current() {
    ///     assert!(tid.cpu_time().is_some());
    /// }
    /// ```
    pub fn cpu_time(self) -> Option<Duration> {
        imp::cpu_time(self.0)
    }

    /// Returns the CPU time that the thread has used in user mode and in the kernel, as the kernel
    /// samples it; `None` when it has ended. Costs two system calls.
    ///
    /// ```
    /// # use pollwatch_stack::Tid;
    /// if let Some(modes) = Tid::current().and_then(Tid::cpu_modes) {
    ///     println!("{:?} in user mode, {:?} in the kernel", modes.user, modes.system);
    /// }
    /// ```
    pub fn cpu_modes(self) -> Option<CpuModes> {
        imp::cpu_modes(self.0)
    }
}

/// The CPU time of a thread by the mode of the CPU.
///
/// Most kernels find the mode by sampling: at each tick (1, 4 or 10 ms, by `CONFIG_HZ`) they add
/// the length of a tick to the mode that the thread is in. So a difference of two readings is a
/// multiple of a tick, which is what the share of a mode is known by: of `n` ticks, with a standard
/// error of at most `0.5 / sqrt(n)`. The sum differs from [`Tid::cpu_time`], which is measured, by
/// a tick or two. `/proc/self/task/<tid>/stat` has the same samples, in units of 10 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuModes {
    /// The time in user mode.
    pub user: Duration,
    /// The time in the kernel: in system calls, page faults and interrupts.
    pub system: Duration,
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bounds of a thread's stack.
///
/// Only the thread itself can make them, so that no signal handler ever copies memory that is not a
/// stack.
///
/// ```
/// use pollwatch_stack::StackBounds;
///
/// if let Some(bounds) = StackBounds::current() {
///     assert!(bounds.low() < bounds.high());
///     assert!(bounds.contains(bounds.low()) && !bounds.contains(bounds.high()));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackBounds {
    low: Address,
    high: Address,
}

impl StackBounds {
    /// Returns the bounds of the calling thread's stack; `None` elsewhere than on Linux and without
    /// the feature `capture`. On the main thread glibc reads `/proc/self/maps` for them.
    pub fn current() -> Option<StackBounds> {
        if !cfg!(feature = "capture") {
            return None;
        }
        let bounds = imp::own_stack()?;
        Some(StackBounds { low: Address::new(bounds.start as u64), high: Address::new(bounds.end as u64) })
    }

    /// Returns the lowest address. A stack that grows below it overflows.
    pub fn low(self) -> Address {
        self.low
    }

    /// Returns the address behind the highest byte. The thread's first frame is just below it.
    pub fn high(self) -> Address {
        self.high
    }

    /// Returns whether an address lies in the stack.
    pub fn contains(self, address: Address) -> bool {
        (self.low..self.high).contains(&address)
    }
}

/// What only captures need.
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
impl StackBounds {
    /// The bounds of a stack of which nothing is known. It is read through the kernel alone, which
    /// finds its end: also by the signal handler.
    pub(crate) const UNKNOWN: StackBounds = StackBounds { low: Address::new(0), high: Address::new(u64::MAX) };

    /// Makes the bounds of memory that may be read through the kernel as a stack, and never by a
    /// signal handler. `None` if it is empty.
    pub(crate) fn from_mapping(low: Address, high: Address) -> Option<StackBounds> {
        (low < high).then_some(StackBounds { low, high })
    }
}

/// A thread whose stack may be captured.
///
/// # Examples
///
/// A thread makes its `Target` once. Any other thread can then capture its stack at any time:
///
/// ```
/// use pollwatch_stack::{Capturer, Target};
///
/// let target = std::thread::spawn(Target::current).join().unwrap();
/// if let Some(target) = target {
///     // The thread has ended.
///     assert!(Capturer::new().capture(target).is_err());
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The thread's id.
    pub tid: Tid,
    /// The bounds of its stack. A stack of another thread makes every capture end with
    /// [`CaptureError::Elsewhere`](crate::CaptureError::Elsewhere).
    pub stack: StackBounds,
}

impl Target {
    /// Returns the calling thread; `None` where [`StackBounds::current`] returns `None`.
    pub fn current() -> Option<Target> {
        Some(Target { tid: Tid::current()?, stack: StackBounds::current()? })
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// Runs `work` until the kernel has sampled it often enough, and returns what was sampled. A
    /// virtual machine whose host takes the CPU away gets few samples in much CPU time.
    fn modes_of(mut work: impl FnMut()) -> CpuModes {
        const ENOUGH: Duration = Duration::from_millis(80);
        let own = Tid::current().unwrap();
        let (start, before) = (own.cpu_time().unwrap(), own.cpu_modes().unwrap());
        loop {
            work();
            let now = own.cpu_modes().unwrap();
            let modes = CpuModes { user: now.user - before.user, system: now.system - before.system };
            if modes.user + modes.system >= ENOUGH {
                return modes;
            }
            assert!(own.cpu_time().unwrap() < start + Duration::from_secs(20), "{modes:?}");
        }
    }

    #[test]
    fn user_and_system_time_are_told_apart() {
        let computing = modes_of(|| {
            std::hint::black_box((0..100_000u64).fold(0, |sum, i| std::hint::black_box(sum + i)));
        });
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let mut buffer = vec![0; 4 << 20];
        let reading = modes_of(|| {
            std::io::Read::read_exact(&mut &zero, &mut buffer).unwrap();
        });
        assert!(computing.user > 2 * computing.system, "{computing:?}");
        assert!(reading.system > 2 * reading.user, "{reading:?}");
    }

    #[test]
    #[cfg(feature = "capture")]
    fn a_local_lies_in_the_own_stack() {
        let local = 0u8;
        let bounds = StackBounds::current().unwrap();
        assert!(bounds.contains(Address::new(std::ptr::from_ref(&local) as u64)));
        assert!(!bounds.contains(bounds.high()));
    }

    #[test]
    fn cpu_time_of_another_thread() {
        const TIME: Duration = Duration::from_millis(2);
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let own = Tid::current().unwrap();
            send.send(own).unwrap();
            let start = own.cpu_time().unwrap();
            while own.cpu_time().unwrap() < start + TIME {}
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        while tid.cpu_time().expect("the thread is alive") < TIME {
            std::thread::yield_now();
        }
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

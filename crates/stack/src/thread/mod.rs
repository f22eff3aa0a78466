//! A thread of this process: its id, its CPU time, the bounds of its stack.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod imp;
#[cfg(not(target_os = "linux"))]
#[path = "other.rs"]
mod imp;

use std::fmt;
use std::time::Duration;

use crate::Address;

/// The kernel's id of a thread of this process.
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
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bounds of a thread's stack.
///
/// Only the thread itself can make them. So no memory is ever copied that is not a stack.
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

//! What the kernel did on behalf of a thread during a stall: CPU time, page faults, steal.

use std::time::Duration;

pub use pollwatch_stack::procfs::PageFaults;

/// The work of the kernel for a thread since a stall was first observed. Each part is `None` where
/// it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelUsage {
    /// The part of the thread's CPU time that was in the kernel.
    pub(crate) system_time: Option<Duration>,
    pub(crate) page_faults: Option<PageFaults>,
    /// The time that the hypervisor withheld the machine's CPUs.
    pub(crate) steal: Option<Duration>,
    /// The time of the thread's longest fork during the stall.
    pub(crate) fork: Option<Duration>,
}

use super::{arch, memory, signal};
use crate::{Capability, Tid, procfs};

const NO_SIGNAL: &str = "tgkill, which sends the signal to a running thread, is not permitted";

/// Returns which threads' stacks can be captured in this process. Costs a few system calls; sends
/// no signal and installs no handler.
///
/// ```
/// println!("stacks can be captured of {}", pollwatch_stack::capability());
/// ```
pub fn capability() -> Capability {
    let here = [1u8; 8];
    if Tid::current().and_then(procfs::syscall).is_none() {
        Capability::Unavailable("/proc/self/task/*/syscall cannot be read")
    } else if !memory::read(here.as_ptr() as u64, &mut [0; 8]) {
        Capability::Unavailable("neither process_vm_readv nor /proc/self/mem gives this process' memory")
    } else if signal::may_be_sent() {
        Capability::AllThreads
    } else {
        without_signal(NO_SIGNAL)
    }
}

/// Returns which threads' stacks can be captured, according to the captures so far; `None` as long
/// as none of them contradicts [`capability`].
///
/// ```
/// use pollwatch_stack::{capability, degradation};
///
/// println!("stacks can be captured of {}", degradation().unwrap_or_else(capability));
/// ```
pub fn degradation() -> Option<Capability> {
    signal::degradation().map(without_signal)
}

fn without_signal(why: &'static str) -> Capability {
    if arch::FROM_SYSCALL { Capability::WaitingThreadsOnly(why) } else { Capability::Unavailable(why) }
}

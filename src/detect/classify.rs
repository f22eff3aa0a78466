//! Classification of a blocked thread, by the state that the kernel reports and by what it counts
//! of the thread's time. Pure.

use super::procfs::{Descriptor, SyscallState};
pub(crate) use super::syscalls::describe;
use super::time_account::Shares;
use crate::model::cause::{Cause, Purpose, Syscall};
use crate::model::event::CpuVerdict;

/// The share of a CPU above which a thread computes, if nothing else is known of its state.
const COMPUTING_SHARE: f64 = 0.5;
/// The share of a CPU above which a thread computes, even if it waits at this moment.
const COMPUTING_SHARE_OF_WAITING: f64 = 0.9;

/// Returns the system call that a thread in this state waits in. `descriptor` reads a descriptor of
/// the thread's process.
pub(crate) fn syscall_in(
    state: Option<SyscallState>,
    descriptor: impl FnOnce(u64) -> Option<Descriptor>,
) -> Option<Syscall> {
    let Some(SyscallState::Waiting { call: Some(call), .. }) = state else { return None };
    let (name, purpose) = describe(call.number);
    Some(match purpose.has_descriptor().then(|| descriptor(call.first_argument)).flatten() {
        Some(Descriptor { target, is_nonblocking: true }) => {
            let purpose = purpose.in_nonblocking_mode(&target);
            Syscall { name, target: Some(target), purpose }
        }
        descriptor => Syscall { name, target: descriptor.map(|descriptor| descriptor.target), purpose },
    })
}

/// The observations of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// The state of the thread, if the kernel reports it.
    pub(crate) state: Option<SyscallState>,
    /// The purpose of the kernel's function that the thread sleeps in, where its system call cannot
    /// be read.
    pub(crate) sleeps_in: Option<Purpose>,
    /// How the thread spent the time since the previous examination, if that is known.
    pub(crate) shares: Option<Shares>,
    /// The verdict about the whole stall so far.
    pub(crate) verdict: CpuVerdict,
}

impl Evidence {
    /// Returns whether the thread is ready to run at this moment, but was asleep for most of the
    /// time, as in a loop of short waits.
    pub(crate) fn waits_in_between(&self) -> bool {
        self.state == Some(SyscallState::Running) && self.shares.is_some_and(|shares| shares.asleep() > shares.cpu)
    }
}

/// Returns the cause that the evidence shows.
///
/// A stall is starved as long as its run delay accounts for it: without that, it would not have
/// reached the threshold. Beyond that, run delay is no cause: what counts is what the thread does
/// with the CPU that it gets.
pub(crate) fn classify(evidence: Evidence) -> Cause {
    let Evidence { state, sleeps_in, shares, verdict } = evidence;
    let computes = |limit| shares.is_some_and(|shares| shares.cpu > limit);
    match state {
        _ if verdict == CpuVerdict::Starved => Cause::Starved,
        None if sleeps_in.is_some() && computes(COMPUTING_SHARE_OF_WAITING) => Cause::Cpu,
        None if sleeps_in == Some(Purpose::Futex) => Cause::Lock,
        None if sleeps_in.is_some() => Cause::Syscall,
        Some(SyscallState::Waiting { .. }) if computes(COMPUTING_SHARE_OF_WAITING) => Cause::Cpu,
        Some(SyscallState::Waiting { call: Some(call), .. }) if describe(call.number).1 == Purpose::Futex => {
            Cause::Lock
        }
        Some(SyscallState::Waiting { .. }) => Cause::Syscall,
        Some(SyscallState::Running) if shares.is_some_and(|shares| shares.cpu >= shares.asleep()) => Cause::Cpu,
        None if computes(COMPUTING_SHARE) => Cause::Cpu,
        Some(SyscallState::Running) | None => Cause::Unknown,
    }
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(pollwatch_loom)))]
mod tests {
    use super::*;
    use pollwatch_stack::Address;
    use pollwatch_stack::procfs::SyscallEntry;

    /// Returns the cause of a stall that would have been one without its run delay.
    fn of(state: Option<SyscallState>, shares: Option<(f64, f64)>) -> Cause {
        let shares = shares.map(|(cpu, run_delay)| Shares { cpu, run_delay });
        classify(Evidence { state, sleeps_in: None, shares, verdict: CpuVerdict::Other })
    }

    fn waiting(call: Option<i64>) -> Option<SyscallState> {
        let call = call.map(|number| SyscallEntry { number, first_argument: 3 });
        Some(SyscallState::Waiting { call, sp: Address::default(), ip: Address::default() })
    }

    #[test]
    fn causes() {
        let running = Some(SyscallState::Running);
        assert_eq!(of(running, Some((0.98, 0.0))), Cause::Cpu);
        assert_eq!(of(running, Some((0.2, 0.7))), Cause::Cpu, "it computes when it gets a CPU");
        assert_eq!(of(running, Some((0.1, 0.0))), Cause::Unknown, "it waits for something, and runs just now");
        assert_eq!(of(waiting(Some(libc::SYS_futex)), Some((0.0, 0.0))), Cause::Lock);
        assert_eq!(of(waiting(Some(libc::SYS_futex_waitv)), Some((0.0, 0.0))), Cause::Lock);
        assert_eq!(of(waiting(Some(libc::SYS_read)), Some((0.6, 0.0))), Cause::Syscall);
        assert_eq!(
            of(waiting(Some(libc::SYS_write)), Some((0.97, 0.0))),
            Cause::Cpu,
            "it happened to print at that moment"
        );
        assert_eq!(of(waiting(None), Some((0.0, 0.0))), Cause::Syscall, "a page that has to be read");
        assert_eq!(of(None, Some((0.9, 0.0))), Cause::Cpu);
        assert_eq!(of(None, Some((0.1, 0.9))), Cause::Unknown, "asleep or starved: unknown");
        assert_eq!(of(running, None), Cause::Unknown);
    }

    #[test]
    fn a_call_in_non_blocking_mode_has_a_purpose_of_its_own() {
        let purpose = |number, target: &str, is_nonblocking| {
            let descriptor = Descriptor { target: target.into(), is_nonblocking };
            let syscall = syscall_in(waiting(Some(number)), |_| Some(descriptor)).unwrap();
            assert_eq!(syscall.target.as_deref(), Some(target));
            syscall.purpose
        };
        assert_eq!(purpose(libc::SYS_sendto, "socket:[1]", true), Purpose::Nonblocking);
        assert_eq!(purpose(libc::SYS_sendto, "socket:[1]", false), Purpose::Socket);
        assert_eq!(purpose(libc::SYS_read, "pipe:[1]", true), Purpose::Nonblocking);
        assert_eq!(purpose(libc::SYS_read, "pipe:[1]", false), Purpose::Io);
        assert_eq!(purpose(libc::SYS_read, "/var/data", true), Purpose::Io, "a file has no such mode");
    }

    #[test]
    fn a_wait_channel_stands_in_for_the_system_call() {
        let of = |sleeps_in, cpu| {
            let shares = Some(Shares { cpu, run_delay: 0.0 });
            classify(Evidence { state: None, sleeps_in, shares, verdict: CpuVerdict::Other })
        };
        assert_eq!(of(Some(Purpose::Futex), 0.1), Cause::Lock);
        assert_eq!(of(Some(Purpose::Unknown), 0.6), Cause::Syscall);
        assert_eq!(of(Some(Purpose::Sleep), 0.97), Cause::Cpu);
        assert_eq!(of(None, 0.1), Cause::Unknown);
    }

    #[test]
    fn a_stall_is_starved_as_long_as_its_run_delay_accounts_for_it() {
        let shares = Some(Shares { cpu: 0.2, run_delay: 0.7 });
        let evidence = |state, verdict| Evidence { state, sleeps_in: None, shares, verdict };
        for state in [Some(SyscallState::Running), waiting(Some(libc::SYS_read)), None] {
            assert_eq!(classify(evidence(state, CpuVerdict::Starved)), Cause::Starved);
            assert_ne!(classify(evidence(state, CpuVerdict::Other)), Cause::Starved);
            assert_ne!(classify(evidence(state, CpuVerdict::Computed)), Cause::Starved);
        }
    }

    #[test]
    fn a_thread_that_runs_but_mostly_sleeps_waits_in_between() {
        let of = |state, cpu, run_delay| {
            let shares = Some(Shares { cpu, run_delay });
            Evidence { state, sleeps_in: None, shares, verdict: CpuVerdict::Other }.waits_in_between()
        };
        assert!(of(Some(SyscallState::Running), 0.1, 0.3));
        assert!(!of(Some(SyscallState::Running), 0.2, 0.7) && !of(waiting(None), 0.1, 0.0) && !of(None, 0.1, 0.0));
    }
}

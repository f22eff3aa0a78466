use std::ops::Range;
use std::time::Duration;

use super::CpuModes;

pub(super) fn thread_id() -> Option<i32> {
    // SAFETY: gettid takes no argument and cannot fail. (glibc has a function for it since 2.30
    // only.)
    Some(unsafe { libc::syscall(libc::SYS_gettid) } as i32)
}

pub(super) fn cpu_time(tid: i32) -> Option<Duration> {
    read_clock(tid, CpuClock::Scheduler)
}

/// Returns the CPU time of all threads of this process.
pub(super) fn cpu_time_of_process() -> Option<Duration> {
    read_time(libc::CLOCK_PROCESS_CPUTIME_ID)
}

pub(super) fn cpu_modes(tid: i32) -> Option<CpuModes> {
    // In this order, a tick between the two readings counts as system time at worst.
    let user = read_clock(tid, CpuClock::User)?;
    let both = read_clock(tid, CpuClock::UserAndSystem)?;
    Some(CpuModes { user, system: both.saturating_sub(user) })
}

/// A CPU clock of a thread. The value is that of the kernel's constant `CPUCLOCK_*`.
#[derive(Clone, Copy)]
enum CpuClock {
    UserAndSystem = 0,
    User = 1,
    Scheduler = 2,
}

fn read_clock(tid: i32, which: CpuClock) -> Option<Duration> {
    const PER_THREAD: i32 = 4;
    // The kernel's encoding of a thread's CPU clock, as `pthread_getcpuclockid` makes that of the
    // scheduler. The clock of a thread that has ended is an error here; its `pthread_t` would be a
    // dangling pointer.
    read_time((!tid << 3) | PER_THREAD | which as i32)
}

fn read_time(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

pub(super) fn own_stack() -> Option<Range<usize>> {
    // SAFETY: `attr` is made by pthread_getattr_np before it is read and destroyed; all pointers
    // are valid for the calls.
    unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attr) != 0 {
            return None;
        }
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        let known = libc::pthread_attr_getstack(&attr, &mut low, &mut size) == 0;
        libc::pthread_attr_destroy(&mut attr);
        known.then_some(low as usize..low as usize + size)
    }
}

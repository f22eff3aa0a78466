use std::ops::Range;
use std::time::Duration;

pub(super) fn thread_id() -> Option<i32> {
    // SAFETY: gettid takes no argument and cannot fail. (glibc has a function for it since 2.30
    // only.)
    Some(unsafe { libc::syscall(libc::SYS_gettid) } as i32)
}

pub(super) fn cpu_time(tid: i32) -> Option<Duration> {
    // The kernel's encoding of a thread's CPU clock (CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED), as
    // `pthread_getcpuclockid` makes it. The clock of a thread that has ended is an error here; its
    // `pthread_t` would be a dangling pointer.
    let clock = (!tid << 3) | 6;
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

//! The few system calls of the library, each with an answer where the platform has none.

#[cfg(target_os = "linux")]
mod imp {
    const MEMBARRIER_CMD_PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: membarrier takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(crate) fn register_barrier() -> bool {
        membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    pub(crate) fn barrier() -> bool {
        membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }

    pub(crate) fn thread_id() -> Option<i32> {
        // SAFETY: gettid takes nothing and cannot fail. (As a function the C library has it from glibc 2.30 on only.)
        Some(unsafe { libc::syscall(libc::SYS_gettid) } as i32)
    }

    pub(crate) fn thread_cpu_nanos(tid: i32) -> Option<u64> {
        // The kernel's encoding of a thread's CPU clock (CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED), as `pthread_getcpuclockid`
        // makes it; from the id, so that a thread that has exited gives an error and not a dangling `pthread_t`.
        let clock = (!tid << 3) | 6;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place to write to.
        let result = unsafe { libc::clock_gettime(clock, &mut time) };
        (result == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    pub(crate) fn peer(fd: u64) -> Option<std::net::SocketAddr> {
        use std::os::fd::FromRawFd;
        let fd = i32::try_from(fd).ok()?;
        // SAFETY: the descriptor is only asked for its peer, and not closed: `ManuallyDrop` gives it back. It belongs to a blocked
        // thread; should that close it meanwhile, the answer is an error, or that of another socket.
        let socket = std::mem::ManuallyDrop::new(unsafe { std::net::TcpStream::from_raw_fd(fd) });
        socket.peer_addr().ok()
    }

    #[cfg(feature = "capture")]
    pub(crate) fn own_stack() -> Option<(usize, usize)> {
        // SAFETY: `attr` is made by pthread_getattr_np before it is read and destroyed; all pointers are valid for the calls.
        unsafe {
            let mut attr: libc::pthread_attr_t = std::mem::zeroed();
            if libc::pthread_getattr_np(libc::pthread_self(), &mut attr) != 0 {
                return None;
            }
            let (mut low, mut size) = (std::ptr::null_mut(), 0);
            let known = libc::pthread_attr_getstack(&attr, &mut low, &mut size) == 0;
            libc::pthread_attr_destroy(&mut attr);
            known.then_some((low as usize, low as usize + size))
        }
    }

    pub(crate) struct OwnRunDelay(Option<std::fs::File>);

    impl OwnRunDelay {
        pub(crate) fn open() -> OwnRunDelay {
            OwnRunDelay(std::fs::File::open("/proc/thread-self/schedstat").ok())
        }

        pub(crate) fn nanos(&self) -> Option<u64> {
            let mut text = [0; 96];
            let len = std::os::unix::fs::FileExt::read_at(self.0.as_ref()?, &mut text, 0).ok()?;
            std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(crate) fn register_barrier() -> bool {
        false
    }

    pub(crate) fn barrier() -> bool {
        false
    }

    pub(crate) fn thread_id() -> Option<i32> {
        None
    }

    pub(crate) fn thread_cpu_nanos(_tid: i32) -> Option<u64> {
        None
    }

    pub(crate) fn peer(_fd: u64) -> Option<std::net::SocketAddr> {
        None
    }

    #[cfg(feature = "capture")]
    pub(crate) fn own_stack() -> Option<(usize, usize)> {
        None
    }

    pub(crate) struct OwnRunDelay;

    impl OwnRunDelay {
        pub(crate) fn open() -> OwnRunDelay {
            OwnRunDelay
        }

        pub(crate) fn nanos(&self) -> Option<u64> {
            None
        }
    }
}

/// Asks the kernel for [`barrier`]; false where there is none.
pub(crate) use imp::register_barrier;

/// A memory barrier on every running thread of this process (`membarrier(PRIVATE_EXPEDITED)`): one interrupt to each CPU that
/// runs one of our threads.
pub(crate) use imp::barrier;

/// The calling thread's id in the kernel.
pub(crate) use imp::thread_id;

/// The CPU time that a thread of this process has used; `None` when it has exited.
pub(crate) use imp::thread_cpu_nanos;

/// How long the thread that opened it was ready to run in all, but had no CPU (`schedstat`); about 1 µs a reading.
pub(crate) use imp::OwnRunDelay;

/// The other end of a socket of this process.
pub(crate) use imp::peer;

/// The bounds of the calling thread's stack.
#[cfg(feature = "capture")]
pub(crate) use imp::own_stack;

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    #[test]
    #[cfg(feature = "capture")]
    fn a_local_lies_in_the_own_stack() {
        let local = 0u8;
        let (low, high) = super::own_stack().unwrap();
        assert!((low..high).contains(&(std::ptr::from_ref(&local) as usize)));
    }

    #[test]
    fn cpu_time_of_another_thread() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(super::thread_id().unwrap()).unwrap();
            let begin = super::thread_cpu_nanos(super::thread_id().unwrap()).unwrap();
            while super::thread_cpu_nanos(super::thread_id().unwrap()).unwrap() < begin + 2_000_000 {}
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        while super::thread_cpu_nanos(tid).expect("it lives") < 2_000_000 {
            std::thread::yield_now();
        }
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

//! The system calls of the library. Each has a fallback for platforms that do not have it.

pub(crate) mod process;

use pollwatch_stack::Tid;

#[cfg(target_os = "linux")]
mod imp {
    /// The number of CPUs that a comparison visits.
    const MAX_CPUS: usize = 64;

    const MEMBARRIER_CMD_PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: membarrier takes three integers and writes to no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(crate) fn register_barrier() -> bool {
        membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    pub(crate) fn barrier() -> bool {
        membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }

    pub(crate) fn on_each_cpu(mut run: impl FnMut() -> bool) {
        const SIZE: usize = size_of::<libc::cpu_set_t>();
        // SAFETY: zeros are a valid `cpu_set_t`, an array of integers.
        let (mut allowed, empty): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
        // SAFETY: `allowed` has `SIZE` bytes, which the call fills.
        if unsafe { libc::sched_getaffinity(0, SIZE, &raw mut allowed) } != 0 {
            return;
        }
        // SAFETY: `cpu` is less than the number of bits of the set.
        let cpus = (0..8 * SIZE).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) });
        for cpu in cpus.take(MAX_CPUS) {
            let mut one = empty;
            // SAFETY: as above; the call only reads the set.
            let moved = unsafe {
                libc::CPU_SET(cpu, &mut one);
                libc::sched_setaffinity(0, SIZE, &raw const one) == 0
            };
            if moved && !run() {
                break;
            }
        }
        // SAFETY: the call only reads the set.
        unsafe { libc::sched_setaffinity(0, SIZE, &raw const allowed) };
    }

    #[cfg(all(test, not(pollwatch_loom)))]
    pub(crate) fn current_cpu() -> Option<usize> {
        // SAFETY: the call takes no arguments.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub(crate) fn peer(fd: u64) -> Option<std::net::SocketAddr> {
        use std::os::fd::FromRawFd;
        let fd = i32::try_from(fd).ok()?;
        // SAFETY: `ManuallyDrop` keeps the descriptor from being closed, and `peer_addr` only
        // reads. The descriptor belongs to a blocked thread. If that thread closes it meanwhile,
        // the result is an error, or the peer of another socket.
        let socket = std::mem::ManuallyDrop::new(unsafe { std::net::TcpStream::from_raw_fd(fd) });
        socket.peer_addr().ok()
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

    pub(crate) fn on_each_cpu(_run: impl FnMut() -> bool) {}

    #[cfg(all(test, not(pollwatch_loom)))]
    pub(crate) fn current_cpu() -> Option<usize> {
        None
    }

    pub(crate) fn peer(_fd: u64) -> Option<std::net::SocketAddr> {
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

/// Registers this process for [`barrier`]. Returns `false` where the kernel does not have it.
pub(crate) use imp::register_barrier;

/// Executes a memory barrier on every running thread of this process
/// (`membarrier(PRIVATE_EXPEDITED)`). It interrupts each CPU that runs such a thread. Returns
/// `false` where it has failed.
pub(crate) use imp::barrier;

/// The run delay of the thread that opened it: the time in which the thread was ready to run, but
/// had no CPU (`schedstat`). A reading takes about 1 µs.
pub(crate) use imp::OwnRunDelay;

/// Calls a function on each CPU that this thread may use, up to 64 of them. Moves the thread there,
/// which waits for a busy CPU as for any other.
pub(crate) use imp::on_each_cpu;

/// Returns the number of the CPU that runs this thread.
#[cfg(all(test, not(pollwatch_loom)))]
pub(crate) use imp::current_cpu;

/// Returns the address of the peer of a TCP socket of this process.
pub(crate) use imp::peer;

/// Returns the CPU time that a thread of this process has used, in nanoseconds; `None` when it has
/// ended.
pub(crate) fn thread_cpu_nanos(tid: Tid) -> Option<u64> {
    Some(tid.cpu_time()?.as_nanos() as u64)
}

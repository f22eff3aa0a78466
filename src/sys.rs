//! The system calls of the library. Each has a fallback for platforms that do not have it.

use pollwatch_stack::Tid;

#[cfg(target_os = "linux")]
mod imp {
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

/// Returns the address of the peer of a TCP socket of this process.
pub(crate) use imp::peer;

/// Returns the CPU time that a thread of this process has used, in nanoseconds; `None` when it has
/// ended.
pub(crate) fn thread_cpu_nanos(tid: Tid) -> Option<u64> {
    Some(tid.cpu_time()?.as_nanos() as u64)
}

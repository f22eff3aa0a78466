//! The few system calls of the library, each with an answer where the platform has none.

use pollwatch_stack::Tid;

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

    pub(crate) fn peer(fd: u64) -> Option<std::net::SocketAddr> {
        use std::os::fd::FromRawFd;
        let fd = i32::try_from(fd).ok()?;
        // SAFETY: the descriptor is only asked for its peer, and not closed: `ManuallyDrop` gives it back. It belongs to a blocked
        // thread; should that close it meanwhile, the answer is an error, or that of another socket.
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

/// Asks the kernel for [`barrier`]; false where there is none.
pub(crate) use imp::register_barrier;

/// A memory barrier on every running thread of this process (`membarrier(PRIVATE_EXPEDITED)`): one interrupt to each CPU that
/// runs one of our threads.
pub(crate) use imp::barrier;

/// How long the thread that opened it was ready to run in all, but had no CPU (`schedstat`); about 1 µs a reading.
pub(crate) use imp::OwnRunDelay;

/// The other end of a socket of this process.
pub(crate) use imp::peer;

/// Returns the CPU time that a thread of this process has used, in nanoseconds; `None` when it has
/// ended.
pub(crate) fn thread_cpu_nanos(tid: Tid) -> Option<u64> {
    Some(tid.cpu_time()?.as_nanos() as u64)
}

//! Wait channels: the kernel's functions in which threads sleep, and what each waits for.
//!
//! A process that is not dumpable cannot read its threads' system calls, which belong to root then,
//! but their wait channels (`/proc/self/task/<tid>/wchan`). The names are the kernel's own and
//! change between its versions. An unknown one is shown, with no purpose.

use std::borrow::Cow;

use pollwatch_stack::{Tid, procfs};

use crate::model::cause::{Purpose, Syscall};

/// A row of the table: the functions whose names start so, and their purpose.
type ChannelRow = (&'static str, Purpose);

/// The wait channels of Linux 4.18 to 6.18. The first row that fits counts.
#[rustfmt::skip]
const CHANNELS: &[ChannelRow] = &[
    ("futex_", Purpose::Futex),
    ("hrtimer_nanosleep", Purpose::Sleep), ("do_nanosleep", Purpose::Sleep),
    ("poll_schedule_timeout", Purpose::Poll), ("do_sys_poll", Purpose::Poll), ("do_select", Purpose::Poll),
    ("ep_poll", Purpose::Poll), ("do_epoll_wait", Purpose::Poll),
    ("sk_wait_data", Purpose::Socket), ("sk_stream_wait", Purpose::Socket), ("inet_", Purpose::Socket),
    ("__skb_wait", Purpose::Socket), ("skb_wait", Purpose::Socket), ("unix_", Purpose::Socket),
    ("sock_", Purpose::Socket), ("tcp_", Purpose::Socket), ("__inet_", Purpose::Socket),
    ("wait_for_vfork_done", Purpose::Spawn),
    ("do_wait", Purpose::Child), ("kernel_wait", Purpose::Child),
    ("locks_lock_inode_wait", Purpose::FileLock), ("flock_lock_inode_wait", Purpose::FileLock),
    ("posix_lock_inode_wait", Purpose::FileLock), ("fcntl_setlk", Purpose::FileLock),
    ("anon_pipe_", Purpose::Io), ("pipe_", Purpose::Io),
    ("folio_wait", Purpose::File), ("wait_on_page", Purpose::File), ("__lock_page", Purpose::File),
    ("__folio_lock", Purpose::File), ("jbd2_", Purpose::File), ("xfs_", Purpose::File), ("ext4_", Purpose::File),
    ("btrfs_", Purpose::File), ("nfs_", Purpose::File), ("rpc_wait", Purpose::File),
    ("request_wait_answer", Purpose::File), ("balance_dirty_pages", Purpose::File),
    ("rwsem_down_", Purpose::Memory),
    ("io_cqring_wait", Purpose::AsyncIo), ("read_events", Purpose::AsyncIo),
    ("do_sigtimedwait", Purpose::Signal), ("sigsuspend", Purpose::Signal),
    ("do_semtimedop", Purpose::Ipc), ("do_msgrcv", Purpose::Ipc), ("do_msgsnd", Purpose::Ipc),
    ("wq_sleep", Purpose::Ipc),
];

/// The target that is shown for a pipe, whose number is unknown here.
const PIPE: &str = "pipe:[?]";

/// The kernel's function in which a thread sleeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitChannel {
    function: String,
    pub(crate) purpose: Purpose,
}

impl WaitChannel {
    /// Reads the wait channel of a thread; `None` for one that does not sleep, and where it is not
    /// known.
    pub(crate) fn read(tid: Tid) -> Option<WaitChannel> {
        procfs::wait_channel(tid).map(|function| WaitChannel::new(&function))
    }

    fn new(function: &str) -> WaitChannel {
        // Compilers add what they did to a function: `poll_schedule_timeout.constprop.0`.
        let function = function.split('.').next().unwrap_or_default();
        let row = CHANNELS.iter().find(|(start, _)| function.starts_with(start));
        WaitChannel { function: function.into(), purpose: row.map_or(Purpose::Unknown, |(_, purpose)| *purpose) }
    }

    /// Returns the channel in place of the system call that is not known.
    pub(crate) fn into_syscall(self) -> Syscall {
        let target = self.function.contains("pipe_").then(|| PIPE.into());
        Syscall { name: Cow::Owned(self.function), target, purpose: self.purpose }
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn channels_have_a_purpose() {
        let purpose = |function: &str| WaitChannel::new(function).purpose;
        assert_eq!(purpose("hrtimer_nanosleep"), Purpose::Sleep);
        for futex in ["futex_do_wait", "futex_wait_queue", "futex_wait_queue_me"] {
            assert_eq!(purpose(futex), Purpose::Futex);
        }
        assert_eq!(purpose("poll_schedule_timeout.constprop.0"), Purpose::Poll);
        assert_eq!(purpose("do_wait"), Purpose::Child);
        assert_eq!(purpose("wait_for_vfork_done"), Purpose::Spawn);
        let unknown = WaitChannel::new("some_driver_wait.isra.0").into_syscall();
        assert_eq!((&*unknown.name, unknown.target, unknown.purpose), ("some_driver_wait", None, Purpose::Unknown));
        let pipe = WaitChannel::new("anon_pipe_read").into_syscall();
        assert_eq!((pipe.target.as_deref(), pipe.purpose), (Some(PIPE), Purpose::Io));
    }

    #[test]
    fn the_channel_of_a_thread_is_read() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(Tid::current().unwrap()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let is_in_futex = || WaitChannel::read(tid).is_some_and(|channel| channel.purpose == Purpose::Futex);
        while Path::new("/proc/thread-self/wchan").exists() && !is_in_futex() {
            assert!(Instant::now() < deadline, "{:?}", procfs::wait_channel(tid));
            std::thread::yield_now();
        }
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

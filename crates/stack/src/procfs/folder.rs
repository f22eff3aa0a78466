use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::{PageFaults, RunCount, RunState, SyscallState, ThreadStat, parse_syscall};
use crate::{CpuModes, Pid, Tid};

/// The folder in which the kernel describes a process and its threads: `/proc/<pid>`.
///
/// The functions of [`procfs`](crate::procfs) are those of [`OWN`](Self::OWN). Here they exist for
/// every process.
///
/// ```
/// use pollwatch_stack::procfs::ProcessFolder;
/// use pollwatch_stack::Pid;
///
/// let folder = ProcessFolder::of(Pid::current());
/// for tid in folder.threads().unwrap_or_default() {
///     println!("{tid} {:?} {:?}", folder.name(tid), folder.stat(tid));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessFolder(Option<Pid>);

impl ProcessFolder {
    /// The folder of this process.
    pub const OWN: ProcessFolder = ProcessFolder(None);

    /// Returns the folder of a process. Its id is the one by which this process' `/proc` knows it.
    pub const fn of(pid: Pid) -> ProcessFolder {
        ProcessFolder(Some(pid))
    }

    /// Returns the path of a file in the folder.
    ///
    /// ```
    /// use pollwatch_stack::{Pid, procfs::ProcessFolder};
    ///
    /// assert_eq!(ProcessFolder::OWN.path("maps").to_str(), Some("/proc/self/maps"));
    /// assert_eq!(ProcessFolder::of(Pid::from_raw(7)).path("exe").to_str(), Some("/proc/7/exe"));
    /// ```
    pub fn path(self, file: impl AsRef<OsStr>) -> PathBuf {
        let mut path = PathBuf::from("/proc");
        match self.0 {
            None => path.push("self"),
            Some(pid) => path.push(pid.to_string()),
        }
        path.push(file.as_ref());
        path
    }

    /// Returns the path of a file of a thread.
    pub(crate) fn path_of(self, tid: Tid, file: &str) -> PathBuf {
        let path = match self.0 {
            None => format!("/proc/self/task/{tid}/{file}"),
            Some(pid) => format!("/proc/{pid}/task/{tid}/{file}"),
        };
        path.into()
    }

    /// Reads a file of a thread. The thread's name, which some contain, need not be UTF-8.
    pub(crate) fn read_of(self, tid: Tid, file: &str) -> Option<String> {
        let text = read(&self.path_of(tid, file)).ok()?;
        Some(String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Returns the ids of all threads; `None` where they cannot be listed.
    pub fn threads(self) -> Option<Vec<Tid>> {
        let tasks = fs::read_dir(self.path("task")).ok()?;
        Some(tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).map(Tid::from_raw).collect())
    }

    /// Returns the state of a thread: see [`procfs::syscall`](crate::procfs::syscall).
    pub fn syscall(self, tid: Tid) -> Option<SyscallState> {
        match read(&self.path_of(tid, "syscall")) {
            Ok(line) => parse_syscall(str::from_utf8(&line).ok()?),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                (self.stat(tid)?.state == RunState::Running).then_some(SyscallState::Running)
            }
            Err(_) => None,
        }
    }

    /// Returns what the scheduler counts for a thread: see [`procfs::ran`](crate::procfs::ran).
    pub fn ran(self, tid: Tid) -> Option<RunCount> {
        RunCount::parse(&self.read_of(tid, "schedstat")?)
    }

    /// Returns the state, the CPU time and the page faults of a thread (`stat`), in one reading;
    /// `None` when it has ended.
    pub fn stat(self, tid: Tid) -> Option<ThreadStat> {
        ThreadStat::parse(&self.read_of(tid, "stat")?)
    }

    /// Returns how often a thread has given up its CPU to wait, over its life (`status`); `None`
    /// when it has ended.
    ///
    /// ```
    /// use pollwatch_stack::{Tid, procfs::ProcessFolder};
    ///
    /// let waits = || Tid::current().and_then(|own| ProcessFolder::OWN.waits(own));
    /// let before = waits();
    /// std::thread::sleep(std::time::Duration::from_millis(1));
    /// assert!(waits() > before || before.is_none());
    /// ```
    pub fn waits(self, tid: Tid) -> Option<u64> {
        let status = self.read_of(tid, "status")?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse().ok()
    }

    /// Returns the page faults of a thread: see
    /// [`procfs::page_faults`](crate::procfs::page_faults).
    pub fn page_faults(self, tid: Tid) -> Option<PageFaults> {
        Some(self.stat(tid)?.page_faults)
    }

    /// Returns the CPU time of a thread by mode, in units of 10 ms; `None` when it has ended.
    ///
    /// [`Tid::cpu_modes`] is finer and cheaper, but the kernel answers it for threads of this
    /// process alone.
    pub fn cpu_modes(self, tid: Tid) -> Option<CpuModes> {
        Some(self.stat(tid)?.cpu)
    }

    /// Returns the name of a thread: see [`procfs::name`](crate::procfs::name).
    pub fn name(self, tid: Tid) -> Option<String> {
        Some(self.read_of(tid, "comm")?.trim_end_matches('\n').into())
    }

    /// Returns the kernel's function in which a thread sleeps: see
    /// [`procfs::wait_channel`](crate::procfs::wait_channel).
    pub fn wait_channel(self, tid: Tid) -> Option<String> {
        self.read_of(tid, "wchan").filter(|name| !name.is_empty() && name != "0")
    }

    /// Returns what a file descriptor refers to: see
    /// [`procfs::descriptor`](crate::procfs::descriptor).
    pub fn descriptor(self, fd: u64) -> Option<String> {
        Some(fs::read_link(self.path(format!("fd/{fd}"))).ok()?.to_string_lossy().into_owned())
    }

    /// Returns whether a file descriptor is in non-blocking mode (`O_NONBLOCK`); `None` where that
    /// cannot be read. The mode has no effect on a regular file.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// use pollwatch_stack::procfs::ProcessFolder;
    /// use std::os::fd::AsRawFd;
    ///
    /// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_nonblocking(true)?;
    /// assert_eq!(ProcessFolder::OWN.is_nonblocking(socket.as_raw_fd() as u64), Some(true));
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_nonblocking(self, fd: u64) -> Option<bool> {
        let info = fs::read_to_string(self.path(format!("fdinfo/{fd}"))).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        Some(flags & libc::O_NONBLOCK != 0)
    }
}

/// The bytes that are read at once: more than the files that are read in each scan have.
const CHUNK: usize = 4096;

/// Reads a whole file. Nothing is known of the size of such a file, and the kernel makes its text
/// at each call, so `fs::read` takes twice as many calls.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut text, mut chunk) = (Vec::new(), [0; CHUNK]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(text),
            Ok(len) => text.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_is_read_whole() {
        let status = ProcessFolder::OWN.path("status");
        let whole = read(&status).unwrap();
        let lines = |text: &[u8]| text.iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(lines(&whole), lines(&fs::read(&status).unwrap()));
        let long = ProcessFolder::OWN.path("smaps");
        assert!(read(&long).is_ok_and(|text| text.len() > 2 * CHUNK && text.ends_with(b"\n")));
        let missing = read(Path::new("/proc/self/no such file")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}

//! Files of other processes, which are not trusted.
//!
//! A process names its files: by its mappings, by links in them, and by what its own file system
//! resolves these names to. So none of these names may lead to a file of the host, to a device, or
//! to a reader that waits for ever:
//!
//! - A name below `/proc/<pid>/root` is resolved as the process itself would resolve it. Absolute
//!   links and `..` start at its root folder, and links of procfs are not followed (`openat2`).
//! - A file is opened for reading only after it was found to be a regular one.
//! - What may wait for a file system happens on another thread, with a time limit ([`FILES`]). What
//!   is in the page cache is read without that thread.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blocking::BlockingWork;

/// The time within which a file has to be opened, and each part of it to be read.
const LIMIT: Duration = Duration::from_secs(2);

/// The time that may be waited for files at once.
const BURST: Duration = Duration::from_secs(10);

/// The most files that wait to be closed. No further one is opened then.
const MAX_UNCLOSED: usize = 64;

/// The files that wait to be closed, because the threads of [`FILES`] were refused to close them.
static UNCLOSED: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

/// The threads on which files of other processes are opened, read and closed.
static FILES: LazyLock<BlockingWork> = LazyLock::new(|| BlockingWork::new(BURST));

/// Returns how often a file of another process was given up because it could not be opened or read
/// in time.
pub(crate) fn lost_reads() -> u64 {
    FILES.lost()
}

/// Returns whether a path leads to a file of another process: `/proc/<pid>/..`.
pub(super) fn is_foreign(path: &Path) -> bool {
    let mut names = path.components().skip(1);
    let is_pid = |name: Component<'_>| name.as_os_str().as_bytes().iter().all(u8::is_ascii_digit);
    path.is_absolute() && names.next() == Some(Component::Normal("proc".as_ref())) && names.next().is_some_and(is_pid)
}

/// Opens a regular file of another process.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    if unclosed().len() >= MAX_UNCLOSED {
        close_all();
    }
    if unclosed().len() >= MAX_UNCLOSED {
        return Err(timed_out());
    }
    let path = path.to_owned();
    FILES.run(LIMIT, move || open_now(&path)).unwrap_or_else(|| Err(timed_out()))
}

/// Reads the first bytes of a file of another process.
pub(crate) fn read_start<const N: usize>(path: &Path) -> io::Result<[u8; N]> {
    let path = path.to_owned();
    let read = move || {
        let mut bytes = [0; N];
        open_now(&path)?.0.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    FILES.run(LIMIT, read).unwrap_or_else(|| Err(timed_out()))
}

/// Returns whether a file of another process exists. One that does not answer counts as none.
pub(crate) fn exists(path: &Path) -> bool {
    let path = path.to_owned();
    FILES.run(LIMIT, move || find(&path).is_ok()).unwrap_or(false)
}

/// Fills a buffer from a position of a file of another process.
pub(super) fn read_at(file: &Arc<File>, start: u64, to: &mut [u8]) -> io::Result<()> {
    if read_cached(file, start, to) {
        return Ok(());
    }
    let (file, len) = (file.clone(), to.len());
    let read = move || {
        let mut bytes = vec![0; len];
        let result = file.read_exact_at(&mut bytes, start);
        // Closing it may wait as well.
        drop(file);
        result.map(|()| bytes)
    };
    let bytes = FILES.run(LIMIT, read).unwrap_or_else(|| Err(timed_out()))?;
    to.copy_from_slice(&bytes);
    Ok(())
}

/// Closes a file of another process. One that cannot be closed now is closed with the next one.
pub(super) fn close(file: Arc<File>) {
    unclosed().push(file);
    close_all();
}

/// Closes all files that wait for it.
fn close_all() {
    let next = || unclosed().pop();
    FILES.run(LIMIT, move || std::iter::from_fn(next).for_each(drop));
}

fn unclosed() -> MutexGuard<'static, Vec<Arc<File>>> {
    UNCLOSED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed_out() -> io::Error {
    let text = "the file system did not answer in time, so the file was given up";
    io::Error::new(ErrorKind::TimedOut, text)
}

/// Fills a buffer with bytes that are in the page cache. Returns false if not all of them are, or
/// where the file system cannot do that.
fn read_cached(file: &File, start: u64, to: &mut [u8]) -> bool {
    let Ok(start) = libc::off_t::try_from(start) else { return false };
    let part = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: the kernel writes at most `to.len()` bytes to `to`.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, start, libc::RWF_NOWAIT) };
    usize::try_from(read) == Ok(to.len())
}

/// Opens a regular file. It may block.
fn open_now(path: &Path) -> io::Result<(File, Metadata)> {
    let found = find(path)?;
    let metadata = found.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    Ok((file, metadata))
}

/// Finds a file, without opening it for reading. That neither starts a device nor waits for the
/// other end of a pipe.
fn find(path: &Path) -> io::Result<File> {
    match below_root(path) {
        Some((root, name)) => in_root(&root, &name),
        None => File::options().read(true).custom_flags(libc::O_PATH).open(path),
    }
}

/// Divides `/proc/7/root/usr/a` into `/proc/7/root` and `usr/a`.
fn below_root(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let root: PathBuf = path.components().take(4).collect();
    let is_root = is_foreign(path) && root.file_name().is_some_and(|name| name == "root");
    is_root.then(|| Some((root.clone(), path.strip_prefix(&root).ok()?.to_owned())))?
}

/// The kernel's `struct open_how`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Finds a file below the root folder of another process.
fn in_root(root: &Path, name: &Path) -> io::Result<File> {
    let folder = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(root)?;
    let path = c_string(name)?;
    let how = OpenHow {
        flags: (libc::O_PATH | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    };
    // SAFETY: the path is a C string, and `how` has the size that is given.
    let opened = unsafe {
        libc::syscall(libc::SYS_openat2, folder.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<OpenHow>())
    };
    if let Ok(file) = own(opened) {
        return Ok(file);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Linux before 5.6, and filters that do not know the call.
        Some(libc::ENOSYS | libc::EPERM) => without_links(folder, name),
        _ => Err(error),
    }
}

/// Finds a file below a folder, by a path on which there is no symbolic link.
fn without_links(folder: File, name: &Path) -> io::Result<File> {
    name.components().try_fold(folder, |folder, component| {
        let Component::Normal(part) = component else { return Err(ErrorKind::InvalidInput.into()) };
        let part = c_string(Path::new(part))?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the name is a C string.
        let opened = unsafe { libc::openat(folder.as_raw_fd(), part.as_ptr(), flags) };
        own(opened.into())
    })
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| ErrorKind::InvalidInput.into())
}

/// Returns the file that a system call has opened.
fn own(result: libc::c_long) -> io::Result<File> {
    match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just made the descriptor, and nothing else has it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A process whose root folder is another one than that of this process, and a folder with both
    /// of which. Dropped at the end of a test.
    struct Jail {
        folder: PathBuf,
        pid: libc::pid_t,
    }

    impl Jail {
        /// Starts the process. `None` where root folders cannot be changed.
        fn new(name: &str) -> Option<Jail> {
            let folder = std::env::temp_dir().join(format!("pollwatch-jail-{name}-{}", std::process::id()));
            std::fs::create_dir_all(folder.join("root/inner")).unwrap();
            let folder = folder.canonicalize().unwrap();
            let root = c_string(&folder.join("root")).unwrap();
            // SAFETY: the child makes system calls alone.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: as above.
                unsafe {
                    if libc::chroot(root.as_ptr()) != 0 {
                        libc::_exit(1);
                    }
                    loop {
                        libc::pause();
                    }
                }
            }
            let (jail, start) = (Jail { folder, pid }, Instant::now());
            loop {
                match std::fs::read_link(format!("/proc/{pid}/root")) {
                    Ok(root) if root == jail.outside("root") => return Some(jail),
                    Ok(_) => assert!(start.elapsed() < PATIENCE),
                    Err(_) => return None,
                }
                std::thread::yield_now();
            }
        }

        /// Returns the path of a file in the root folder, as this process names it.
        fn outside(&self, name: &str) -> PathBuf {
            self.folder.join(name)
        }

        /// Opens a file by the name by which the other process knows it.
        fn open(&self, name: &str) -> io::Result<String> {
            let (file, _) = open(&Path::new(&format!("/proc/{}/root", self.pid)).join(name))?;
            let mut text = vec![0; 4];
            read_at(&Arc::new(file), 0, &mut text)?;
            Ok(String::from_utf8(text).unwrap())
        }
    }

    impl Drop for Jail {
        fn drop(&mut self) {
            // SAFETY: the child is one of this process, and nobody else waits for it.
            unsafe { (libc::kill(self.pid, libc::SIGKILL), libc::waitpid(self.pid, std::ptr::null_mut(), 0)) };
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }

    #[test]
    fn a_name_leads_to_no_file_outside_of_the_root_folder() {
        let Some(jail) = Jail::new("links") else { return println!("skipped: the root folder cannot be changed here") };
        let secret = jail.outside("secret");
        std::fs::write(&secret, "host").unwrap();
        std::fs::write(jail.outside("root/inner/own"), "jail").unwrap();
        let link = |to: &Path, name: &str| symlink(to, jail.outside("root").join(name)).unwrap();
        link(&secret, "absolute");
        link(Path::new("../secret"), "relative");
        link(Path::new("../../../../../../../../inner/own"), "inner/climbing");
        link(Path::new("/inner/own"), "inside");
        link(Path::new("/inner"), "folder");
        for name in ["absolute", "relative", "../secret", "inner/../../secret"] {
            assert_eq!(jail.open(name).map_err(|error| error.kind()), Err(ErrorKind::NotFound), "{name}");
        }
        for name in ["inner/own", "inside", "inner/climbing", "folder/own"] {
            assert_eq!(jail.open(name).unwrap(), "jail", "as the process itself finds it: {name}");
        }
        // As on kernels that cannot do that: names without links alone.
        let root = || File::open(jail.outside("root")).unwrap();
        let is_found =
            |name: &str| without_links(root(), Path::new(name)).is_ok_and(|file| file.metadata().unwrap().is_file());
        assert!(is_found("inner/own"));
        for name in ["absolute", "inside", "folder/own", "../secret"] {
            assert!(!is_found(name), "{name}");
        }
    }

    #[test]
    fn pipes_and_devices_are_not_opened() {
        let Some(jail) = Jail::new("devices") else {
            return println!("skipped: the root folder cannot be changed here");
        };
        let made = Command::new("mkfifo").arg(jail.outside("root/pipe")).status();
        assert!(made.is_ok_and(|status| status.success()));
        let device = c_string(&jail.outside("root/device")).unwrap();
        // SAFETY: the path is a C string. The device is that of `/dev/full`.
        let made = unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 7)) };
        let start = Instant::now();
        for name in ["pipe", "inner"].iter().chain((made == 0).then_some(&"device")) {
            assert_eq!(jail.open(name).map_err(|error| error.kind()), Err(ErrorKind::InvalidInput), "{name}");
        }
        assert!(start.elapsed() < LIMIT, "without a wait for the pipe's other end");
    }

    #[test]
    fn paths_of_other_processes() {
        for path in ["/proc/7/exe", "/proc/7/root/usr/a", "/proc/7/map_files/1-2"] {
            assert!(is_foreign(Path::new(path)), "{path}");
        }
        for path in ["/proc/self/exe", "/usr/proc/7/exe", "proc/7/exe", "/proc", "/"] {
            assert!(!is_foreign(Path::new(path)), "{path}");
        }
        assert_eq!(below_root(Path::new("/proc/7/root/usr/a")), Some(("/proc/7/root".into(), "usr/a".into())));
        assert_eq!(below_root(Path::new("/proc/7/exe")), None);
    }
}

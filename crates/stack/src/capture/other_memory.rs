//! Reads memory of another process through the kernel.
//!
//! Whoever reads memory of another process may have to wait in the kernel for ever. The page may be
//! one that is never there: the process has a thread that handles its page faults (`userfaultfd`),
//! or the page is that of a file of a dead mount. And a thread of the process that maps or unmaps
//! a file of a dead mount holds the lock of all its mappings meanwhile. So all of it is read on
//! other threads, with a time limit ([`BlockingWork`]). What is in memory is read apart from what
//! is not, so that pages which never come cost no others.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::memory::read_of;
use super::memory_files::{MemoryFiles, StackPiece};
use super::memory_work::MemoryWork;
use crate::Pid;
use crate::blocking::{BlockingWork, Started};

/// An address at which nothing is mapped.
const NOWHERE: u64 = 8;
/// The time within which a part of memory has to come, unless less is left of what may be waited.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// The time within which the list of mappings has to be read.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// The memory of another process. After an `exec` of it, this has to be made again, because the
/// files stay those of the old memory.
#[derive(Clone, Debug)]
pub(crate) struct OtherMemory {
    files: Arc<MemoryFiles>,
    work: Arc<MemoryWork>,
}

impl OtherMemory {
    /// Returns the memory of the process that a thread belongs to.
    pub(crate) fn of(pid: Pid) -> OtherMemory {
        OtherMemory { files: Arc::new(MemoryFiles::of(pid)), work: MemoryWork::of(pid) }
    }

    /// Returns the memory that the process has after an `exec`, or that another thread of it stands
    /// for. The limits of time stay those of the process.
    pub(crate) fn again(&self, pid: Pid) -> OtherMemory {
        OtherMemory { files: Arc::new(MemoryFiles::of(pid)), work: self.work.clone() }
    }

    /// Returns how often memory was given up, or not read at all, for the list of modules.
    pub(crate) fn lost_module_reads(&self) -> u64 {
        self.work.modules.lost()
    }

    /// Returns how often memory was given up because it did not come in time.
    pub(crate) fn lost_reads(&self) -> u64 {
        let MemoryWork { present, captures, stops, modules } = &*self.work;
        [present, captures, stops, modules].iter().map(|work| work.lost()).sum()
    }

    /// Checks that the memory may be read.
    pub(crate) fn check(&self) -> io::Result<()> {
        let files = self.files.clone();
        let check = move || {
            // Nothing is mapped at this address. The kernel checks the permission before.
            if read_of(files.pid.as_raw(), NOWHERE, &mut [0]).is_some() {
                return Ok(());
            }
            File::open(&files.path).map(drop)
        };
        self.work.modules.try_run(LIST_LIMIT, check)
    }

    /// Fills `to` from address `from`, for a capture. Returns whether all of it could be read.
    pub(crate) fn read(&self, from: u64, to: &mut [u8]) -> bool {
        let work = &self.work;
        self.read_all([&work.present, &work.captures], from, to)
    }

    /// Fills `to` from address `from`, for the list of modules. It may take longer than a capture,
    /// also where another thread of the process holds the lock of its memory for a while.
    pub(crate) fn read_module(&self, from: u64, to: &mut [u8]) -> bool {
        self.read_all([&self.work.modules; 2], from, to)
    }

    /// Reads by `present` what is in memory, and by `absent` what is not.
    fn read_all(&self, [present, absent]: [&BlockingWork; 2], from: u64, to: &mut [u8]) -> bool {
        let (files, len) = (self.files.clone(), to.len());
        let read = move || files.are_present(from, len).then(|| files.bytes(from, len));
        let bytes = match present.run(READ_LIMIT, read) {
            Some(Some(bytes)) => bytes,
            Some(None) => self.read_elsewhere(absent, from, len),
            None => Vec::new(),
        };
        to[..bytes.len()].copy_from_slice(&bytes);
        bytes.len() == len
    }

    /// Reads on another thread, up to the first page that cannot be read.
    fn read_elsewhere(&self, work: &BlockingWork, from: u64, len: usize) -> Vec<u8> {
        let files = self.files.clone();
        work.run(READ_LIMIT, move || files.bytes(from, len)).unwrap_or_default()
    }

    /// Fills the start of `to` with the stack at address `from`, up to the first page that cannot
    /// be read. Returns the number of bytes.
    ///
    /// Pages of a stack that were never used, such as those of a large array, are zero. They are
    /// not read, so that the process gets no memory for them.
    pub(crate) fn read_prefix(&self, from: u64, to: &mut [u8]) -> usize {
        self.read_stack(from, to, false)
    }

    fn read_stack(&self, from: u64, to: &mut [u8], continues: bool) -> usize {
        let mut done = 0;
        loop {
            let (files, at, left) = (self.files.clone(), from.wrapping_add(done as u64), to.len() - done);
            let continues = continues || done > 0;
            let read = move || {
                let mut bytes = vec![0; left];
                let piece = files.read_present_stack(at, &mut bytes, continues);
                bytes.truncate(piece.len);
                (bytes, piece.elsewhere)
            };
            let Some((bytes, elsewhere)) = self.work.present.run(READ_LIMIT, read) else { return done };
            to[done..done + bytes.len()].copy_from_slice(&bytes);
            done += bytes.len();
            if elsewhere == 0 {
                return done;
            }
            let bytes = self.read_elsewhere(&self.work.captures, from.wrapping_add(done as u64), elsewhere);
            to[done..done + bytes.len()].copy_from_slice(&bytes);
            done += bytes.len();
            if bytes.len() < elsewhere || done == to.len() {
                return done;
            }
        }
    }

    /// Starts to copy the stack of a thread that is stopped, on a thread that exists for such
    /// copies. `copy` gets the memory of the process. `None` if it was refused.
    pub(crate) fn start_stopped<T: Send + 'static>(
        &self,
        copy: impl FnOnce(StoppedMemory) -> T + Send + 'static,
    ) -> Option<Started<T>> {
        let memory = StoppedMemory(self.files.clone());
        self.work.stops.start(move || copy(memory))
    }

    /// Waits for a copy that was started, once the thread runs again. `None` if it does not come.
    pub(crate) fn finish_stopped<T>(&self, copy: Started<T>) -> Option<T> {
        self.work.stops.finish(copy, READ_LIMIT)
    }

    /// Reads a file of procfs that needs the lock of the process' memory, which the process may
    /// hold while it waits for a file system.
    pub(crate) fn read_list(&self, read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> io::Result<Vec<u8>> {
        self.work.modules.try_run(LIST_LIMIT, read)
    }
}

/// The memory of a process with a thread that is stopped. To read it may block.
pub(crate) struct StoppedMemory(Arc<MemoryFiles>);

impl StoppedMemory {
    /// Fills the start of `to` as [`OtherMemory::read_prefix`] does. `continues` is true for a
    /// further piece of a stack, the start of which may never have been used.
    pub(crate) fn read_stack(&self, from: u64, to: &mut [u8], continues: bool) -> usize {
        let mut done = 0;
        loop {
            let at = from.wrapping_add(done as u64);
            let StackPiece { len, elsewhere } = self.0.read_present_stack(at, &mut to[done..], continues || done > 0);
            done += len;
            if elsewhere == 0 {
                return done;
            }
            let read = self.0.read(at.wrapping_add(len as u64), &mut to[done..done + elsewhere]);
            done += read;
            if read < elsewhere || done == to.len() {
                return done;
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::memory_files::{PageState, page_size};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Makes pages the faults of which nobody handles, until the file is closed.
    fn pages_that_never_come() -> Option<(u64, std::os::fd::OwnedFd)> {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        const API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
        const REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
        const VERSION: u64 = 0xaa;
        const MISSING: u64 = 1;
        let len = 4 * page_size() as usize;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new file and a new mapping, which stays until the process ends, and of which no
        // other code knows. The requests have the sizes that the kernel expects.
        unsafe {
            let raw = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            let file = (raw >= 0).then(|| OwnedFd::from_raw_fd(raw as i32))?;
            let start = libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let mut api = [VERSION, 0, 0];
            let mut register = [start as u64, len as u64, MISSING, 0];
            let is_set_up = libc::ioctl(file.as_raw_fd(), API, api.as_mut_ptr()) == 0
                && libc::ioctl(file.as_raw_fd(), REGISTER, register.as_mut_ptr()) == 0;
            is_set_up.then_some((start as u64, file))
        }
    }

    #[test]
    fn memory_that_never_comes_is_given_up() {
        let Some((from, file)) = pages_that_never_come() else {
            return println!("skipped: userfaultfd is not permitted here");
        };
        const BURST: Duration = Duration::from_millis(300);
        let pid = Pid::current();
        let memory = OtherMemory { files: Arc::new(MemoryFiles::of(pid)), work: MemoryWork::new(BURST, BURST) };
        let start = std::time::Instant::now();
        let mut copy = [0; 8];
        let mut lost = 0;
        for _ in 0..20 {
            assert!(!memory.read(from, &mut copy) && !memory.read_module(from, &mut copy));
            lost += 2;
            assert_eq!(memory.lost_reads(), lost);
            // What is there is read nevertheless.
            let own = 7u64;
            assert!(memory.read(&raw const own as u64, &mut copy) && copy == own.to_ne_bytes());
        }
        let waits = 2 * (BURST + start.elapsed() / 10);
        println!("{:?} of waits are permitted, and all took {:?}", waits, start.elapsed());
        assert!(start.elapsed() < waits + PATIENCE, "the waits are bounded in all");
        drop(file);
        let released = || memory.again(Pid::current()).read_module(from, &mut [0; 8]);
        while !released() {
            assert!(start.elapsed() < 4 * PATIENCE, "the pages are usual ones now");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn pages_that_are_there_and_pages_that_were_never_used() {
        let pid = Pid::current();
        let files = Arc::new(MemoryFiles::of(pid));
        let memory = OtherMemory { files, work: MemoryWork::new(PATIENCE, PATIENCE) };
        let (page, mapped) = (page_size() as usize, 8 * page_size() as usize);
        // SAFETY: a new mapping, of which no other code knows.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the mapping has eight pages. Huge ones would be there as a whole.
        unsafe {
            libc::madvise(start, mapped, libc::MADV_NOHUGEPAGE);
            std::slice::from_raw_parts_mut(start.cast::<u8>(), 2 * page).fill(7);
        }
        let from = start as u64 + 100;
        let mut copy = vec![0; mapped - 100];
        if memory.files.states(from, 8).is_none() {
            return println!("skipped: the kernel does not say which pages are there");
        }
        copy.fill(1);
        assert_eq!(memory.read_prefix(from, &mut copy), mapped - 100);
        assert!(copy[..2 * page - 100].iter().all(|&byte| byte == 7));
        assert!(copy[2 * page - 100..].iter().all(|&byte| byte == 0), "as the kernel would have read them");
        let is_absent =
            memory.files.states(from, mapped - 100).unwrap().list[2..].iter().all(|state| *state == PageState::Absent);
        assert!(is_absent, "the process has got no memory for them");
        assert_eq!(
            memory.read_prefix(start as u64 + 2 * page as u64, &mut copy[..8]),
            0,
            "no stack pointer leads there"
        );
        assert_eq!(
            memory.read_stack(start as u64 + 2 * page as u64, &mut copy[..8], true),
            8,
            "the stack continues there"
        );
        // In pieces, the later ones of which start with pages that were never used.
        let mut in_pieces = vec![1; mapped];
        for (piece, at) in in_pieces.chunks_mut(2 * page).zip((start as u64..).step_by(2 * page)) {
            assert_eq!(memory.read_stack(at, piece, at != start as u64), 2 * page);
        }
        assert!(in_pieces[2 * page..].iter().all(|&byte| byte == 0));
        assert!(memory.read(from, &mut copy[..page]) && memory.lost_reads() == 0);
        // Whoever reads code waits for what is not there.
        assert!(memory.read(from, &mut copy));
        assert!(!memory.read(NOWHERE, &mut copy[..8]) && memory.read_prefix(NOWHERE, &mut copy) == 0);
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(start, mapped) };
    }
}

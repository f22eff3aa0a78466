//! The kernel's files of the memory of another process. All that is done with them may block.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::memory::{read_file, read_of};
use crate::Pid;
use crate::procfs::ProcessFolder;

/// Bits of an entry of `/proc/<pid>/pagemap`, one for each page.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Since Linux 6.15. Before that, such pages are as if they were never used.
const GUARD: u64 = 1 << 58;
const ENTRY: usize = size_of::<u64>();
/// The most pages whose entries are read at once: those of 1 MiB.
const MAX_PAGES: usize = 257;

#[derive(Debug)]
pub(super) struct MemoryFiles {
    pub(super) pid: Pid,
    /// `/proc/<pid>/mem`.
    pub(super) path: PathBuf,
    /// The file at that path, opened when `process_vm_readv` is first refused.
    memory: OnceLock<Option<File>>,
    /// `/proc/<pid>/pagemap`.
    pages: OnceLock<Option<File>>,
}

/// The place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageState {
    /// It is in memory.
    Present,
    /// It was moved elsewhere, from where it can be read.
    Swapped,
    /// It was never used, or is that of a file.
    Absent,
    /// Nothing may be there.
    Guard,
}

/// The states of the pages that contain a part of memory.
pub(super) struct PageStates {
    pub(super) list: Vec<PageState>,
    /// The number of bytes of the first page that come before the part.
    skipped: usize,
}

impl PageStates {
    /// Returns the end of the pages with the state of the one that contains the byte `at` of the
    /// part, and that state.
    fn run(&self, at: usize) -> (PageState, usize) {
        let page = page_size() as usize;
        let first = (self.skipped + at) / page;
        let state = self.list.get(first).copied().unwrap_or(PageState::Guard);
        let count = self.list.iter().skip(first).take_while(|other| **other == state).count();
        (state, (first + count) * page - self.skipped)
    }
}

/// The start of a stack that was read.
pub(super) struct StackPiece {
    pub(super) len: usize,
    /// The number of bytes after it that are not in memory, and can be read nevertheless.
    pub(super) elsewhere: usize,
}

impl MemoryFiles {
    pub(super) fn of(pid: Pid) -> MemoryFiles {
        let path = ProcessFolder::of(pid).path("mem");
        MemoryFiles { pid, path, memory: OnceLock::new(), pages: OnceLock::new() }
    }

    /// Fills the start of `to`, up to the first page that cannot be read. It may block.
    pub(super) fn read(&self, from: u64, to: &mut [u8]) -> usize {
        read_of(self.pid.as_raw(), from, to).unwrap_or_else(|| {
            let file = self.memory.get_or_init(|| File::open(&self.path).ok());
            file.as_ref().map_or(0, |file| read_file(file, from, to))
        })
    }

    /// Reads up to the first page that cannot be read. It may block.
    pub(super) fn bytes(&self, from: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.read(from, &mut bytes);
        bytes.truncate(read);
        bytes
    }

    /// Returns whether a part of memory is known to be there. It may block.
    pub(super) fn are_present(&self, from: u64, len: usize) -> bool {
        let are_present = |states: PageStates| states.list.iter().all(|state| *state == PageState::Present);
        self.states(from, len).is_some_and(are_present)
    }

    /// Fills the start of `to` with a stack, as far as it is in memory. It may block.
    pub(super) fn read_present_stack(&self, from: u64, to: &mut [u8], continues: bool) -> StackPiece {
        let Some(states) = self.states(from, to.len()) else { return StackPiece { len: 0, elsewhere: to.len() } };
        let mut done = 0;
        while done < to.len() {
            let (state, end) = states.run(done);
            let end = end.min(to.len());
            let (at, part) = (from.wrapping_add(done as u64), &mut to[done..end]);
            let read = match state {
                PageState::Present => self.read(at, part),
                PageState::Swapped => return StackPiece { len: done, elsewhere: end - done },
                PageState::Absent if continues || done > 0 => {
                    part.fill(0);
                    part.len()
                }
                // The thread has used the page that its stack pointer leads to.
                PageState::Absent | PageState::Guard => break,
            };
            done += read;
            if done < end {
                break;
            }
        }
        StackPiece { len: done, elsewhere: 0 }
    }

    /// Returns where the pages of a part of memory are; `None` where the kernel does not say, or if
    /// the part is a large one.
    pub(super) fn states(&self, from: u64, len: usize) -> Option<PageStates> {
        let page = page_size();
        let end = from.checked_add(len as u64)?;
        let (first, last) = (from / page, end.div_ceil(page));
        let count = usize::try_from(last - first).ok().filter(|&count| count <= MAX_PAGES)?;
        let open = || File::open(ProcessFolder::of(self.pid).path("pagemap")).ok();
        let file = self.pages.get_or_init(open).as_ref()?;
        let mut entries = [0; MAX_PAGES * ENTRY];
        let entries = &mut entries[..count * ENTRY];
        file.read_exact_at(entries, first.checked_mul(ENTRY as u64)?).ok()?;
        let state = |entry: &[u8]| match u64::from_ne_bytes(entry.try_into().unwrap_or_default()) {
            entry if entry & PRESENT != 0 => PageState::Present,
            entry if entry & GUARD != 0 => PageState::Guard,
            entry if entry & SWAPPED != 0 => PageState::Swapped,
            _ => PageState::Absent,
        };
        let list = entries.chunks_exact(ENTRY).map(state).collect();
        Some(PageStates { list, skipped: (from % page) as usize })
    }
}

pub(super) fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: no memory is involved.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).ok().filter(|&size| size > 0).unwrap_or(4096)
    })
}

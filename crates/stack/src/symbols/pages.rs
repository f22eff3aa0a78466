//! Memory for parts of files, which returns to the system at once when it is dropped.
//!
//! An allocator keeps freed blocks of this size, so that the program would stay as large as it was
//! while symbols were loaded.

use std::fmt;
use std::ops::{Deref, DerefMut};

#[cfg(unix)]
use mapped::Memory;

#[cfg(not(unix))]
type Memory = Box<[u8]>;

/// A buffer of zeroes.
pub(crate) struct Pages {
    memory: Memory,
}

impl Pages {
    /// Makes a buffer of `len` bytes, which are zero; `None` where there is no memory for it.
    pub(super) fn new(len: usize) -> Option<Pages> {
        #[cfg(unix)]
        let memory = Memory::new(len)?;
        #[cfg(not(unix))]
        let memory = vec![0; len].into();
        Some(Pages { memory })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len()).finish()
    }
}

#[cfg(unix)]
mod mapped {
    use std::ops::{Deref, DerefMut};
    use std::ptr::NonNull;

    /// An anonymous mapping, or nothing for a length of 0.
    pub(super) struct Memory {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: the mapping belongs to this value alone, and is memory like any other.
    unsafe impl Send for Memory {}
    // SAFETY: it is changed only by `&mut self`.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub(super) fn new(len: usize) -> Option<Memory> {
            if len == 0 {
                return Some(Memory { start: NonNull::dangling(), len });
            }
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
            if start == libc::MAP_FAILED {
                return None;
            }
            Some(Memory { start: NonNull::new(start.cast())?, len })
        }
    }

    impl Deref for Memory {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            // SAFETY: the mapping has `len` bytes, which are zero at first, until this value is
            // dropped.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
        }
    }

    impl DerefMut for Memory {
        fn deref_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above, and `&mut self` is the only reference to it.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            if self.len > 0 {
                // SAFETY: the mapping was made in `new` with this length, and nothing refers to it.
                unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
            }
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_of_their_length() {
        for len in [0, 1, 4095, 4096, 100_000] {
            let mut pages = Pages::new(len).unwrap();
            assert!(pages.len() == len && pages.iter().all(|&byte| byte == 0));
            pages.fill(7);
            assert!(pages.iter().all(|&byte| byte == 7));
        }
        assert!(Pages::new(usize::MAX / 2).is_none());
    }
}

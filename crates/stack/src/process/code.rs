//! The code of another process, which unwinding reads in small pieces.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::capture::OtherMemory;

/// The number of bytes that are read at once.
const PAGE: usize = 4096;
/// The most pages that are kept: 16 MiB.
const MAX_PAGES: usize = 4096;

/// The pages of code that were read. Code stays as long as the modules do.
#[derive(Debug, Default)]
pub(super) struct CodePages {
    pages: Mutex<HashMap<u64, Box<[u8]>>>,
}

impl CodePages {
    /// Fills `to` with the code at address `from`. Returns whether all of it could be read.
    pub(super) fn read(&self, memory: &OtherMemory, from: u64, to: &mut [u8]) -> bool {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < to.len() {
            let Some(at) = from.checked_add(done as u64) else { return false };
            let (page, offset) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let part = &mut to[done..];
            let len = part.len().min(PAGE - offset);
            if !pages.contains_key(&page) {
                let mut bytes = vec![0; PAGE].into_boxed_slice();
                if !memory.read(page * PAGE as u64, &mut bytes) {
                    return false;
                }
                if pages.len() >= MAX_PAGES {
                    pages.clear();
                }
                pages.insert(page, bytes);
            }
            let Some(bytes) = pages.get(&page) else { return false };
            part[..len].copy_from_slice(&bytes[offset..offset + len]);
            done += len;
        }
        true
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::Pid;

    #[test]
    fn pieces_within_and_across_pages() {
        let own: Vec<u8> = (0..4 * PAGE).map(|at| (at % 251) as u8).collect();
        let (memory, code) = (OtherMemory::of(Pid::current()), CodePages::default());
        for (at, len) in [(10, 8), (11, 64), (PAGE - 4, 8), (2 * PAGE - 1, PAGE)] {
            let mut copy = vec![0; len];
            assert!(code.read(&memory, own.as_ptr() as u64 + at as u64, &mut copy));
            assert_eq!(copy, &own[at..at + len]);
        }
        assert!(!code.read(&memory, 8, &mut [0; 8]) && !code.read(&memory, u64::MAX - 3, &mut [0; 8]));
    }
}

//! Reads memory of this process through the kernel, where an unmapped address is an error and not a
//! fault.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Fills `to` from address `from`. Returns whether all of it could be read.
pub(super) fn read(from: u64, to: &mut [u8]) -> bool {
    by_syscall(from, to).unwrap_or_else(|| by_file(from, to))
}

/// Reads by `process_vm_readv`; `None` where that call is not permitted.
fn by_syscall(from: u64, to: &mut [u8]) -> Option<bool> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes at most `to.len()` bytes into `to`, and only reads at `from`, which
    // it checks.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    let why = std::io::Error::last_os_error();
    match usize::try_from(read) {
        Ok(len) => Some(len == to.len()),
        // EFAULT means the address is unmapped, which is an answer rather than a failure.
        Err(_) if why.raw_os_error() == Some(libc::EFAULT) => Some(false),
        Err(_) => None,
    }
}

/// Reads by `/proc/self/mem`, for processes in which `process_vm_readv` is filtered.
fn by_file(from: u64, to: &mut [u8]) -> bool {
    static MEM: OnceLock<Option<(u32, File)>> = OnceLock::new();
    // Opened once. In a forked child the file is still the parent's memory, hence the process id.
    let mem = MEM.get_or_init(|| Some((std::process::id(), File::open("/proc/self/mem").ok()?)));
    mem.as_ref().is_some_and(|(pid, mem)| *pid == std::process::id() && mem.read_exact_at(to, from).is_ok())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn reads_mapped_memory_and_no_other() {
        let mapped = [1u8, 2, 3, 4];
        let mut copy = [0; 4];
        let sources: [fn(u64, &mut [u8]) -> bool; 3] = [|from, to| by_syscall(from, to).unwrap(), by_file, read];
        for source in sources {
            assert!(source(mapped.as_ptr() as u64, &mut copy));
            assert_eq!(copy, mapped);
            assert!(!source(8, &mut copy));
            assert!(!source(super::super::arch::UNKNOWN, &mut copy));
        }
    }
}

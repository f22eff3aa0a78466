//! Reading the memory of this process through the kernel: an address that is not mapped is an error, not a fault.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Fills `to` from address `from`, or tells that it cannot.
pub(super) fn read(from: u64, to: &mut [u8]) -> bool {
    by_syscall(from, to).unwrap_or_else(|| by_file(from, to))
}

/// `None` where the call may not be made.
fn by_syscall(from: u64, to: &mut [u8]) -> Option<bool> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes at most `to.len()` bytes into `to`, and only reads at `from`, which it checks.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    let why = std::io::Error::last_os_error();
    match usize::try_from(read) {
        Ok(len) => Some(len == to.len()),
        // There is nothing to read: so it is for whoever asks.
        Err(_) if why.raw_os_error() == Some(libc::EFAULT) => Some(false),
        Err(_) => None,
    }
}

/// Where `process_vm_readv` is filtered away.
fn by_file(from: u64, to: &mut [u8]) -> bool {
    static MEM: OnceLock<Option<(u32, File)>> = OnceLock::new();
    // Opened once; of no use in a forked child, whose memory it is not.
    let mem = MEM.get_or_init(|| Some((std::process::id(), File::open("/proc/self/mem").ok()?)));
    mem.as_ref().is_some_and(|(pid, mem)| *pid == std::process::id() && mem.read_exact_at(to, from).is_ok())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let there = [1u8, 2, 3, 4];
        let mut copy = [0; 4];
        let ways: [fn(u64, &mut [u8]) -> bool; 3] = [|from, to| by_syscall(from, to).unwrap(), by_file, read];
        for way in ways {
            assert!(way(there.as_ptr() as u64, &mut copy));
            assert_eq!(copy, there);
            assert!(!way(8, &mut copy));
            assert!(!way(super::super::arch::UNKNOWN, &mut copy));
        }
    }
}

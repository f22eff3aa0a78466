//! Reads memory of this process through the kernel, where an unmapped address is an error and not a
//! fault.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Fills `to` from address `from`. Returns whether all of it could be read.
pub(super) fn read(from: u64, to: &mut [u8]) -> bool {
    read_prefix(from, to) == to.len()
}

/// Fills the start of `to` from address `from`, up to the first page that cannot be read. Returns
/// the number of bytes.
pub(super) fn read_prefix(from: u64, to: &mut [u8]) -> usize {
    by_syscall(from, to).unwrap_or_else(|| by_file(from, to))
}

/// Returns whether memory is read by a system call that a signal handler may make, too.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_read_by_syscall() -> bool {
    let own = 1u8;
    by_syscall(&raw const own as u64, &mut [0]) == Some(1)
}

/// Reads by `process_vm_readv`; `None` where that call is not permitted. Async-signal-safe: it
/// makes this one call, and changes nothing but `errno`.
pub(super) fn by_syscall(from: u64, to: &mut [u8]) -> Option<usize> {
    // SAFETY: getpid takes no argument and cannot fail.
    read_of(unsafe { libc::getpid() }, from, to)
}

/// Reads memory of a process by `process_vm_readv`, as [`by_syscall`] does.
pub(super) fn read_of(pid: libc::pid_t, from: u64, to: &mut [u8]) -> Option<usize> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes at most `to.len()` bytes into `to`, and only reads at `from`, which
    // it checks.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    let why = std::io::Error::last_os_error();
    match usize::try_from(read) {
        Ok(len) => Some(len),
        // EFAULT means the address is unmapped, which is an answer rather than a failure.
        Err(_) if why.raw_os_error() == Some(libc::EFAULT) => Some(0),
        Err(_) => None,
    }
}

/// Reads by `/proc/self/mem`, for processes in which `process_vm_readv` is filtered.
fn by_file(from: u64, to: &mut [u8]) -> usize {
    static MEM: OnceLock<Option<(u32, File)>> = OnceLock::new();
    // Opened once. In a forked child the file is still the parent's memory, hence the process id.
    let mem = MEM.get_or_init(|| Some((std::process::id(), File::open("/proc/self/mem").ok()?)));
    let Some((_, mem)) = mem.as_ref().filter(|(pid, _)| *pid == std::process::id()) else { return 0 };
    read_file(mem, from, to)
}

/// Reads from a file that contains a process' memory. Returns the number of bytes.
pub(super) fn read_file(mem: &File, from: u64, to: &mut [u8]) -> usize {
    let mut len = 0;
    while len < to.len() {
        match mem.read_at(&mut to[len..], from.wrapping_add(len as u64)) {
            Ok(read) if read > 0 => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    len
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn reads_mapped_memory_and_no_other() {
        let mapped = [1u8, 2, 3, 4];
        let mut copy = [0; 4];
        for source in SOURCES {
            copy = [0; 4];
            assert_eq!(source(mapped.as_ptr() as u64, &mut copy), 4);
            assert_eq!(copy, mapped);
            assert_eq!(source(8, &mut copy), 0);
            assert_eq!(source(super::super::arch::UNKNOWN, &mut copy), 0);
        }
        assert!(read(mapped.as_ptr() as u64, &mut copy) && !read(8, &mut copy));
    }

    const SOURCES: [fn(u64, &mut [u8]) -> usize; 3] = [|from, to| by_syscall(from, to).unwrap(), by_file, read_prefix];

    #[test]
    fn reads_up_to_a_page_that_cannot_be_read() {
        // The kernel's pages are 4 to 64 KiB.
        const PART: usize = 64 << 10;
        // SAFETY: the name is a C string. A new file, and a new mapping of twice its length, of
        // which no other code knows.
        let (file, start) = unsafe {
            let file = libc::memfd_create(c"pages".as_ptr(), 0);
            assert_eq!(libc::ftruncate(file, PART as i64), 0);
            (file, libc::mmap(std::ptr::null_mut(), 2 * PART, libc::PROT_READ, libc::MAP_SHARED, file, 0))
        };
        assert_ne!(start, libc::MAP_FAILED);
        let mut copy = vec![1; 2 * PART - 100];
        for source in SOURCES {
            copy.fill(1);
            assert_eq!(source(start as u64 + 100, &mut copy), PART - 100);
            assert!(copy[..PART - 100].iter().all(|byte| *byte == 0));
            assert_eq!(source((start as usize + PART) as u64, &mut copy), 0);
        }
        assert!(!read(start as u64, &mut copy));
        // SAFETY: nothing refers to the mapping or the file any more.
        unsafe { (libc::munmap(start, 2 * PART), libc::close(file)) };
    }
}

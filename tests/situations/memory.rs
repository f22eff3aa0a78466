//! Situations of threads that access memory that is not present.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check};

const PAGE: usize = 4096;

/// A page that becomes present on demand. It stands for one that has to be read from a disk.
struct Page {
    at: *mut u8,
    /// The descriptor of a `userfaultfd`.
    fd: OwnedFd,
}

// SAFETY: an address. Only the holder and its reader use the page, and `fill` orders them.
unsafe impl Send for Page {}

/// The constants of `linux/userfaultfd.h` that are used here.
const API: u64 = 0xaa;
const API_CALL: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const ZERO_PAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const MISSING: u64 = 1;
const USER_MODE_ONLY: libc::c_int = 1;

impl Page {
    fn new() -> std::io::Result<Page> {
        let error = std::io::Error::last_os_error;
        // SAFETY: integers and a mapping of its own. The structures are as the calls expect:
        // `uffdio_api` has three words, `uffdio_register` four.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY);
            if fd < 0 {
                return Err(error());
            }
            let fd = OwnedFd::from_raw_fd(fd as libc::c_int);
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "{}", error());
            let mut register = [at as u64, PAGE as u64, MISSING, 0];
            if libc::ioctl(fd.as_raw_fd(), API_CALL, &mut [API, 0, 0]) != 0
                || libc::ioctl(fd.as_raw_fd(), REGISTER, &mut register) != 0
            {
                return Err(error());
            }
            Ok(Page { at: at.cast(), fd })
        }
    }

    /// Makes the page present, and the waiting thread continues.
    fn fill(self) {
        let mut zero = [self.at as u64, PAGE as u64, 0, 0];
        // SAFETY: the structure `uffdio_zeropage` has four words; the page is a mapping of this
        // value.
        assert_eq!(unsafe { libc::ioctl(self.fd.as_raw_fd(), ZERO_PAGE, &mut zero) }, 0);
    }
}

#[inline(never)]
fn touches(page: usize) -> u8 {
    // SAFETY: the page is mapped and never unmapped.
    unsafe { (page as *const u8).read_volatile() } // blocks here
}

#[test]
fn a_page_that_has_to_be_read_is_diagnosed() {
    if let Err(error) = Page::new() {
        return test_support::skipped(&format!("no userfaultfd here: {error}"));
    }
    let (reason, advice) = ("a page of memory (a page fault)", "tokio::task::spawn_blocking");
    check(Expected { cause: Cause::Syscall, syscalls: &[], reason, advice, function: "memory::touches" }, || {
        let page = Page::new().unwrap();
        let at = page.at as usize;
        Situation::new(move || assert_eq!(touches(at), 0), || page.fill())
    });
}

//! Threads that are interrupted between two calls: by a signal, and by a page fault.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::*;

/// A signal handler that waits until a test lets it go.
mod waiting_handler {
    use super::*;

    pub(super) static ENTERED: AtomicU64 = AtomicU64::new(0);
    /// The number of times that the handler may have returned.
    static MAY_RETURN: AtomicU64 = AtomicU64::new(0);

    /// Lets the handler return when it is dropped, also by a panic.
    pub(super) struct Return(pub(super) u64);

    impl Drop for Return {
        fn drop(&mut self) {
            MAY_RETURN.store(self.0, Ordering::Release);
        }
    }

    extern "C" fn wait(_: libc::c_int) {
        let call = ENTERED.fetch_add(1, Ordering::Release) + 1;
        while MAY_RETURN.load(Ordering::Acquire) < call {
            let a_moment = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
            // SAFETY: a signal handler may sleep.
            unsafe { libc::nanosleep(&raw const a_moment, std::ptr::null_mut()) };
        }
    }

    pub(super) fn install() {
        // SAFETY: the handler makes only calls that are safe in one. No other code uses the signal.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = wait as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
        }
    }

    pub(super) fn send_to(tid: Tid) {
        // SAFETY: plain arguments. The thread is alive.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid.as_raw(), libc::SIGUSR2) };
        assert_eq!(sent, 0);
    }
}

#[inline(never)]
fn computes(mutex: &Mutex<u64>, stop: &AtomicBool, ready: &dyn Fn()) {
    let guard = mutex.lock().unwrap();
    ready();
    let mut sum = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sum = std::hint::black_box(sum.wrapping_mul(3)) ^ 5;
    }
    drop((guard, std::hint::black_box(sum)));
}

/// A signal interrupts a function between two calls, where it has the cleanup of no call.
#[test]
fn a_function_that_a_signal_interrupts_keeps_its_guards() {
    const ROUNDS: u64 = 200;
    waiting_handler::install();
    let mutex = Mutex::new(1u64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (_stop, stop, mutex) = (Stop(&stop), &stop, &mutex);
        let (send, receive) = mpsc::channel();
        scope.spawn(move || {
            computes(mutex, stop, &|| send.send(Target::current().unwrap()).unwrap());
        });
        let target = receive.recv().unwrap();
        let mut search = LockSearch::new();
        let mut searches = 0;
        for round in 1..=ROUNDS {
            waiting_handler::send_to(target.tid);
            let _return = waiting_handler::Return(round);
            while waiting_handler::ENTERED.load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
            let Ok(thread) = search.thread(target.tid, Some(target.stack)) else { continue };
            let found = thread.holds(std_mutex(mutex));
            let stack = || crate::Symbolizer::shared().symbolize(thread.stack());
            assert_ne!(found, Holding::No, "{:#}", stack());
            let functions = thread.stack().chain.addresses.iter().filter_map(|&address| {
                Modules::current().find(address)?.function(address).map(|function| function.start)
            });
            let is_whole = thread.stack().is_complete()
                && functions.into_iter().any(|start| start == computes as *const () as u64);
            assert!(is_whole, "{:#}", stack());
            searches += usize::from(matches!(thread.state(), Some(SyscallState::Waiting { .. })));
        }
        assert!(searches > 0, "no search of a handler that waits");
    });
}

/// A page whose first reader waits until this is dropped.
struct MissingPage {
    descriptor: OwnedFd,
    page: *mut libc::c_void,
}

impl MissingPage {
    const SIZE: usize = 4096;

    /// Makes such a page; `None` where that is not permitted.
    fn new() -> Option<MissingPage> {
        // Numbers and structures of <linux/userfaultfd.h>.
        const API: u64 = 0xaa;
        const IOCTL_API: libc::c_ulong = 0xc018_aa3f;
        const IOCTL_REGISTER: libc::c_ulong = 0xc020_aa00;
        const IS_MISSING: u64 = 1;

        // SAFETY: a new descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let Some(descriptor) = libc::c_int::try_from(descriptor).ok().filter(|&descriptor| descriptor >= 0) else {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "no userfaultfd: {error}");
            eprintln!("skipped: no userfaultfd: {error}");
            return None;
        };
        // SAFETY: the descriptor is nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of which no other code knows.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, access, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        let this = MissingPage { descriptor, page };
        let mut api = [API, 0, 0];
        let mut register = [page as u64, Self::SIZE as u64, IS_MISSING, 0];
        // SAFETY: both calls take a structure of that size.
        let results = unsafe {
            let descriptor = this.descriptor.as_raw_fd();
            [
                libc::ioctl(descriptor, IOCTL_API, api.as_mut_ptr()),
                libc::ioctl(descriptor, IOCTL_REGISTER, register.as_mut_ptr()),
            ]
        };
        assert_eq!(results, [0, 0], "userfaultfd: {}", std::io::Error::last_os_error());
        Some(this)
    }
}

#[inline(never)]
fn reads(mutex: &Mutex<u64>, at: u64, ready: &dyn Fn()) {
    let guard = mutex.lock().unwrap();
    ready();
    // SAFETY: the page stays mapped until this thread has ended.
    let value = unsafe { *(at as *const u64) };
    drop((guard, std::hint::black_box(value)));
}

#[test]
fn a_function_that_waits_for_a_page_keeps_its_guards() {
    let Some(missing) = MissingPage::new() else { return };
    let mutex = Mutex::new(1u64);
    let at = missing.page as u64;
    let page = std::thread::scope(|scope| {
        let mutex = &mutex;
        let (send, receive) = mpsc::channel();
        scope.spawn(move || reads(mutex, at, &|| send.send(Target::current().unwrap()).unwrap()));
        let target = receive.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !matches!(procfs::syscall(target.tid), Some(SyscallState::Waiting { call: None, .. })) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let thread = LockSearch::new().thread(target.tid, Some(target.stack));
        // Without the descriptor the page is an empty one.
        let MissingPage { descriptor, page } = missing;
        drop(descriptor);
        assert_ne!(thread.unwrap().holds(std_mutex(mutex)), Holding::No);
        page
    });
    // SAFETY: its reader has ended.
    unsafe { libc::munmap(page, MissingPage::SIZE) };
}

//! Captures of a running thread by bounds that are not those of its stack: they may be those of an
//! earlier thread with the same id.

use super::*;
use crate::StackBounds;

/// The kernel's pages are 4 to 64 KiB.
const PAGE: usize = 64 << 10;
const STACK: usize = 4 * PAGE;

extern "C" fn spin(stop: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the pointer is to the flag of the test, which joins this thread before it ends.
    let stop = unsafe { &*stop.cast::<AtomicU64>() };
    stop.store(Tid::current().unwrap().as_raw() as u64, Ordering::Release);
    while stop.load(Ordering::Acquire) != 0 {
        std::hint::spin_loop();
    }
    std::ptr::null_mut()
}

#[test]
fn a_copy_ends_where_no_memory_is() {
    // SAFETY: a new mapping, of which no other code knows. Its last part cannot be read, and the
    // rest is the stack of one thread, which is joined before it is unmapped.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (readable, len) = (libc::PROT_READ | libc::PROT_WRITE, STACK + PAGE);
        let low = libc::mmap(std::ptr::null_mut(), len, readable, flags, -1, 0);
        assert_ne!(low, libc::MAP_FAILED);
        let end = low as usize + STACK;
        assert_eq!(libc::mprotect(end as *mut libc::c_void, PAGE, libc::PROT_NONE), 0);
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&mut attr), 0);
        assert_eq!(libc::pthread_attr_setstack(&mut attr, low, STACK), 0);
        let tid = AtomicU64::new(0);
        let mut thread = std::mem::zeroed();
        let argument = std::ptr::from_ref(&tid).cast_mut().cast();
        assert_eq!(libc::pthread_create(&mut thread, &attr, spin, argument), 0);
        while tid.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let bounds = |high| StackBounds::from_mapping(Address::new(low as u64), Address::new(high)).unwrap();
        let target = |high| Target { tid: Tid::from_raw(tid.load(Ordering::Acquire) as i32), stack: bounds(high) };
        // Up to the end of the stack, and up to the end of what cannot be read.
        for high in [end, end + PAGE] {
            let mut stack = Vec::new();
            let start = Instant::now();
            while signal::request(target(high as u64), None, &mut stack).is_err() {
                assert!(start.elapsed() < Duration::from_secs(60), "the thread answers");
            }
            assert!(!stack.is_empty() && stack.len() < STACK, "{}", stack.len());
        }
        tid.store(0, Ordering::Release);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(&mut attr);
        libc::munmap(low, len);
    }
}

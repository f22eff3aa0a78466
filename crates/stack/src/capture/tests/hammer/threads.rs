//! The threads that are captured.

use std::cell::Cell;
use std::ffi::CStr;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::super::guard::lock;
use super::*;

#[inline(never)]
fn churns(kind: u8) {
    for size in [24, 400, 10_000, 300_000] {
        let mut lists: Vec<Vec<u8>> = (0..20).map(|more| vec![kind; size + more]).collect();
        black_box(&mut lists);
    }
}

#[inline(never)]
pub(super) fn allocates_evenly() {
    churns(black_box(2));
    black_box(());
}

#[inline(never)]
pub(super) fn allocates_oddly() {
    churns(black_box(1));
    black_box(());
}

/// Runs numbered "polls". Each publishes its number first. Even and odd ones call different
/// functions.
#[inline(never)]
pub(super) fn allocates(stop: &AtomicBool, number: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let poll = number.fetch_add(1, Ordering::SeqCst) + 1;
        if poll.is_multiple_of(2) { allocates_evenly() } else { allocates_oddly() }
    }
}

struct Guard<'a>(&'a Cell<u64>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(black_box(self.0.get() + 1));
    }
}

/// The payload of a panic that is part of the test.
pub(super) struct Deliberate;

#[inline(never)]
fn dives(depth: u32, dropped: &Cell<u64>) -> u32 {
    let _guard = Guard(dropped);
    if depth == 0 {
        std::panic::panic_any(Deliberate);
    }
    black_box(dives(black_box(depth - 1), dropped)) + 1
}

#[inline(never)]
pub(super) fn panics(stop: &AtomicBool) {
    let dropped = Cell::new(0);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let caught = catch_unwind(AssertUnwindSafe(|| dives(30, &dropped)));
        assert!(caught.unwrap_err().is::<Deliberate>());
        rounds += 1;
        assert_eq!(dropped.get(), rounds * 31, "captures do not affect how a panic unwinds");
    }
}

/// The size of what [`unmaps`] unmaps, about.
const MAPPING: usize = 16 << 20;

/// Maps memory, writes to it, and unmaps it, which takes some ms in the kernel.
#[inline(never)]
fn unmaps(len: usize) {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of this size.
    unsafe {
        let address = libc::mmap(std::ptr::null_mut(), len, access, kind | libc::MAP_POPULATE, -1, 0);
        assert_ne!(address, libc::MAP_FAILED);
        assert_eq!(libc::munmap(address, len), 0);
    }
}

#[inline(never)]
pub(super) fn unmaps_evenly() {
    // Functions with the same code would have the same address.
    unmaps(black_box(MAPPING + 4096));
    black_box(());
}

#[inline(never)]
pub(super) fn unmaps_oddly() {
    unmaps(black_box(MAPPING));
    black_box(());
}

/// Like [`allocates`], for polls that spend their time in system calls.
#[inline(never)]
pub(super) fn computes_in_the_kernel(stop: &AtomicBool, number: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let poll = number.fetch_add(1, Ordering::SeqCst) + 1;
        if poll.is_multiple_of(2) { unmaps_evenly() } else { unmaps_oddly() }
    }
}

/// A thread that lives for a short time.
#[derive(Clone)]
pub(super) struct ShortLived {
    pub(super) target: Target,
    pub(super) activity: Activity,
}

#[inline(never)]
pub(super) fn lives_shortly(latest: &Mutex<Option<ShortLived>>) {
    let activity = Activity::new(Arc::new(AtomicU64::new(1)), |word| word);
    *lock(latest) = Target::current().map(|target| ShortLived { target, activity });
    for _ in 0..20 {
        churns(black_box(3));
    }
}

#[inline(never)]
pub(super) fn spawns(stop: &AtomicBool, latest: &Arc<Mutex<Option<ShortLived>>>) {
    while !stop.load(Ordering::Relaxed) {
        let latest = latest.clone();
        thread::spawn(move || lives_shortly(&latest)).join().unwrap();
    }
}

/// Returns a library that is not loaded yet. At least one of these is part of every glibc.
pub(super) fn library() -> &'static CStr {
    let names = [c"libz.so.1", c"libanl.so.1", c"libBrokenLocale.so.1", c"libthread_db.so.1", c"libnsl.so.1"];
    let is_new = |name: &&&CStr| {
        // SAFETY: a C string. The first call loads nothing, and what the second loads is unloaded.
        unsafe {
            let loaded = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            loaded.is_null() && !handle.is_null() && libc::dlclose(handle) == 0
        }
    };
    names.iter().find(is_new).expect("a library to load")
}

#[inline(never)]
pub(super) fn loads(stop: &AtomicBool, library: &CStr) {
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: a C string; nothing of the library is used.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null());
            assert_eq!(libc::dlclose(handle), 0);
        }
    }
}

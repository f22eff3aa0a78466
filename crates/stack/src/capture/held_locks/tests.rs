use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, mpsc};
use std::time::{Duration, Instant};

use super::super::modules::Table;
use super::releases::MAX_DEPTH;
use super::*;

/// Ends the threads of a test when it is dropped, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sleep_until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a function on a thread, and returns what a search finds about a lock once it has an answer.
#[track_caller]
fn search(lock: LockRef, body: impl FnOnce(&dyn Fn(), &AtomicBool) + Send) -> Holding {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let (send, receive) = mpsc::channel();
        let stop = &stop;
        scope.spawn(move || {
            let target = Target::current().unwrap();
            body(&|| send.send(target).unwrap(), stop);
        });
        let target = receive.recv().unwrap();
        let mut search = LockSearch::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match search.thread(target.tid, Some(target.stack)) {
                // A thread that was interrupted between two calls is understood a moment later.
                Ok(thread) => match thread.holds(lock) {
                    Holding::Unknown if Instant::now() < deadline => {}
                    holding => return holding,
                },
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

fn std_mutex<T>(mutex: &Mutex<T>) -> LockRef {
    LockRef { kind: LockKind::StdMutex, address: Address::of(mutex) }
}

#[test]
fn a_thread_that_sleeps_with_a_guard_holds_the_lock() {
    let mutex = Mutex::new(1u64);
    let found = search(std_mutex(&mutex), |ready, stop| {
        let guard = mutex.lock().unwrap();
        ready();
        sleep_until(stop);
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn a_thread_that_computes_with_a_guard_holds_the_lock() {
    let mutex = Mutex::new(1u64);
    let sum = AtomicU64::new(0);
    #[inline(never)]
    fn compute(sum: &AtomicU64) {
        for i in 0..100_000 {
            sum.fetch_add(i, Ordering::Relaxed);
        }
    }
    // If the compiler knows that this call cannot panic, it is unknown whether the lock is held:
    // tests/cannot_panic.rs.
    let compute = std::hint::black_box(compute as fn(&AtomicU64));
    let found = search(std_mutex(&mutex), |ready, stop| {
        let guard = mutex.lock().unwrap();
        ready();
        while !stop.load(Ordering::Relaxed) {
            compute(&sum);
        }
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn a_reference_or_a_guard_of_the_past_is_no_guard() {
    let mutex = Mutex::new(1u64);
    let found = search(std_mutex(&mutex), |ready, stop| {
        let reference = &mutex;
        *reference.lock().unwrap() += 1;
        ready();
        while !stop.load(Ordering::Relaxed) {
            sleep_until(stop);
            std::hint::black_box(reference);
        }
    });
    assert_eq!(found, Holding::No);
}

#[test]
fn a_guard_of_another_lock_is_not_mistaken() {
    let (mutex, other) = (Mutex::new(1u64), Mutex::new(String::new()));
    let found = search(std_mutex(&mutex), |ready, stop| {
        *mutex.lock().unwrap() += 1;
        let guard = other.lock().unwrap();
        ready();
        sleep_until(stop);
        drop((guard, std::hint::black_box(&mutex)));
    });
    assert_eq!(found, Holding::No);
}

#[test]
fn a_guard_within_a_value_is_found() {
    struct Session<'a> {
        name: String,
        guard: MutexGuard<'a, u64>,
    }
    let mutex = Mutex::new(1u64);
    let found = search(std_mutex(&mutex), |ready, stop| {
        let session = Session { name: "a".repeat(100), guard: mutex.lock().unwrap() };
        ready();
        sleep_until(stop);
        assert_eq!((*session.guard, session.name.len()), (1, 100));
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn a_guard_of_a_static_is_found() {
    static MUTEX: Mutex<u64> = Mutex::new(1);
    let found = search(std_mutex(&MUTEX), |ready, stop| {
        let guard = MUTEX.lock().unwrap();
        ready();
        sleep_until(stop);
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn a_guard_in_a_box_is_found() {
    let mutex = Mutex::new(1u64);
    let found = search(std_mutex(&mutex), |ready, stop| {
        let guard = Some(Box::new(mutex.lock().unwrap()));
        ready();
        sleep_until(stop);
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn guards_of_readers_and_writers_are_found() {
    let lock = RwLock::new(1u64);
    let this = LockRef { kind: LockKind::StdRwLock, address: Address::of(&lock) };
    let found = search(this, |ready, stop| {
        let guard = lock.read().unwrap();
        ready();
        sleep_until(stop);
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
    let found = search(this, |ready, stop| {
        let guard = lock.write().unwrap();
        ready();
        sleep_until(stop);
        drop(guard);
    });
    assert!(matches!(found, Holding::Yes { .. }), "{found:?}");
}

#[test]
fn the_mutex_of_a_condition_is_not_held_for_certain() {
    let (mutex, condition) = (Mutex::new(1u64), Condvar::new());
    let this = std_mutex(&mutex);
    let stop = AtomicBool::new(false);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            send.send(Target::current().unwrap()).unwrap();
            let guard = mutex.lock().unwrap();
            drop(condition.wait_while(guard, |_| !stop.load(Ordering::Relaxed)).unwrap());
        });
        let target = receive.recv().unwrap();
        let mut search = LockSearch::new();
        let start = Instant::now();
        let mut searches = 0;
        while searches < 20 && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
            // Free while the thread waits.
            let Ok(guard) = mutex.try_lock() else { continue };
            let Ok(thread) = search.thread(target.tid, Some(target.stack)) else { continue };
            drop(guard);
            assert!(!matches!(thread.holds(this), Holding::Yes { .. }));
            searches += 1;
        }
        stop.store(true, Ordering::Relaxed);
        condition.notify_all();
        waiting.join().unwrap();
        assert_eq!(searches, 20);
    });
}

/// A list whose nodes have guards. The function that drops a node calls itself.
struct Node {
    _guard: Option<MutexGuard<'static, u64>>,
    _next: Option<Box<Node>>,
}

/// A value that is reached at the greatest depth has others in it that are not followed. Where it
/// is reached sooner, they are.
#[test]
fn what_was_cut_off_is_followed_where_it_is_less_deep() {
    let drop_node: unsafe fn(*mut Node) = std::ptr::drop_in_place::<Node>;
    let (modules, start) = (Modules::current(), drop_node as usize as u64);
    let mut reader = ReleaseReader::default();
    reader.start(&modules);
    let mut at = |depth| reader.of_value(&modules, &memory::read, start, depth).list.len();
    let cut_off = at(MAX_DEPTH);
    let whole = at(1);
    assert!(cut_off > 0 && whole > cut_off, "{cut_off} and {whole} guards");
    assert_eq!(at(1), whole);
    assert_eq!(at(MAX_DEPTH), whole, "what is known already is no less");
}

/// A library that is loaded where another one was has other code at the same addresses.
#[test]
fn code_of_other_modules_is_forgotten() {
    let mut reader = ReleaseReader::default();
    let modules = Modules::current();
    reader.start(&modules);
    let here = code_of_other_modules_is_forgotten as *const () as u64;
    let first = reader.at(&modules, &memory::read, here, Doing::Interrupted);
    reader.start(&modules);
    assert!(Arc::ptr_eq(&reader.at(&modules, &memory::read, here, Doing::Interrupted), &first), "it is remembered");
    let others = Arc::new(modules.with_library(0x10..0x20, Table::default(), Table::default()));
    reader.start(&others);
    assert!(!Arc::ptr_eq(&reader.at(&others, &memory::read, here, Doing::Interrupted), &first));
}

/// The memory of a thread's stack, with a page above it that cannot be read: the guard of a
/// neighbour, which may be part of the same mapping.
struct GuardedStack {
    start: *mut libc::c_void,
}

impl GuardedStack {
    const SIZE: usize = 256 << 10;
    const GUARD: usize = 64 << 10;

    fn new() -> GuardedStack {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of which no other code knows.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE + Self::GUARD, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the range is the end of that mapping.
        let changed = unsafe { libc::mprotect(start.byte_add(Self::SIZE), Self::GUARD, libc::PROT_NONE) };
        assert_eq!(changed, 0);
        GuardedStack { start }
    }

    /// Runs a function on this stack, on a thread that ends before this returns.
    fn run(&self, body: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void, while_it_runs: impl FnOnce()) {
        let mut thread = 0;
        // SAFETY: the stack is used by this thread only, which ends before the mapping does.
        unsafe {
            let mut attributes = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, self.start, Self::SIZE), 0);
            assert_eq!(libc::pthread_create(&mut thread, &attributes, body, std::ptr::null_mut()), 0);
            libc::pthread_attr_destroy(&mut attributes);
        }
        // Also by a panic: the stack must not go before its thread.
        let _join = Join(thread);
        while_it_runs();
    }

    fn mapping(&self) -> StackBounds {
        let low = self.start as u64;
        let high = low + (Self::SIZE + Self::GUARD) as u64;
        StackBounds::from_mapping(Address::new(low), Address::new(high)).unwrap()
    }
}

/// Joins a thread when it is dropped.
struct Join(libc::pthread_t);

impl Drop for Join {
    fn drop(&mut self) {
        // SAFETY: the thread is joined once.
        unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
    }
}

impl Drop for GuardedStack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and its thread has ended.
        unsafe { libc::munmap(self.start, Self::SIZE + Self::GUARD) };
    }
}

#[test]
fn a_stack_is_read_up_to_a_page_that_cannot_be() {
    static MUTEX: Mutex<u64> = Mutex::new(1);
    static STOP: AtomicBool = AtomicBool::new(false);
    static TID: AtomicI32 = AtomicI32::new(0);

    extern "C" fn hold(_: *mut libc::c_void) -> *mut libc::c_void {
        let guard = MUTEX.lock().unwrap();
        TID.store(Tid::current().unwrap().as_raw(), Ordering::Release);
        sleep_until(&STOP);
        drop(guard);
        std::ptr::null_mut()
    }

    let stack = GuardedStack::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    stack.run(hold, || {
        let _stop = Stop(&STOP);
        let mut search = LockSearch::new();
        loop {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
            let tid = TID.load(Ordering::Acquire);
            let waiting = tid != 0 && matches!(procfs::syscall(Tid::from_raw(tid)), Some(SyscallState::Waiting { .. }));
            if !waiting {
                continue;
            }
            match search.thread(Tid::from_raw(tid), Some(stack.mapping())) {
                Ok(thread) if matches!(thread.holds(std_mutex(&MUTEX)), Holding::Yes { .. }) => break,
                Ok(_) | Err(CaptureError::Moved | CaptureError::Timeout) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[inline(never)]
fn computes_until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    std::hint::black_box(());
}

/// Threads whose stacks' bounds are unknown are read all the same, up to the start of each thread.
#[test]
fn a_thread_of_which_only_the_id_is_known_is_read() {
    for computes in [true, false] {
        let name = if computes { "computes_until" } else { "sleep_until" };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (_stop, stop) = (Stop(&stop), &stop);
            let (send, receive) = mpsc::channel();
            scope.spawn(move || {
                send.send(Tid::current().unwrap()).unwrap();
                if computes { computes_until(stop) } else { sleep_until(stop) }
            });
            let tid = receive.recv().unwrap();
            let mut search = LockSearch::new();
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let found = search.stack(tid).map(|raw| crate::Symbolizer::shared().symbolize(&raw));
                let is_it = |frame: &Frame| frame.function.as_ref().is_some_and(|function| function.ends_with(name));
                match found {
                    Ok(stack) if stack.frames().iter().any(is_it) => return assert!(stack.is_complete(), "{stack:#}"),
                    found => assert!(Instant::now() < deadline, "{found:?}"),
                }
            }
        });
    }
    assert_eq!(LockSearch::new().stack(Tid::current().unwrap()).err(), Some(CaptureError::Unavailable));
}

mod cannot_panic;
mod interrupted;

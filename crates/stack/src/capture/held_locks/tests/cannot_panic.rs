//! Threads that hold a lock while they do what cannot panic. The tables have no cleanup for that,
//! which proves nothing.

use std::sync::PoisonError;

use super::*;

/// The number of answers that each test collects.
const ANSWERS: usize = 30;

/// The signals between a test and the function that holds a lock.
#[derive(Default)]
struct Signals {
    holds: AtomicBool,
    stop: AtomicBool,
}

impl Signals {
    #[inline(always)]
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn hold(&self) {
        self.holds.store(true, Ordering::Release);
    }
}

/// Runs a function that holds a lock on a thread, and returns what searches find about the lock
/// while it does.
fn answers(lock: LockRef, body: impl FnOnce(&Signals) + Send) -> Vec<Holding> {
    let signals = Signals::default();
    std::thread::scope(|scope| {
        let (_stop, signals) = (Stop(&signals.stop), &signals);
        let (send, receive) = mpsc::channel();
        scope.spawn(move || {
            send.send(Target::current().unwrap()).unwrap();
            body(signals);
        });
        let target = receive.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let wait = |what: &str| {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        };
        while !signals.holds.load(Ordering::Acquire) {
            wait("the lock is not held");
        }
        let mut search = LockSearch::new();
        let mut answers = Vec::new();
        while answers.len() < ANSWERS {
            // Of a thread that moves while it is read, nothing is known.
            answers.extend(search.thread(target.tid, Some(target.stack)).map(|thread| thread.holds(lock)));
            wait("the thread cannot be searched");
        }
        answers
    })
}

#[track_caller]
fn is_never_denied(lock: LockRef, body: impl FnOnce(&Signals) + Send) {
    let answers = answers(lock, body);
    assert!(!answers.contains(&Holding::No), "{answers:?}");
}

/// A moment in a function of the C library, which cannot panic.
#[inline(always)]
fn sleep_in_c() {
    // SAFETY: a plain argument.
    unsafe { libc::usleep(2_000) };
}

/// A moment in a system call that is made without the C library.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sleep_in_assembly() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    // SAFETY: the kernel reads the time, and changes only the registers of a system call.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_nanosleep => _,
            in("rdi") &raw const time,
            in("rsi") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
}

#[inline(never)]
fn compute(mut sum: u64) -> u64 {
    for _ in 0..10_000 {
        sum = std::hint::black_box(sum).rotate_left(3) ^ 5;
    }
    sum
}

#[inline(never)]
fn holds_and_computes(mutex: &Mutex<u64>, signals: &Signals) {
    let mut guard = mutex.lock().unwrap();
    signals.hold();
    while !signals.stopped() {
        *guard = compute(*guard);
    }
}

#[inline(never)]
fn holds_and_computes_here(mutex: &Mutex<u64>, signals: &Signals) {
    let mut guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    signals.hold();
    while !signals.stopped() {
        *guard = std::hint::black_box(*guard).rotate_left(3) ^ 5;
    }
}

#[inline(never)]
fn holds_in_c(mutex: &Mutex<u64>, signals: &Signals) {
    let _guard = mutex.lock().unwrap();
    signals.hold();
    while !signals.stopped() {
        sleep_in_c();
    }
}

#[inline(never)]
fn holds_in_c_whatever_panicked(mutex: &Mutex<u64>, signals: &Signals) {
    let _guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    signals.hold();
    while !signals.stopped() {
        sleep_in_c();
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn holds_in_assembly(mutex: &Mutex<u64>, signals: &Signals) {
    let _guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    signals.hold();
    while !signals.stopped() {
        sleep_in_assembly();
    }
}

#[inline(never)]
fn reads_in_c(lock: &RwLock<u64>, signals: &Signals) {
    let _guard = lock.read().unwrap_or_else(PoisonError::into_inner);
    signals.hold();
    while !signals.stopped() {
        sleep_in_c();
    }
}

#[inline(never)]
fn writes_in_c(lock: &RwLock<u64>, signals: &Signals) {
    let _guard = lock.write().unwrap_or_else(PoisonError::into_inner);
    signals.hold();
    while !signals.stopped() {
        sleep_in_c();
    }
}

/// The guard is a part of a value that the function drops.
struct Session<'a> {
    _name: String,
    _guard: MutexGuard<'a, u64>,
}

#[inline(never)]
fn open<'a>(mutex: &'a Mutex<u64>) -> Session<'a> {
    Session { _name: "a".repeat(100), _guard: mutex.lock().unwrap_or_else(PoisonError::into_inner) }
}

#[inline(never)]
fn holds_a_session_in_c(mutex: &Mutex<u64>, signals: &Signals) {
    let _session = open(mutex);
    signals.hold();
    while !signals.stopped() {
        sleep_in_c();
    }
}

#[test]
fn guards_of_functions_that_cannot_panic_are_not_denied() {
    let mutex = Mutex::new(1u64);
    let holders: [fn(&Mutex<u64>, &Signals); 6] = [
        holds_and_computes,
        holds_and_computes_here,
        holds_in_c,
        holds_in_c_whatever_panicked,
        holds_in_assembly,
        holds_a_session_in_c,
    ];
    let denied = |holder: fn(&Mutex<u64>, &Signals)| {
        let answers = answers(std_mutex(&mutex), |signals| holder(&mutex, signals));
        answers.iter().filter(|answer| **answer == Holding::No).count()
    };
    assert_eq!(holders.map(denied), [0; 6], "of {ANSWERS} answers about each function");
}

#[test]
fn guards_of_readers_and_writers_that_cannot_panic_are_not_denied() {
    let lock = RwLock::new(1u64);
    let this = LockRef { kind: LockKind::StdRwLock, address: Address::of(&lock) };
    is_never_denied(this, |signals| reads_in_c(&lock, signals));
    is_never_denied(this, |signals| writes_in_c(&lock, signals));
}

/// The functions above refer to locks, and so does this one. But its guard is gone, and the call
/// may panic.
#[test]
fn a_guard_of_the_past_is_denied_in_a_call_that_may_panic() {
    #[inline(never)]
    fn held(mutex: &Mutex<u64>, ready: &dyn Fn(), stop: &AtomicBool) {
        *mutex.lock().unwrap() += 1;
        ready();
        sleep_until(stop);
    }
    let mutex = Mutex::new(1u64);
    assert_eq!(search(std_mutex(&mutex), |ready, stop| held(&mutex, ready, stop)), Holding::No);
}

/// A thread that waits for a lock has no guard of it, although the function that waits does not
/// panic.
#[test]
fn a_thread_that_waits_for_a_lock_does_not_hold_it() {
    #[inline(never)]
    fn waits(mutex: &Mutex<u64>) -> u64 {
        *mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
    let mutex = Mutex::new(1u64);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let guard = mutex.lock().unwrap();
        let mutex = &mutex;
        scope.spawn(move || {
            send.send(Target::current().unwrap()).unwrap();
            waits(mutex)
        });
        let target = receive.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut search = LockSearch::new();
        let thread = loop {
            assert!(Instant::now() < deadline, "the thread does not wait");
            std::thread::sleep(Duration::from_millis(1));
            let Ok(thread) = search.thread(target.tid, Some(target.stack)) else { continue };
            let stack = crate::Symbolizer::shared().symbolize(thread.stack());
            if stack.frames().iter().any(|frame| frame.name().contains("lock_contended")) {
                break thread;
            }
        };
        drop(guard);
        assert_eq!(thread.holds(std_mutex(mutex)), Holding::No);
    });
}

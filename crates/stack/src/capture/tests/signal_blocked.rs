//! Threads that the signal does not reach: they block it, or a later handler does not call
//! this crate's.

use super::*;

/// The time limit for a thread that the signal reaches.
const TIME: Duration = Duration::from_secs(30);

/// Captures until the result is a complete stack, or the given error.
fn capture_until(subject: &Subject, outcome: Result<(), CaptureError>) {
    let (mut capturer, start) = (Capturer::default(), Instant::now());
    loop {
        let found = subject.capture(&mut capturer).map(|raw| raw.is_complete());
        if found == outcome.map(|()| true) {
            return;
        }
        assert!(start.elapsed() < TIME, "{found:?}, not {outcome:?}");
    }
}

const UNAVAILABLE: Result<(), CaptureError> = Err(CaptureError::Unavailable);

fn blocks_and_computes(stop: &AtomicBool) {
    // SAFETY: the set is made before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGURG);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
    }
    computes(stop);
}

#[test]
fn threads_that_block_the_signal_are_remembered() {
    in_child_process(module_path!(), "threads_that_block_the_signal_are_remembered", Duration::from_secs(120), || {
        assert_eq!(degradation(), None);
        let (blocking, other) = (Subject::start(blocks_and_computes), Subject::start(computes));
        capture_until(&blocking, UNAVAILABLE);
        assert_eq!(signal::degradation(), Some(signal::IS_BLOCKED));
        // From now on no capture waits for this thread.
        for _ in 0..100 {
            let answer = copy_by_signal(blocking.target, &mut Vec::new());
            assert!(matches!(answer, Err(CaptureError::Unavailable)), "{:?}", answer.map(|_| ()));
        }
        capture_until(&other, Ok(()));
        assert_eq!(signal::degradation(), Some(signal::IS_BLOCKED), "one thread still blocks it");
        // Another handler, installed and removed again, does not change that.
        let earlier = install(libc::SIG_IGN, 0);
        capture_until(&other, UNAVAILABLE);
        assert_eq!(signal::degradation(), Some(signal::IS_REPLACED));
        install(earlier.sa_sigaction, earlier.sa_flags);
        capture_until(&other, Ok(()));
        assert_eq!(signal::degradation(), Some(signal::IS_BLOCKED));
    });
}

extern "C" fn ignores(_: libc::c_int) {}

static EARLIER: AtomicU64 = AtomicU64::new(0);

extern "C" fn calls_the_earlier(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the handler that was installed before has this type.
    let earlier: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { std::mem::transmute(EARLIER.load(Ordering::Relaxed) as usize) };
    earlier(signal, info, context);
}

/// Installs a handler, and returns the one before.
fn install(handler: usize, flags: libc::c_int) -> libc::sigaction {
    // SAFETY: both are valid for the call.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
        (action.sa_sigaction, action.sa_flags) = (handler, flags | libc::SA_RESTART);
        assert_eq!(libc::sigaction(libc::SIGURG, &action, &mut before), 0);
        before
    }
}

#[test]
fn a_later_handler_that_does_not_chain_is_detected() {
    in_child_process(
        module_path!(),
        "a_later_handler_that_does_not_chain_is_detected",
        Duration::from_secs(120),
        || {
            let subject = Subject::start(computes);
            capture_until(&subject, Ok(()));
            let earlier = install(ignores as *const () as usize, 0);
            capture_until(&subject, UNAVAILABLE);
            assert_eq!(signal::degradation(), Some(signal::IS_REPLACED));
            // This one calls the earlier handler. It is tried because it is a different one.
            EARLIER.store(earlier.sa_sigaction as u64, Ordering::Relaxed);
            install(calls_the_earlier as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
            capture_until(&subject, Ok(()));
            assert_eq!(degradation(), None);
            install(libc::SIG_IGN, 0);
            capture_until(&subject, UNAVAILABLE);
            assert_eq!(signal::degradation(), Some(signal::IS_REPLACED));
            install(earlier.sa_sigaction, earlier.sa_flags);
            capture_until(&subject, Ok(()));
            assert_eq!(degradation(), None);
        },
    );
}

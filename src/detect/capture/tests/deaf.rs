//! Threads that the signal does not arrive at.

use super::*;

/// Long enough for a thread that can be asked.
const TIME: Duration = Duration::from_secs(30);

/// Captures until there is an outcome, and tells how many there were before.
fn until(subject: &Subject, outcome: Outcome) -> u32 {
    let (mut capturer, begin) = (Capturer::default(), Instant::now());
    for before in 0.. {
        let (found, _) = subject.capture(&mut capturer);
        if found == outcome {
            return before;
        }
        assert!(begin.elapsed() < TIME, "{found:?}, not {outcome:?}");
    }
    unreachable!()
}

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
fn threads_that_block_it_are_known() {
    alone(module_path!(), "threads_that_block_it_are_known", Duration::from_secs(120), || {
        assert_eq!(hindered(), None);
        let (deaf, other) = (Subject::start(blocks_and_computes), Subject::start(computes));
        until(&deaf, Outcome::Unavailable);
        assert_eq!(signal::hindrance(), Some(signal::IS_BLOCKED));
        // From now on nobody waits for it.
        let (low, high) = deaf.target.stack;
        for _ in 0..100 {
            let answer = signal::copy(deaf.target.tid, low, high, &mut Vec::new());
            assert!(matches!(answer, Err(signal::Failure::Unavailable)), "{:?}", answer.map(|_| ()));
        }
        until(&other, Outcome::Ok);
        assert_eq!(signal::hindrance(), Some(signal::IS_BLOCKED), "some do");
        // A handler that comes and goes makes nobody forget them.
        let ours = install(libc::SIG_IGN, 0);
        until(&other, Outcome::Unavailable);
        assert_eq!(signal::hindrance(), Some(signal::IS_REPLACED));
        install(ours.sa_sigaction, ours.sa_flags);
        until(&other, Outcome::Ok);
        assert_eq!(signal::hindrance(), Some(signal::IS_BLOCKED));
    });
}

extern "C" fn ignores(_: libc::c_int) {}

static OURS: AtomicU64 = AtomicU64::new(0);

extern "C" fn hands_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the handler that was there before, of this kind.
    let ours: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { std::mem::transmute(OURS.load(Ordering::Relaxed) as usize) };
    ours(signal, info, context);
}

/// Installs a handler, and gives the one before.
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
fn a_later_handler_is_known() {
    alone(module_path!(), "a_later_handler_is_known", Duration::from_secs(120), || {
        let subject = Subject::start(computes);
        until(&subject, Outcome::Ok);
        let ours = install(ignores as *const () as usize, 0);
        until(&subject, Outcome::Unavailable);
        assert_eq!(signal::hindrance(), Some(signal::IS_REPLACED));
        // It hands on: another handler, tried anew.
        OURS.store(ours.sa_sigaction as u64, Ordering::Relaxed);
        install(hands_on as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        until(&subject, Outcome::Ok);
        assert_eq!(hindered(), None);
        install(libc::SIG_IGN, 0);
        until(&subject, Outcome::Unavailable);
        assert_eq!(signal::hindrance(), Some(signal::IS_REPLACED));
        install(ours.sa_sigaction, ours.sa_flags);
        until(&subject, Outcome::Ok);
        assert_eq!(hindered(), None);
    });
}

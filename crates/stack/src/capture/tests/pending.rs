//! Captures of threads that compute in a system call: pending until the call returns.

use std::ffi::c_void;
use std::hint::black_box;

use super::*;

/// The time limit for anything that has to happen.
const TIME: Duration = Duration::from_secs(60);
/// The size of the memory whose unmapping keeps a thread in the kernel: some 10 ms at least.
const MAPPING: usize = 128 << 20;
/// The smallest size of a page.
const PAGE: usize = 4096;

/// A thread that runs numbered jobs, each of which maps and touches memory and unmaps it.
struct Worker {
    subject: Subject,
    job: Arc<AtomicU64>,
    /// True while the thread is in `munmap`, or about to enter or leave it.
    is_unmapping: Arc<AtomicBool>,
}

#[inline(never)]
fn unmaps(address: *mut c_void, len: usize) {
    // SAFETY: the caller has mapped this range and does not use it any more.
    assert_eq!(unsafe { libc::munmap(address, len) }, 0);
    black_box(());
}

#[inline(never)]
fn runs_jobs(stop: &AtomicBool, job: &AtomicU64, is_unmapping: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        job.fetch_add(1, Ordering::SeqCst);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of this size, which is written within its bounds.
        let address = unsafe {
            let address = libc::mmap(std::ptr::null_mut(), MAPPING, access, kind, -1, 0);
            assert_ne!(address, libc::MAP_FAILED);
            // Many small pages take longer to unmap than a few huge ones.
            libc::madvise(address, MAPPING, libc::MADV_NOHUGEPAGE);
            (0..MAPPING).step_by(PAGE).for_each(|at| address.cast::<u8>().add(at).write_volatile(1));
            address
        };
        is_unmapping.store(true, Ordering::SeqCst);
        unmaps(address, MAPPING);
        is_unmapping.store(false, Ordering::SeqCst);
    }
}

impl Worker {
    fn start() -> Worker {
        let (job, is_unmapping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (jobs, unmapping) = (job.clone(), is_unmapping.clone());
        let subject = Subject::start(move |stop| runs_jobs(stop, &jobs, &unmapping));
        Worker { subject, job, is_unmapping }
    }

    fn activity(&self) -> Activity {
        Activity::new(self.job.clone(), |job| job)
    }

    /// Requests captures until one stays pending although the thread is unmapping.
    fn pending(&self, capturer: &mut Capturer) -> PendingCapture {
        let (activity, start) = (self.activity(), Instant::now());
        loop {
            assert!(start.elapsed() < TIME, "no capture stays pending");
            if !self.is_unmapping.load(Ordering::SeqCst) {
                thread::yield_now();
                continue;
            }
            let (target, job) = (self.subject.target, activity.value());
            let is_current = || activity.value() == job;
            let result = capturer.capture_or_wait(target, procfs::syscall(target.tid), &activity, is_current);
            if let Ok(Capture::Pending(pending)) = result
                && self.is_unmapping.load(Ordering::SeqCst)
                && !pending.is_ready()
            {
                return pending;
            }
        }
    }
}

/// Returns whether a stack is of the thread in `munmap`. On a busy machine it may be of the thread
/// just before, when it was given no CPU, but never of another function.
fn is_in_munmap(raw: &RawStack) -> bool {
    let is_own = is_on(raw, runs_jobs as *const () as usize);
    assert!(raw.is_complete() && is_own, "{:#}", symbolized(raw));
    is_on(raw, unmaps as *const () as usize)
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < TIME, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The stack of a thread in a system call is taken when the call returns, although the thread has
/// turned to something else by the time that it is collected.
#[test]
fn a_thread_in_the_kernel_is_captured_at_its_return() {
    let worker = Worker::start();
    let mut capturer = Capturer::default();
    let mut in_munmap = 0;
    wait_until("three stacks in munmap", || {
        let pending = worker.pending(&mut capturer);
        let job = worker.activity().value();
        wait_until("the pending capture is answered", || pending.is_ready());
        wait_until("the next job starts", || worker.activity().value() != job);
        let raw = capturer.collect(pending, || false).expect("it was copied in the job");
        in_munmap += u32::from(is_in_munmap(&raw));
        in_munmap == 3
    });
}

/// A thread with a pending request gets no further signal, from whomever.
#[test]
fn a_thread_with_a_pending_capture_is_not_signalled_again() {
    let worker = Worker::start();
    let mut capturer = Capturer::default();
    let start = Instant::now();
    loop {
        let pending = worker.pending(&mut capturer);
        let (target, activity) = (worker.subject.target, worker.activity());
        let again = capturer.capture_or_wait(target, Some(SyscallState::Running), &activity, || true);
        let by_another = Capturer::default().capture(target);
        if !pending.is_ready() {
            let errors = (again.map(|_| ()), by_another.map(|_| ()));
            assert_eq!(errors, (Err(CaptureError::Timeout), Err(CaptureError::Timeout)));
            return;
        }
        assert!(start.elapsed() < TIME, "each call returned before it was captured again");
    }
}

/// A cancelled capture is answered by nobody, and the next one is.
#[test]
fn a_cancelled_capture_does_no_harm() {
    let worker = Worker::start();
    let mut capturer = Capturer::default();
    for _ in 0..3 * signal::MAX_PENDING {
        // More than may be pending at a time: each is freed when it is dropped.
        drop(worker.pending(&mut capturer));
    }
    let pending = worker.pending(&mut capturer);
    let error = capturer.collect(pending, || false).map(|_| ());
    // Else the call has returned in between.
    assert!(matches!(error, Err(CaptureError::Timeout) | Ok(())), "{error:?}");
    let pending = worker.pending(&mut capturer);
    wait_until("the pending capture is answered", || pending.is_ready());
    is_in_munmap(&capturer.collect(pending, || false).unwrap());
}

/// A copy that the thread made in another activity is dropped.
#[test]
fn a_copy_from_another_activity_is_dropped() {
    let worker = Worker::start();
    let mut capturer = Capturer::default();
    // The word changes in the middle of the call, as no thread would do it.
    let pending = worker.pending(&mut capturer);
    worker.job.fetch_add(1, Ordering::SeqCst);
    let was_early = pending.is_ready();
    wait_until("the pending capture is answered", || pending.is_ready());
    let result = capturer.collect(pending, || false).map(|_| ());
    assert!(was_early || result == Err(CaptureError::Moved), "{result:?}");
    // Unless the caller knows that it is the same activity nevertheless.
    let pending = worker.pending(&mut capturer);
    worker.job.fetch_add(1, Ordering::SeqCst);
    wait_until("the pending capture is answered", || pending.is_ready());
    is_in_munmap(&capturer.collect(pending, || true).unwrap());
}

/// The number of pending captures is bounded. Captures that are waited for go on.
#[test]
fn no_more_captures_are_pending_than_the_limit() {
    in_child_process(module_path!(), "no_more_captures_are_pending_than_the_limit", 2 * TIME, || {
        let (computing, mut capturer) = (Subject::start(computes), Capturer::default());
        let stuck: Vec<_> = (0..signal::MAX_PENDING + 2).map(|_| Subject::start(forks_and_waits)).collect();
        let mut pending = Vec::new();
        let start = Instant::now();
        while pending.len() < signal::MAX_PENDING {
            assert!(start.elapsed() < TIME, "only {} are pending", pending.len());
            pending.clear();
            for subject in &stuck {
                let activity = Activity::new(Arc::new(AtomicU64::new(7)), |word| word);
                // These threads wait, uninterruptibly. A request to a thread that computes in the
                // kernel differs in nothing but what it waits for.
                match signal::request(subject.target, Some(&activity), &mut Vec::new()) {
                    Ok(signal::Requested::Pending(request)) => pending.push(request),
                    Ok(signal::Requested::Answered(_)) => {}
                    Err(error) => assert!(matches!(error, CaptureError::Timeout | CaptureError::Unavailable)),
                }
            }
            assert!(pending.len() <= signal::MAX_PENDING, "{}", pending.len());
        }
        let captured = || capturer.capture(computing.target).is_ok_and(|raw| raw.is_complete());
        wait_until("a capture that is waited for succeeds", captured);
        drop(pending);
        stuck.iter().for_each(|subject| subject.stop.store(true, Ordering::Relaxed));
    });
}

/// Waits uninterruptibly in `vfork` for a child that sleeps.
fn forks_and_waits(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child has a copy of the memory. It calls only functions that are
        // async-signal-safe, and never returns.
        unsafe {
            let child = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if child == 0 {
                let time = libc::timespec { tv_sec: 0, tv_nsec: 300_000_000 };
                libc::nanosleep(&time, std::ptr::null_mut());
                libc::_exit(0);
            }
            libc::waitpid(child as i32, std::ptr::null_mut(), 0);
        }
    }
}

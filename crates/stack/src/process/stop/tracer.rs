//! One attempt to stop a thread and to copy its stack, by a thread that exists for it alone, and
//! one that makes such copies.
//!
//! The tracer makes the requests of `ptrace`. An attached thread can be detached only while it is
//! stopped. Where it does not stop in time, or anything else is unexpected, the tracer simply ends:
//! the kernel then detaches what it has attached to, in every state, as it does when the process is
//! killed.
//!
//! The reader copies the stack. Its system call may have to wait: for the lock of the other
//! process' memory, which a `fork` holds, or for a page that was swapped out. The tracer does not
//! wait for longer than [`COPY_TIME`], and lets the thread run again. What is read after that is
//! dropped. A reader that does not return is abandoned.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::StopError;
use super::ptrace::{Attached, Observed};
use crate::capture::{MAX_STACK, Regs, StoppedMemory, SyscallReturn};
use crate::process::{Process, permission};
use crate::procfs::{ProcessFolder, RunState, SyscallState};
use crate::{Address, Tid};

/// The time for a thread to stop after it was asked to. It stops when it next gets a CPU, and runs
/// no code of its own before that. One that stops later may find its system call interrupted.
const PATIENCE: Duration = Duration::from_millis(500);
/// The time for which its answer is polled without a pause, and the length of each pause after
/// that. The thread may need this CPU.
const SPIN: Duration = Duration::from_micros(15);
/// After this time the pauses are longer.
const BUSY: Duration = Duration::from_millis(10);
const BUSY_PAUSE: Duration = Duration::from_micros(150);
/// The interval at which a thread that has not stopped is looked up, since it may have ended.
const END_CHECK: Duration = Duration::from_micros(500);
/// The time for which a thread stays stopped while its stack is copied.
const COPY_TIME: Duration = Duration::from_micros(600);
/// The bytes that are copied at once. What was copied before the thread ran again is used.
const CHUNK: usize = 32 << 10;
/// The size of the stack of the tracer.
const OWN_STACK: usize = 128 << 10;
/// The most bytes that are copied of a stack whose end is unknown.
const UNKNOWN_STACK: usize = 64 << 10;
/// The attempts to attach while an earlier tracer of this process ends, and the pause between them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_micros(200);

/// A thread to stop, and the buffer for the copy of its stack.
pub(super) struct StopRequest<'a> {
    pub(super) tid: Tid,
    pub(super) process: &'a Process,
    pub(super) buffer: &'a mut Vec<u8>,
}

/// The registers of a thread whose stack was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoppedThread {
    pub(super) regs: Regs,
    /// The number of bytes in the buffer.
    pub(super) len: usize,
}

/// What became of an attempt to stop a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// The time for which the thread was stopped, if it was.
    pub(super) stopped: Option<Duration>,
    pub(super) result: Result<StoppedThread, StopError>,
}

impl Attempt {
    /// An attempt that failed before the thread was stopped.
    fn without_stop(error: StopError) -> Attempt {
        Attempt { stopped: None, result: Err(error) }
    }
}

/// The part of memory that the reader has to copy.
#[derive(Clone, Copy, Debug)]
struct StackPart {
    start: u64,
    len: usize,
}

impl StackPart {
    /// Returns the part that a thread with these registers uses.
    fn of(process: &Process, regs: &Regs) -> StackPart {
        let stack = process.maps.stack_at(Address::new(regs.sp));
        let len = stack.map_or(UNKNOWN_STACK as u64, |stack| stack.high().get() - regs.sp);
        StackPart { start: regs.sp, len: len.min(MAX_STACK as u64) as usize }
    }
}

/// The tracer's state.
struct Handover<'a> {
    tid: Tid,
    process: &'a Process,
    /// True from before the moment at which the thread runs again.
    is_released: Arc<AtomicBool>,
    parts: SyncSender<StackPart>,
    /// Says that the part was copied.
    done: Receiver<()>,
}

/// Stops a thread and copies its stack. When this returns, the thread runs again, or will at once.
pub(super) fn run(request: StopRequest<'_>) -> Attempt {
    let StopRequest { tid, process, buffer } = request;
    // Ahead of the stop, and kept for the next one.
    let mut copy = std::mem::take(buffer);
    copy.resize(MAX_STACK, 0);
    let (parts, receive_part) = sync_channel(1);
    let (send_done, done) = sync_channel(1);
    let is_released = Arc::new(AtomicBool::new(false));
    let released = is_released.clone();
    let reader = process.memory.start_stopped(move |memory| {
        let len = read(&memory, &mut copy, &receive_part, &send_done, &released);
        (copy, len)
    });
    // An earlier reader waits still.
    let Some(reader) = reader else { return Attempt::without_stop(StopError::Unreadable) };
    let handover = Handover { tid, process, is_released, parts, done };
    let mut attempt = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("pollwatch-trace".into()).stack_size(OWN_STACK);
        let failed = |error: std::io::Error| StopError::System(error.raw_os_error().unwrap_or_default());
        match builder.spawn_scoped(scope, move || attempt(&handover)) {
            Ok(tracer) => tracer.join().unwrap_or(Err(StopError::Timeout)).unwrap_or_else(Attempt::without_stop),
            Err(error) => Attempt::without_stop(failed(error)),
        }
    });
    let (copy, len) = process.memory.finish_stopped(reader).unwrap_or_default();
    *buffer = copy;
    attempt.result = attempt.result.map(|thread| StoppedThread { len, ..thread });
    attempt
}

/// The tracer: stops the thread, and lets it run again when its stack is copied, or time is up. An
/// error is one of before the stop.
fn attempt(request: &Handover<'_>) -> Result<Attempt, StopError> {
    prefer_this_thread();
    let folder = request.process.folder();
    let attached = seize(request)?;
    // The last look: nothing but this keeps a system call from being interrupted.
    if folder.syscall(request.tid) != Some(SyscallState::Running) {
        attached.give_up();
        return Err(StopError::NotRunning);
    }
    let asked = Instant::now();
    attached.interrupt().map_err(|_| StopError::Exited)?;
    let has_ended = || has_ended(folder, request.tid);
    let (observed, since) = wait(&attached, asked, &has_ended)?;
    let signal = observed.signal();
    let result = match observed {
        Observed::Gone => return Err(StopError::Exited),
        Observed::GroupStopped => Err(StopError::NotRunning),
        _ => registers(&attached).inspect(|regs| {
            if request.parts.send(StackPart::of(request.process, regs)).is_ok() {
                // In time or not, the thread runs again.
                let _ = request.done.recv_timeout(COPY_TIME.saturating_sub(since.elapsed()));
            }
        }),
    };
    request.is_released.store(true, Ordering::SeqCst);
    let detached = attached.detach(signal);
    let stopped = since.elapsed();
    // One that its user had stopped stays stopped.
    let stopped_here = (observed != Observed::GroupStopped).then_some(stopped);
    let result = match result {
        _ if detached.is_err() => Err(StopError::Exited),
        Err(StopError::InSyscall { is_restarted, .. }) => Err(StopError::InSyscall { stopped, is_restarted }),
        result => result.map(|regs| StoppedThread { regs, len: 0 }),
    };
    Ok(Attempt { stopped: stopped_here, result })
}

/// Attaches to the thread, which continues to run.
fn seize(request: &Handover<'_>) -> Result<Attached, StopError> {
    let (mut attempts, mut untraced) = (0, 0);
    loop {
        let error = match Attached::seize(request.tid) {
            Ok(attached) => return Ok(attached),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EPERM) {
            return Err(StopError::Exited);
        }
        if has_ended(request.process.folder(), request.tid) {
            return Err(StopError::Exited);
        }
        match tracer_of(request.process.folder(), request.tid) {
            // The tracer may have ended just now.
            Some(0) if untraced < 2 => untraced += 1,
            Some(0) => return Err(StopError::Denied(permission::denial(request.process.anchor))),
            // The kernel has not quite ended the thread of the attempt before.
            Some(tracer) if attempts < ATTEMPTS && is_own_or_ended(tracer) => {
                attempts += 1;
                std::thread::sleep(PAUSE);
            }
            Some(_) => return Err(StopError::AlreadyTraced),
            None => return Err(StopError::Exited),
        }
    }
}

/// Returns the thread that has attached to a thread, or 0.
fn tracer_of(folder: ProcessFolder, tid: Tid) -> Option<i32> {
    let status = folder.read_of(tid, "status")?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}

/// Returns whether a thread is one of this process, or has ended since.
fn is_own_or_ended(thread: i32) -> bool {
    Path::new(&format!("/proc/self/task/{thread}")).exists() || !Path::new(&format!("/proc/{thread}")).exists()
}

/// Returns whether a thread has ended. The kernel does not report the end of a process' first
/// thread to its tracer before all others have ended, too.
fn has_ended(folder: ProcessFolder, tid: Tid) -> bool {
    folder.stat(tid).is_none_or(|stat| stat.state == RunState::Ended)
}

/// Waits until the thread has stopped, which it was asked to at `start`. Returns with it the last
/// moment at which it ran.
fn wait(attached: &Attached, start: Instant, has_ended: &dyn Fn() -> bool) -> Result<(Observed, Instant), StopError> {
    let (mut last_running, mut next_check) = (start, start + SPIN);
    loop {
        let now = Instant::now();
        match attached.observe() {
            Observed::Running if now >= next_check => {
                if has_ended() {
                    return Ok((Observed::Gone, last_running));
                }
                (last_running, next_check) = (now, now + END_CHECK);
            }
            Observed::Running => last_running = now,
            observed => return Ok((observed, last_running)),
        }
        if now - start >= PATIENCE {
            return Err(StopError::Timeout);
        }
        match now - start {
            waited if waited >= BUSY => std::thread::sleep(BUSY_PAUSE),
            waited if waited >= SPIN => std::thread::sleep(SPIN),
            _ => {}
        }
    }
}

/// Reads the registers of the stopped thread, unless it is in a system call.
fn registers(attached: &Attached) -> Result<Regs, StopError> {
    let regs = attached.registers().map_err(|_| StopError::Exited)?;
    let mut regs = regs.ok_or(StopError::OtherArchitecture)?;
    let in_syscall = |is_restarted| Err(StopError::InSyscall { stopped: Duration::ZERO, is_restarted });
    match SyscallReturn::of(&mut regs) {
        SyscallReturn::None => Ok(Regs::of_user(&regs)),
        SyscallReturn::Normal => in_syscall(false),
        SyscallReturn::Changed => in_syscall(attached.set_registers(&regs).is_ok()),
    }
}

/// The reader: copies the stack of the stopped thread. Returns the number of bytes that were copied
/// while it was stopped.
fn read(
    memory: &StoppedMemory,
    buffer: &mut [u8],
    part: &Receiver<StackPart>,
    done: &SyncSender<()>,
    is_released: &AtomicBool,
) -> usize {
    prefer_this_thread();
    // The tracer has not stopped the thread.
    let Ok(StackPart { start, len }) = part.recv() else { return 0 };
    let mut copied = 0;
    while copied < len {
        let piece = &mut buffer[copied..len.min(copied + CHUNK)];
        let read = memory.read_stack(start.wrapping_add(copied as u64), piece, copied > 0);
        let is_last = read < piece.len();
        if is_released.load(Ordering::SeqCst) {
            break;
        }
        copied += read;
        if is_last {
            break;
        }
    }
    // The tracer may have given up.
    let _ = done.send(());
    copied
}

/// The time slice of a thread that may not get a real-time priority. The scheduler prefers threads
/// with short slices (since Linux 6.12), of which this is the shortest.
const SLICE: Duration = Duration::from_micros(100);

/// The kernel's `struct sched_attr` in its first version. The policy 0 is the usual one.
#[derive(Default)]
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    slice_nanos: u64,
    deadline_nanos: u64,
    period_nanos: u64,
}

/// Makes the scheduler prefer this thread as far as it is permitted to, because another one is
/// stopped until it has run; and keeps signals of this process away from it.
fn prefer_this_thread() {
    // SAFETY: the sets and parameters are valid for the calls, which affect this thread alone. Zero
    // is a valid value for all of them.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 1;
        if libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) == 0 {
            return;
        }
        let size = size_of::<SchedulerAttributes>() as u32;
        let slice_nanos = SLICE.as_nanos() as u64;
        let attributes = SchedulerAttributes { size, slice_nanos, ..SchedulerAttributes::default() };
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// The first thread of a process may end before the others.
    #[test]
    fn a_first_thread_that_ends_while_it_is_attached_is_gone() {
        extern "C" fn stays(_: *mut libc::c_void) -> *mut libc::c_void {
            loop {
                // SAFETY: no memory is involved.
                unsafe { libc::pause() };
            }
        }
        let mut pipe = [0; 2];
        // SAFETY: the array has room for both ends.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        // SAFETY: the child makes a thread, which glibc permits, and system calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: all memory is that of the child. Only its first thread ends.
            unsafe {
                let (mut thread, mut byte) = (std::mem::zeroed(), 0u8);
                libc::pthread_create(&mut thread, std::ptr::null(), stays, std::ptr::null_mut());
                libc::read(pipe[0], (&raw mut byte).cast(), 1);
                libc::syscall(libc::SYS_exit, 0);
            }
        }
        let (folder, tid) = (ProcessFolder::of(crate::Pid::from_raw(pid)), Tid::from_raw(pid));
        let begun = Instant::now();
        let until = |reached: &dyn Fn() -> bool| {
            while !reached() {
                assert!(begun.elapsed() < Duration::from_secs(60));
                std::thread::yield_now();
            }
        };
        until(&|| folder.threads().is_some_and(|threads| threads.len() == 2));
        let attached = Attached::seize(tid);
        // SAFETY: the byte is valid for the read.
        assert_eq!(unsafe { libc::write(pipe[1], [1u8].as_ptr().cast(), 1) }, 1);
        until(&|| has_ended(folder, tid));
        match &attached {
            Ok(attached) => {
                let (observed, _) = wait(attached, Instant::now(), &|| has_ended(folder, tid)).unwrap();
                assert_eq!(observed, Observed::Gone);
            }
            Err(error) => println!("skipped: {error}"),
        }
        // SAFETY: the child is one of this process, and nobody else waits for it.
        unsafe { (libc::kill(pid, libc::SIGKILL), libc::waitpid(pid, std::ptr::null_mut(), 0)) };
        // SAFETY: nothing else has the descriptors.
        pipe.into_iter().for_each(|end| _ = unsafe { libc::close(end) });
    }

    #[test]
    fn own_tracers_are_told_from_other_ones() {
        let own = std::thread::spawn(|| {
            let tid = Tid::current().expect("it is known").as_raw();
            assert_ne!(tid, crate::Pid::current().as_raw(), "it is not the first thread");
            assert!(is_own_or_ended(tid));
        });
        own.join().unwrap();
        assert!(is_own_or_ended(i32::MAX), "no thread has this id");
        let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!is_own_or_ended(other.id() as i32));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(is_own_or_ended(other.id() as i32));
    }
}

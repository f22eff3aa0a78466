//! The fixture of a situation: a task that blocks its worker until its stall has been reported.

use std::sync::Mutex;
use std::time::Duration;

use pollwatch::{Cause, Frame, Phase, Stall};

use test_support::*;

/// The expected report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) cause: Cause,
    /// The system calls that the thread may be in; none for a running thread.
    pub(crate) syscalls: &'static [&'static str],
    pub(crate) reason: &'static str,
    /// A part of the advice.
    pub(crate) advice: &'static str,
    /// The innermost function of this program, below the name of the test binary.
    pub(crate) function: &'static str,
}

/// A function that blocks, and one that ends the block.
pub(crate) struct Situation {
    pub(crate) block: Box<dyn FnOnce() + Send>,
    pub(crate) release: Box<dyn FnOnce()>,
}

impl Situation {
    pub(crate) fn new(block: impl FnOnce() + Send + 'static, release: impl FnOnce() + 'static) -> Situation {
        Situation { block: Box::new(block), release: Box::new(release) }
    }
}

/// The thresholds of the attempts in turn. On a busy machine a computing thread has a CPU for a few
/// milliseconds only, so it must be examined early. A thread that spins and yields before it blocks
/// gets none in between, so it must be examined late.
const THRESHOLDS: [Duration; 5] =
    [THRESHOLD, EARLY, Duration::from_millis(160), Duration::from_millis(5), Duration::from_millis(640)];

/// A threshold below the time slice of a scheduler.
pub(crate) const EARLY: Duration = Duration::from_millis(2);

/// The number of thresholds after which a stall has been examined four times.
const EXAMINED_AFTER: u32 = 8;

/// Runs the situation in a task, on a runtime with one worker, until it is reported with a stack,
/// and checks the report.
#[track_caller]
pub(crate) fn check(expected: Expected, situation: impl Fn() -> Situation) -> Stall {
    check_on(expected, || multi_thread(1), |_| (), situation)
}

/// Like [`check`], on a runtime of the caller; the result of `before` is kept while the task
/// blocks.
#[track_caller]
pub(crate) fn check_on<K>(
    expected: Expected,
    builder: impl Fn() -> tokio::runtime::Builder,
    before: impl Fn(&tokio::runtime::Runtime) -> K,
    situation: impl Fn() -> Situation,
) -> Stall {
    check_all(|_| expected, builder, before, situation)
}

/// The reasons of the two stalls that a call such as `Command::status` may be.
pub(crate) const CHILD_START: &str = "the start of a child process";
pub(crate) const CHILD_WAIT: &str = "a wait for a child process";

/// Like [`check_on`], where the expected report depends on the stall.
#[track_caller]
pub(crate) fn check_all<K>(
    expected: impl Fn(&Stall) -> Expected,
    builder: impl Fn() -> tokio::runtime::Builder,
    before: impl Fn(&tokio::runtime::Runtime) -> K,
    situation: impl Fn() -> Situation,
) -> Stall {
    // One at a time: computing threads would starve each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = lock(&ONE);
    let mut thresholds = THRESHOLDS.into_iter().cycle();
    let mut next = || thresholds.next().expect("endless");
    let stall = undisturbed(|| {
        let stall = observe(next(), &builder, &before, situation())?;
        // Where the machine is busy, the start of a child takes the threshold by itself.
        let is_start = stall.reason == CHILD_START && expected(&stall).reason == CHILD_WAIT;
        if is_start {
            return Err(format!("not yet in the wait: {stall}"));
        }
        if expected(&stall).cause == Cause::Cpu && waits_for_memory(&stall) {
            return Err(format!("a wait for memory within the computation: {stall}"));
        }
        Ok(stall)
    });
    assert_report(&stall, expected(&stall));
    stall
}

/// Returns true for a report, itself right, of a computing thread that waits for the kernel while
/// its allocator maps memory: other threads of the process change the same address space.
fn waits_for_memory(stall: &Stall) -> bool {
    const CALLS: [&str; 6] = ["brk", "madvise", "mmap", "mprotect", "mremap", "munmap"];
    let is_mapping = stall.syscall.as_ref().is_some_and(|syscall| CALLS.contains(&&*syscall.name));
    stall.cause != Cause::Cpu && is_mapping
}

/// `Err` when the thread was starved before it blocked, or had no CPU to answer any of the requests
/// for its stack.
fn observe<K>(
    threshold: Duration,
    builder: impl Fn() -> tokio::runtime::Builder,
    before: impl Fn(&tokio::runtime::Runtime) -> K,
    situation: Situation,
) -> Result<Stall, String> {
    let (watchdog, collected) = start(threshold);
    let runtime = watchdog.build_runtime("main", builder()).unwrap();
    let kept = before(&runtime);
    let Situation { block, release } = situation;
    let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { block() });
    let has_ended =
        |s: &Stall| s.stack.is_some() || is_undisturbed(s).is_err() || s.elapsed >= threshold * EXAMINED_AFTER;
    let stall = collected.wait(|s| &*s.runtime == "main" && s.phase == Phase::Ongoing && has_ended(s));
    release();
    runtime.block_on(task).expect("the task continues as without the watchdog");
    drop(kept);
    let stall = stall.unwrap_or_else(|| panic!("no complete report: {:#?}", collected.all()));
    assert_eq!(stall.site.to_string(), location);
    is_undisturbed(&stall)?;
    if stall.cause == Cause::Unknown {
        return Err(format!("woken between two scans: {stall}"));
    }
    if stall.stack.is_some() {
        return Ok(stall);
    }
    Err(format!("no stack: {:?}\n{stall}", watchdog.snapshot().watchdog.captures))
}

#[track_caller]
fn assert_report(stall: &Stall, expected: Expected) {
    let stack = stall.stack.as_ref().expect("a stack");
    let all = format!("{stall}\n{stack:#}");
    assert_eq!(stall.cause, expected.cause, "{all}");
    assert_eq!(stall.reason, expected.reason, "{all}");
    assert!(stall.advice.is_some_and(|advice| advice.contains(expected.advice)), "{all}");
    match &stall.syscall {
        Some(syscall) if !expected.syscalls.is_empty() => assert!(expected.syscalls.contains(&&*syscall.name), "{all}"),
        // A computing thread may be observed in a call; a waiting one must be.
        _ => assert!(expected.syscalls.is_empty(), "{all}"),
    }
    assert!(stack.is_complete(), "{all}");
    let frame = innermost(stall);
    let (function, wanted) = (
        frame.function.as_deref().unwrap_or_else(|| panic!("{all}")),
        format!("{}::{}", env!("CARGO_CRATE_NAME"), expected.function),
    );
    // Line tables alone only have the last name of an inlined function, and its caller at the same
    // address.
    let is_inlined = stack.frames().iter().rposition(|f| f.offset == frame.offset && f.module == frame.module)
        > stack.frames().iter().position(|f| f == frame);
    let is_short = !cfg!(debug_assertions) && is_inlined && wanted.ends_with(&format!("::{function}"));
    assert!(function == wanted || is_short, "{function}, not {wanted}\n{all}");
    assert_line(frame, &all);
    // The task's own future, and no frame around it.
    let outermost = stack.user_frames().last().expect("a function");
    assert_eq!(outermost.function.as_deref(), Some(concat!(env!("CARGO_CRATE_NAME"), "::fixture::observe")), "{all}");
}

/// The innermost function of this program.
pub(crate) fn innermost(stall: &Stall) -> &Frame {
    let user = stall.stack.as_ref().expect("a stack").user_frames();
    user.iter().find(|frame| !frame.dependency && !frame.library).unwrap_or_else(|| panic!("{stall}"))
}

/// Asserts that the line is one marked in the function's source, or any in its body if there is no
/// mark.
#[track_caller]
fn assert_line(frame: &Frame, all: &str) {
    const MARK: &str = "// blocks here";
    let file = frame.file.as_deref().expect("a file");
    let text = read(file);
    let name = frame.function.as_deref().and_then(|f| f.rsplit("::").next()).expect("a function");
    let start =
        text.lines().position(|line| line.starts_with(&format!("fn {name}("))).expect("the function is in its file");
    let body: Vec<_> = text.lines().enumerate().skip(start + 1).take_while(|(_, line)| *line != "}").collect();
    let marks: Vec<usize> = body.iter().filter(|(_, line)| line.ends_with(MARK)).map(|(at, _)| at + 1).collect();
    let line = frame.line.expect("a line") as usize;
    let is_right = if marks.is_empty() { body.iter().any(|(at, _)| at + 1 == line) } else { marks.contains(&line) };
    assert!(is_right, "line {line}, not {marks:?}\n{all}");
}

/// Makes a value live as long as the process.
pub(crate) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Keeps a call from being a function's last one, which may be a jump that leaves no frame.
#[inline(always)]
pub(crate) fn not_the_last_call() {
    std::hint::black_box(());
}

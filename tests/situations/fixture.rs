//! One situation: a task that blocks its worker until what must be told of it has been told.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use pollwatch::{Cause, Frame, Phase, Stall};

use test_support::*;

/// What must be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) cause: Cause,
    /// The system calls that it may be in; none for a thread that runs.
    pub(crate) syscalls: &'static [&'static str],
    pub(crate) reason: &'static str,
    /// A part of the advice.
    pub(crate) advice: &'static str,
    /// The innermost function of this program, below `situations::`.
    pub(crate) function: &'static str,
}

/// A way to block, and to end it.
pub(crate) struct Situation {
    block: Box<dyn FnOnce() + Send>,
    release: Box<dyn FnOnce()>,
}

impl Situation {
    pub(crate) fn new(block: impl FnOnce() + Send + 'static, release: impl FnOnce() + 'static) -> Situation {
        Situation { block: Box::new(block), release: Box::new(release) }
    }
}

/// Thresholds of the attempts, by turns. On a machine with more to do, a thread that computes has a CPU to itself for some
/// milliseconds only: it must be seen early. One that spins and yields before it blocks is given none in between: it must be
/// seen late.
const THRESHOLDS: [Duration; 5] =
    [THRESHOLD, EARLY, Duration::from_millis(160), Duration::from_millis(5), Duration::from_millis(640)];

/// Less than a scheduler gives a thread at once.
pub(crate) const EARLY: Duration = Duration::from_millis(2);

/// After so many thresholds it has been looked at four times.
const LOOKS: u32 = 8;

/// Puts a task into the situation, on a runtime with one worker, until it is told with a stack; checks that.
#[track_caller]
pub(crate) fn check(expected: Expected, situation: impl Fn() -> Situation) -> Stall {
    check_on(expected, || multi_thread(1), |_| (), situation)
}

/// As [`check`], on a runtime of one's own; `before` is kept while the task blocks.
#[track_caller]
pub(crate) fn check_on<K>(
    expected: Expected,
    builder: impl Fn() -> tokio::runtime::Builder,
    before: impl Fn(&tokio::runtime::Runtime) -> K,
    situation: impl Fn() -> Situation,
) -> Stall {
    // One at a time: those that compute would starve each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = lock(&ONE);
    let mut thresholds = THRESHOLDS.into_iter().cycle();
    let mut next = || thresholds.next().expect("endless");
    let stall = undisturbed(|| observe(next(), &builder, &before, situation()));
    assert_told(&stall, expected);
    stall
}

/// `Err` when the thread was starved before it got to block, or when it was given no CPU to answer on each time its stack
/// was to be taken.
fn observe<K>(
    threshold: Duration,
    builder: impl Fn() -> tokio::runtime::Builder,
    before: impl Fn(&tokio::runtime::Runtime) -> K,
    situation: Situation,
) -> Result<Stall, String> {
    let (watchdog, told) = start(threshold);
    let runtime = watchdog.build_runtime("main", &mut builder()).unwrap();
    let kept = before(&runtime);
    let Situation { block, release } = situation;
    let (task, place) = spawn_measured(&watchdog, runtime.handle(), async move { block() });
    let has_ended = |s: &Stall| s.stack.is_some() || is_undisturbed(s).is_err() || s.elapsed >= threshold * LOOKS;
    let stall = told.wait(|s| &*s.runtime == "main" && s.phase == Phase::Ongoing && has_ended(s));
    release();
    runtime.block_on(task).expect("the task goes on as if nobody had looked");
    drop(kept);
    let stall = stall.unwrap_or_else(|| panic!("too little was told: {:#?}", told.all()));
    assert_eq!(stall.site.to_string(), place);
    is_undisturbed(&stall)?;
    if stall.cause == Cause::Unknown {
        return Err(format!("woken between two looks: {stall}"));
    }
    if stall.stack.is_some() {
        return Ok(stall);
    }
    Err(format!("no stack: {:?}\n{stall}", watchdog.snapshot().watchdog.captures))
}

#[track_caller]
fn assert_told(stall: &Stall, expected: Expected) {
    let stack = stall.stack.as_ref().expect("a stack");
    let all = format!("{stall}\n{stack:#}");
    assert_eq!(stall.cause, expected.cause, "{all}");
    assert_eq!(stall.reason, expected.reason, "{all}");
    assert!(stall.advice.is_some_and(|advice| advice.contains(expected.advice)), "{all}");
    match &stall.syscall {
        Some(syscall) if !expected.syscalls.is_empty() => assert!(expected.syscalls.contains(&syscall.name), "{all}"),
        // A computing thread may be seen in a call; one that is in a call must be.
        _ => assert!(expected.syscalls.is_empty(), "{all}"),
    }
    assert!(stack.is_complete(), "{all}");
    let frame = innermost(stall);
    let (function, wanted) =
        (frame.function.as_deref().unwrap_or_else(|| panic!("{all}")), format!("situations::{}", expected.function));
    // Line tables alone have the last name only of what was inlined: into the next frame, at the same address.
    let is_inlined = stack.frames().iter().rposition(|f| f.offset == frame.offset && f.module == frame.module)
        > stack.frames().iter().position(|f| f == frame);
    let is_short = !cfg!(debug_assertions) && is_inlined && wanted.ends_with(&format!("::{function}"));
    assert!(function == wanted || is_short, "{function}, not {wanted}\n{all}");
    assert_line(frame, &all);
    // The task's own future, and nothing around it.
    let outermost = stack.user_frames().last().expect("a function");
    assert_eq!(outermost.function.as_deref(), Some("situations::fixture::observe"), "{all}");
}

/// The innermost function of this program.
pub(crate) fn innermost(stall: &Stall) -> &Frame {
    let user = stall.stack.as_ref().expect("a stack").user_frames();
    user.iter().find(|frame| !frame.dependency && !frame.library).unwrap_or_else(|| panic!("{stall}"))
}

/// The line is the one that is marked in the function's source; without a mark, any in the function's body.
#[track_caller]
fn assert_line(frame: &Frame, all: &str) {
    const MARK: &str = "// blocks here";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(frame.file.as_deref().expect("a file"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let name = frame.function.as_deref().and_then(|f| f.rsplit("::").next()).expect("a function");
    let begin = text.lines().position(|line| line.starts_with(&format!("fn {name}("))).expect("it is in its file");
    let body: Vec<_> = text.lines().enumerate().skip(begin + 1).take_while(|(_, line)| *line != "}").collect();
    let marks: Vec<usize> = body.iter().filter(|(_, line)| line.ends_with(MARK)).map(|(at, _)| at + 1).collect();
    let line = frame.line.expect("a line") as usize;
    let is_right = if marks.is_empty() { body.iter().any(|(at, _)| at + 1 == line) } else { marks.contains(&line) };
    assert!(is_right, "line {line}, not {marks:?}\n{all}");
}

/// Something that lives as long as the process.
pub(crate) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

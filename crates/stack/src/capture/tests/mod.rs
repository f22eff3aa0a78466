mod fuzz;
mod ground_truth;
mod hammer;
mod interrupted;
mod pending;
mod signal_blocked;
mod stale_bounds;
mod symbols;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::Stack;
use crate::random;

/// A thread that runs one function until the test drops it.
struct Subject {
    target: Target,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Subject {
    fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> Subject {
        let stop = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            send.send(Target::current().unwrap()).unwrap();
            run(&stopped);
        });
        Subject { target: receive.recv().unwrap(), stop, thread: Some(thread) }
    }

    fn capture(&self, capturer: &mut Capturer) -> Result<RawStack, CaptureError> {
        capturer.capture(self.target)
    }

    /// Captures until there is a complete stack whose innermost user function is `function`.
    fn stack_with(&self, function: &str) -> Stack {
        let mut capturer = Capturer::default();
        let start = Instant::now();
        loop {
            let raw = self.capture(&mut capturer);
            let stack = raw.as_ref().map(symbolized);
            match stack {
                Ok(stack)
                    if stack.is_complete() && stack.user_frames().first().is_some_and(|f| has_name(f, function)) =>
                {
                    return stack;
                }
                _ => assert!(start.elapsed() < Duration::from_secs(30), "{stack:#?}"),
            }
        }
    }
}

/// Makes a thread copy its stack by a signal, whatever it does. Returns the registers.
fn copy_by_signal(target: Target, stack: &mut Vec<u8>) -> Result<Regs, CaptureError> {
    match signal::request(target, None, stack)? {
        signal::Requested::Answered(answer) => Ok(answer.regs),
        signal::Requested::Pending(_) => unreachable!("without an activity nothing stays pending"),
    }
}

fn symbolized(raw: &RawStack) -> Stack {
    Symbolizer::shared().symbolize(raw)
}

/// Runs the calling test in a child process that runs no other test, and kills that process if it
/// does not end in time. `module` and `name` are the test's.
fn in_child_process(module: &str, name: &str, time: Duration, run: impl FnOnce()) {
    const ROLE: &str = "POLLWATCH_TEST_CHILD";
    if std::env::var_os(ROLE).is_some() {
        return run();
    }
    let test = format!("{}::{name}", module.split_once("::").unwrap().1);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id() as i32;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = receive.recv_timeout(time) else {
        // SAFETY: the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(id, libc::SIGKILL) };
        panic!("did not end in {time:?}: {:?}", receive.recv());
    };
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{:?}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no test is called {test}");
}

/// Returns whether a function, given by its address, is on a stack.
fn is_on(raw: &RawStack, function: usize) -> bool {
    let start = |address: u64| Some(raw.modules.find(address)?.function(address)?.start);
    raw.chain.addresses.iter().any(|&address| start(address) == Some(function as u64))
}

fn has_name(frame: &Frame, function: &str) -> bool {
    frame.function.as_deref().is_some_and(|f| f.ends_with(function))
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        let _ = thread.join();
    }
}

#[inline(never)]
fn computes(stop: &AtomicBool) {
    static SUM: AtomicU64 = AtomicU64::new(0);
    while !stop.load(Ordering::Relaxed) {
        for i in 0..1000u64 {
            SUM.store(SUM.load(Ordering::Relaxed).wrapping_mul(31).wrapping_add(i), Ordering::Relaxed);
        }
    }
}

#[inline(never)]
fn sleeps(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(30));
    }
}

#[inline(never)]
fn waits_for_a_lock(stop: &AtomicBool, lock: &Mutex<()>) {
    while !stop.load(Ordering::Relaxed) {
        drop(lock.lock());
    }
}

#[inline(never)]
fn recurses(depth: u32, stop: &AtomicBool) -> u32 {
    if depth == 0 {
        computes(stop);
        return 0;
    }
    std::hint::black_box(recurses(std::hint::black_box(depth - 1), stop)) + 1
}

#[test]
fn captures_a_thread_that_computes() {
    let subject = Subject::start(computes);
    let stack = subject.stack_with("::computes");
    assert!(
        stack.user_frames()[0].file.as_deref().is_some_and(|f| f.ends_with("src/capture/tests/mod.rs")),
        "{stack:#}"
    );
}

#[test]
fn captures_a_thread_that_sleeps() {
    let subject = Subject::start(sleeps);
    let stack = subject.stack_with("::sleeps");
    let line = stack.user_frames()[0].line.unwrap();
    let text = include_str!("mod.rs").lines().nth(line as usize - 1).unwrap();
    assert!(text.contains("thread::sleep"), "{line}: {text}\n{stack:#}");
}

#[test]
fn captures_a_thread_that_waits_for_a_lock() {
    let lock = Arc::new(Mutex::new(()));
    let held = lock.lock().unwrap();
    let subjects_lock = lock.clone();
    let subject = Subject::start(move |stop| waits_for_a_lock(stop, &subjects_lock));
    let stack = subject.stack_with("::waits_for_a_lock");
    assert!(stack.leaf_frames().iter().any(|f| f.to_string().contains("Mutex")), "{stack:#}");
    subject.stop.store(true, Ordering::Relaxed);
    drop(held);
}

#[test]
fn captures_a_deep_recursion() {
    let subject = Subject::start(|stop| {
        recurses(2_000, stop);
    });
    let stack = subject.stack_with("::computes");
    let shown = stack.frames().iter().filter(|f| has_name(f, "::recurses")).count();
    let more = |frame: &Frame| frame.function.as_deref()?.strip_prefix('[')?.split(' ').next()?.parse().ok();
    let omitted: usize = stack.frames().iter().find_map(more).expect("the middle is omitted");
    assert_eq!(shown + omitted, 2_001, "only the recursion is omitted");
}

#[inline(never)]
fn counts_in_a_map(stop: &AtomicBool) {
    let mut map = std::collections::HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        *map.entry(map.len() % 1000).or_insert(0) += 1;
    }
}

/// Some instructions have no line in the debug information. A thread may be captured at each of
/// them.
#[test]
fn every_instruction_has_a_line() {
    let (modules, address) = (Modules::current(), counts_in_a_map as *const () as u64);
    let range = modules.find(address).unwrap().function(address).unwrap();
    assert!(range.contains(&(address + 100)), "{range:?}");
    let mut symbolizer = Symbolizer::new();
    for address in range {
        let frames = symbolizer.look_up(&modules, address);
        let own = frames.iter().find(|frame| has_name(frame, "::counts_in_a_map"));
        assert!(own.is_some_and(|frame| frame.line.is_some()), "{address:#x}: {frames:#?}");
    }
}

#[test]
fn a_copy_that_is_not_current_is_dropped() {
    let subject = Subject::start(sleeps);
    let (target, start) = (subject.target, Instant::now());
    loop {
        let result = Capturer::default().capture_if_current(target, procfs::syscall(target.tid), || false);
        let error = result.expect_err("it is not current");
        if error == CaptureError::Moved {
            return;
        }
        // On a busy machine the thread may be ready between two sleeps, but get no CPU.
        assert!(start.elapsed() < Duration::from_secs(30), "{error:?}");
    }
}

#[test]
fn capture_of_an_ended_thread_fails() {
    let target = Subject::start(|_| {}).target;
    let error = Capturer::default().capture(target).expect_err("the thread has ended");
    assert_eq!(error, CaptureError::Unavailable);
}

/// Functions outside the boundary do not belong to the user's part.
#[test]
fn user_part_ends_at_the_boundary() {
    let subject = Subject::start(|stop| {
        recurses(1, stop);
    });
    let is_boundary = |frame: &Frame| has_name(frame, "::recurses");
    let mut capturer = Capturer::new().with_boundary(is_boundary);
    let start = Instant::now();
    loop {
        let stack = subject.capture(&mut capturer).map(|raw| symbolized(&raw));
        match stack {
            Ok(stack) if stack.user_frames().len() == 1 && has_name(&stack.user_frames()[0], "::computes") => return,
            _ => assert!(start.elapsed() < Duration::from_secs(30), "{stack:#?}"),
        }
    }
}

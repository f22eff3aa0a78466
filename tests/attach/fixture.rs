//! A child that is watched.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use pollwatch::attach::{Attach, Attached};
use pollwatch::{Certainty, Phase, Stall};

/// The line that the child prints when it starts to block.
pub(crate) const READY: &str = "the child is ready";
/// The environment variable that has the kind of the child.
const KIND: &str = "POLLWATCH_ATTACH_KIND";

/// A child, which ends when this is dropped.
pub(crate) struct Target {
    pub(crate) child: Child,
    _stdin: Option<ChildStdin>,
}

/// The child. It does nothing in the parent's run of all tests.
#[test]
fn child() {
    if let Ok(kind) = std::env::var(KIND) {
        super::target::run(&kind);
    }
}

impl Target {
    pub(crate) fn start(kind: &str) -> Target {
        Target::start_program(&std::env::current_exe().expect("the path of this test"), kind)
    }

    /// Starts a copy of this test.
    pub(crate) fn start_program(program: &Path, kind: &str) -> Target {
        let mut command = Command::new(program);
        command.args(["fixture::child", "--exact", "--nocapture"]).env(KIND, kind);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains(READY))), "the child has ended");
        // Its further output is not read, and there is none.
        let stdin = child.stdin.take();
        std::mem::forget(lines);
        Target { child, _stdin: stdin }
    }

    pub(crate) fn attach(&self) -> Attach {
        Attach::new(self.child.id()).threshold(Duration::from_millis(20)).log(false)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a stall that fits is over, with its symbols.
pub(crate) fn wait_for(attached: &Attached, fits: impl Fn(&Stall) -> bool) -> Stall {
    let start = Instant::now();
    loop {
        let is_over = |stall: &Stall| stall.phase == Phase::Resolved && stall.stack.is_some() && fits(stall);
        if let Some(stall) = attached.stalls().into_iter().find(is_over) {
            return stall;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{:#?}", attached.stalls());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns whether a function is in the user's part of a stall's stack.
pub(crate) fn is_in(stall: &Stall, function: &str) -> bool {
    let frames = stall.stack.iter().flat_map(|stack| stack.user_frames());
    frames.into_iter().any(|frame| frame.name().contains(function))
}

/// Asserts that all observed stalls are in this function.
pub(crate) fn assert_no_others(attached: &Attached, function: &str) {
    for stall in attached.stalls() {
        let is_known = stall.certainty != Certainty::Observed || stall.stack.is_none() || is_in(&stall, function);
        assert!(is_known, "{stall}\n{:?}", stall.stack);
    }
}

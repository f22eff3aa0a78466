//! A test that runs itself as a child, and stops that: SIGSTOP is for a whole process.

#![allow(dead_code, reason = "several test binaries share this file")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

/// A child that is killed, whatever happens to the test.
pub(crate) struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stopped {
    /// The test `name` of this binary, as a child that has said that it is ready, and what it says then.
    pub(crate) fn start(name: &str) -> (Stopped, impl Iterator<Item = String>) {
        let child = again(name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child starts");
        let mut child = Stopped(child);
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")), "the child is ready");
        (child, lines)
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        // SAFETY: kill takes two integers; the pid is that of our child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// `T` when stopped.
    pub(crate) fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("the child lives");
        stat.rsplit_once(") ").expect("a state").1[..1].to_owned()
    }

    /// Returns once it stands still.
    pub(crate) fn stop(&self) {
        self.signal(libc::SIGSTOP);
        wait_until("it is stopped", || self.state() == "T");
    }

    /// Lets it go on to its end, which must be a good one; what it says meanwhile.
    pub(crate) fn ends(mut self, lines: impl Iterator<Item = String>) -> Vec<String> {
        self.signal(libc::SIGCONT);
        writeln!(self.0.stdin.take().expect("piped"), "go on").expect("the child listens");
        let said = lines.collect();
        assert!(self.0.wait().expect("it ends").success(), "{said:?}");
        said
    }
}

/// Set once the parent has let us go on.
pub(crate) fn told_to_go_on() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        set.store(true, Ordering::Release);
    });
    flag
}

/// The rest of each line that begins so.
pub(crate) fn said<'a>(lines: &'a [String], what: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(what)).map(str::trim).collect()
}

/// The rest of the one line that begins so.
#[track_caller]
pub(crate) fn one<'a>(lines: &'a [String], what: &str) -> &'a str {
    let [text] = said(lines, what)[..] else { panic!("one line {what:?}: {lines:?}") };
    text
}

//! A child that a test stops with SIGSTOP. The signal stops a whole process, so the test runs
//! itself as that child.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{rerun, wait_until};

/// A child that can be stopped. A drop kills it.
pub struct StoppableChild(Child);

impl Drop for StoppableChild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl StoppableChild {
    /// Runs the test `name` of this binary as a child, waits until it prints `ready`, and returns
    /// the lines that follow.
    pub fn start(name: &str) -> (StoppableChild, impl Iterator<Item = String>) {
        let child = rerun(name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child starts");
        let mut child = StoppableChild(child);
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")), "the child is ready");
        (child, lines)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        // SAFETY: kill takes two integers; the pid is that of the child, which has not been waited
        // for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// The state in `/proc`, `T` for a stopped process.
    pub fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("the child lives");
        stat.rsplit_once(") ").expect("a state").1[..1].to_owned()
    }

    /// Sends SIGSTOP and returns once the child has stopped.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        wait_until("the child is stopped", || self.state() == "T");
    }

    /// Stops the child while its thread of this name is parked.
    pub fn stop_while_parked(&self, thread: &str) {
        wait_until("the child is stopped while the thread is parked", || {
            self.stop();
            let is_parked = self.is_parked(thread);
            if !is_parked {
                self.signal(libc::SIGCONT);
            }
            is_parked
        });
    }

    /// True if the stopped child's thread of this name waits on a futex, as a parked thread does.
    fn is_parked(&self, thread: &str) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("the child lives");
        tasks.flatten().map(|task| task.path()).any(|task| {
            let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
            // The number of the system call comes first; it is -1 in user mode.
            let number = read("syscall").split(' ').next().and_then(|number| number.parse().ok());
            read("comm").trim() == thread && number == Some(libc::SYS_futex)
        })
    }

    /// Continues the child, waits until it ends with success, and returns what it printed.
    pub fn finish(mut self, lines: impl Iterator<Item = String>) -> Vec<String> {
        self.signal(libc::SIGCONT);
        writeln!(self.0.stdin.take().expect("piped"), "continue").expect("the child reads its standard input");
        let printed = lines.collect();
        assert!(self.0.wait().expect("the child ends").success(), "{printed:?}");
        printed
    }
}

/// Returns a flag that is set in the child once the parent calls [`StoppableChild::finish`].
pub fn continue_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        set.store(true, Ordering::Release);
    });
    flag
}

/// The rest of each line that starts with `prefix`.
pub fn lines_with<'a>(lines: &'a [String], prefix: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(prefix)).map(str::trim).collect()
}

/// The rest of the only line that starts with `prefix`.
#[track_caller]
pub fn line_with<'a>(lines: &'a [String], prefix: &str) -> &'a str {
    let [text] = lines_with(lines, prefix)[..] else { panic!("expected one line {prefix:?} in {lines:?}") };
    text
}

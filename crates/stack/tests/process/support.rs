//! Programs that tests build, run, and read from outside.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pollwatch_stack::{Pid, Process, RawStack, Stack, Symbolizer, Tid};

/// The time after which a test fails. Machines may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one test, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pollwatch-process-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder.canonicalize().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds the program with the given flags of the compiler.
pub(crate) fn build(folder: &Folder, flags: &[&str]) -> PathBuf {
    build_from(folder, "target.rs", flags)
}

/// Builds a program from one of the files of this test.
pub(crate) fn build_from(folder: &Folder, source: &str, flags: &[&str]) -> PathBuf {
    let path = folder.path("target");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process").join(source);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--edition=2024", "-o"]).arg(&path).args(flags).arg(source).output();
    let output = output.expect("the compiler can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// A running program, which ends with this value.
pub(crate) struct Target {
    pub(crate) child: Child,
    /// The program ends when this is closed.
    pub(crate) input: Option<ChildStdin>,
    pub(crate) output: Lines<BufReader<ChildStdout>>,
}

impl Target {
    /// Runs a program, and waits until it is ready.
    pub(crate) fn run(command: &mut Command) -> Target {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().expect("a line").unwrap(), "ready");
        Target { input: child.stdin.take(), output: lines, child }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the threads with a name.
pub(crate) fn named(process: &Process, name: &str) -> Vec<Tid> {
    let threads = process.threads().unwrap();
    threads.into_iter().filter(|&tid| process.folder().name(tid).as_deref() == Some(name)).collect()
}

/// Captures a waiting thread until the stack is the one that is wanted.
pub(crate) fn capture_waiting(process: &mut Process, tid: Tid, is_it: impl Fn(&RawStack, &Stack) -> bool) -> Stack {
    let start = Instant::now();
    loop {
        let state = process.folder().syscall(tid);
        let captured = process.capture_waiting(tid, state);
        let last = match &captured {
            Ok(raw) => {
                let stack = Symbolizer::shared().symbolize(raw);
                if is_it(raw, &stack) {
                    return stack;
                }
                format!("{stack:#}")
            }
            Err(error) => error.to_string(),
        };
        assert!(start.elapsed() < PATIENCE, "{state:?} {last}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns whether a stack has a function.
pub(crate) fn has(stack: &Stack, function: &str) -> bool {
    stack.frames().iter().any(|frame| frame.name().contains(function))
}

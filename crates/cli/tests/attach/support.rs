//! The target without pollwatch, and the program that is attached to it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use attach_lab::target::Target;
use serde_json::Value;

/// The program under test.
pub(crate) const POLLWATCH: &str = env!("CARGO_BIN_EXE_pollwatch");

/// The limit of whatever a test waits for. A slow machine does not reach it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the program of `lab/attach`. It is built by itself, so that it gets no features of tokio
/// that pollwatch turns on.
pub(crate) fn target_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/debug/pollwatch
        let profile = Path::new(POLLWATCH).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--locked",
            "--package",
            "pollwatch-attach-lab",
            "--bin",
            "attach-target",
            "--target-dir",
        ]);
        cargo.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        profile.join("attach-target")
    })
}

/// Starts a target: its words are separated by spaces.
pub(crate) fn target(words: &str) -> Target {
    let words: Vec<_> = words.split_ascii_whitespace().collect();
    Target::start(target_program(), &words).unwrap()
}

/// Returns a folder for the files of one test, which everybody may read.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pollwatch-attach-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn command(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(POLLWATCH);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program: its words are separated by spaces, and `PID` stands for the target's.
pub(crate) fn run(words: &str, target: Option<&Target>) -> Output {
    let pid = target.map_or(0, Target::pid).to_string();
    let words: Vec<_> = words.split_ascii_whitespace().map(|word| word.replace("PID", &pid)).collect();
    command(&words).output().unwrap()
}

#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the only line of an error.
#[track_caller]
pub(crate) fn error_line(output: &Output, code: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// A running `pollwatch attach --json`. It is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts the program, and returns what it says when it is attached.
    pub(crate) fn start(words: &str, target: &Target) -> (Running, Value) {
        let pid = target.pid().to_string();
        let words: Vec<_> =
            ["attach", "--json"].into_iter().chain(words.split_ascii_whitespace()).chain([&*pid]).collect();
        let mut child = command(&words).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, stdout };
        let attached = running.next().expect("it is attached");
        assert_eq!(attached["event"], "attached");
        (running, attached)
    }

    /// Returns the next object.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.stdout.read_line(&mut line).unwrap() > 0).then(|| serde_json::from_str(&line).expect(&line))
    }

    /// Returns the first object that is wanted.
    #[track_caller]
    pub(crate) fn find(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let value = self.next().expect("the output ended");
            if is_wanted(&value) {
                return value;
            }
            assert!(start.elapsed() < TIMEOUT, "not found, the latest: {value}");
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so that the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, signal) }, 0);
    }

    /// Returns the rest of the objects, and the exit status.
    pub(crate) fn wait(mut self) -> (Vec<Value>, ExitStatus) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let objects = rest.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        (objects, self.child.wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

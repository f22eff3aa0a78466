//! The target as a child process.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// A running target. It is killed when it is dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: String,
}

impl Target {
    /// Starts a target, and returns when it says that it is ready.
    pub fn start(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Result<Target> {
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        match line.trim_end().strip_prefix("ready ") {
            Some(ready) => Ok(Target { child, stdout, ready: ready.into() }),
            None => {
                // It has failed, and has said why on its standard error.
                let _ = child.wait();
                Err(io::Error::other(format!("the target is not ready: {line:?}")))
            }
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the target has said when it was ready: the address of `hello`.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// Makes a target go on that waits for that (`--wait yes`).
    pub fn proceed(&mut self) -> io::Result<()> {
        match self.child.stdin.take() {
            Some(mut stdin) => stdin.write_all(b"\n"),
            None => Ok(()),
        }
    }

    /// Waits until the target ends by itself. Returns what it has printed since.
    pub fn wait(mut self) -> io::Result<(ExitStatus, String)> {
        let mut printed = String::new();
        self.stdout.read_to_string(&mut printed)?;
        Ok((self.child.wait()?, printed))
    }

    /// Kills the target, and returns when it has ended.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.kill();
    }
}

//! A child whose runtime is blocked, and what its parent sees of it.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use pollwatch::{Watchdog, WatchdogBuilder};
use tokio::runtime::Runtime;

use test_support::*;

/// The duration after which the tests' actions are due.
pub(crate) const AFTER: Duration = Duration::from_millis(100);
/// The variable that has the folder of a child.
const FOLDER: &str = "POLLWATCH_TEST_FOLDER";

/// A watchdog, and a runtime of two workers.
pub(crate) struct Blockable {
    pub(crate) watchdog: Watchdog,
    pub(crate) runtime: Runtime,
}

impl Blockable {
    pub(crate) fn new(builder: WatchdogBuilder) -> Blockable {
        let watchdog = builder.threshold(THRESHOLD).start().expect("the settings are valid");
        let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
        Blockable { watchdog, runtime }
    }

    /// Blocks both workers until the gate is opened.
    pub(crate) fn block(&self, gate: &Gate) {
        for _ in 0..2 {
            let key = gate.key();
            spawn_measured(&self.watchdog, self.runtime.handle(), async move { key.pass() });
        }
    }

    /// Blocks both workers. Returns never, unless an action ends the process.
    pub(crate) fn block_for_ever(&self) -> ! {
        let gate = Gate::new();
        self.block(&gate);
        std::thread::sleep(TIMEOUT);
        panic!("no action has ended the process");
    }
}

/// What is left of a child.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The contents of the files in its folder.
    pub(crate) files: Vec<String>,
}

/// Runs the test `name` of this binary as a child with a folder of its own, and waits for its end.
pub(crate) fn run_child(name: &str) -> Remains {
    let folder =
        std::env::temp_dir().join(format!("pollwatch-incidents-{}-{}", std::process::id(), name.replace(':', "-")));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = rerun(name);
    without_core(&mut command);
    let child = command.env(FOLDER, &folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = child.output().expect("the child starts");
    let mut files: Vec<_> = std::fs::read_dir(&folder).map(|all| all.flatten().collect()).unwrap_or_default();
    files.sort_by_key(std::fs::DirEntry::path);
    let files = files.iter().map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect();
    let _ = std::fs::remove_dir_all(&folder);
    Remains {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        files,
    }
}

/// The folder of this child.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os(FOLDER).expect("the parent sets it").into()
}

/// Lets a child leave no core dump behind.
fn without_core(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: setrlimit may be called between fork and exec, and `none` is a valid limit.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_CORE, &raw const none) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

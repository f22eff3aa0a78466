//! A program without symbols: its runtimes cannot be recognised, and only what waits is known.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pollwatch::{Cause, Certainty};

use crate::fixture::Target;

/// A copy of this test without symbols, which is removed when this is dropped.
struct StrippedProgram(PathBuf);

impl StrippedProgram {
    /// Returns `None` where there is no `strip`.
    fn make() -> Option<StrippedProgram> {
        let path = std::env::temp_dir().join(format!("pollwatch-attach-stripped-{}", std::process::id()));
        let mut strip = Command::new("strip");
        let made = strip.arg("-s").arg("-o").arg(&path).arg(std::env::current_exe().unwrap()).status();
        made.is_ok_and(|status| status.success()).then_some(StrippedProgram(path))
    }
}

impl Drop for StrippedProgram {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_stripped_program_says_so_and_its_threads_in_system_calls_are_known() {
    let Some(program) = StrippedProgram::make() else {
        return test_support::skipped("no `strip` here; Debian's package `binutils` has it");
    };
    let target = Target::start_program(&program.0, "sleep");
    let attached = target.attach().start().unwrap();
    assert_eq!(attached.wait(Some(Duration::from_millis(500))), None);
    assert!(attached.stalls().is_empty() && attached.snapshot().runtimes.is_empty());
    let coverage = attached.snapshot().watchdog.coverage.to_string();
    assert!(coverage.contains("has no symbols of tokio"), "{coverage}");
    drop(attached);
    let attached = target.attach().all_threads(true).start().unwrap();
    let start = Instant::now();
    let stall = loop {
        let is_sleep =
            |stall: &pollwatch::Stall| stall.syscall.as_ref().is_some_and(|call| call.name.contains("sleep"));
        if let Some(stall) = attached.stalls().into_iter().find(is_sleep) {
            break stall;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{:#?}", attached.stalls());
        std::thread::sleep(Duration::from_millis(20));
    };
    println!("{stall}");
    assert_eq!((stall.certainty, stall.cause), (Certainty::Suspected, Cause::Syscall));
    assert_eq!(&*stall.runtime, "other threads");
}

//! A service that is already running hangs, or uses a whole CPU, and has no debugger beside it:
//! prints the stacks of all its threads. Threads that wait are not stopped; one that computes is
//! stopped for some 0.1 ms, unless `--no-stop` is given.
//!
//! `cargo run --release -p pollwatch-stack --example another_process -- PID [--no-stop]`

use std::process::ExitCode;
use std::time::Instant;

use pollwatch_stack::procfs::{RunState, SyscallState};
use pollwatch_stack::{Pid, Process, ProcessError, RawStack, Stopper, Symbolizer, Tid};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(Ok(pid)) = arguments.next().map(|pid| pid.parse::<Pid>()) else {
        eprintln!("usage: another_process PID [--no-stop]");
        return ExitCode::FAILURE;
    };
    let may_stop = arguments.next().is_none_or(|argument| argument != "--no-stop");
    match print_stacks(pid, may_stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print_stacks(pid: Pid, may_stop: bool) -> Result<(), ProcessError> {
    let start = Instant::now();
    let mut process = Process::open(pid)?;
    println!("opened {pid}, {} modules, in {:?}\n", process.module_paths().len(), start.elapsed());
    let mut stopper = may_stop.then(Stopper::new);
    for tid in process.threads()? {
        let folder = process.folder();
        // A thread that has ended since the list was made has no name.
        let (Some(name), Some(stat)) = (folder.name(tid), folder.stat(tid)) else { continue };
        println!("thread {name} (id {tid}), {:?}, {:?} of CPU time", stat.state, stat.cpu.user + stat.cpu.system);
        match capture(&mut process, stopper.as_mut(), tid, stat.state) {
            Ok(raw) => println!("{:#}", Symbolizer::shared().symbolize(&raw)),
            Err(error) => println!("  no stack: {error}"),
        }
    }
    if let Some(stopper) = stopper {
        let stats = stopper.stats();
        println!("{} threads were stopped, for {:?} at most", stats.stops, stats.longest);
    }
    Ok(())
}

fn capture(
    process: &mut Process,
    stopper: Option<&mut Stopper>,
    tid: Tid,
    state: RunState,
) -> Result<RawStack, Box<dyn std::error::Error>> {
    match (process.folder().syscall(tid), stopper) {
        (Some(SyscallState::Running), Some(stopper)) if state == RunState::Running => {
            Ok(stopper.capture(process, tid, None)?.stack)
        }
        (waiting, _) => Ok(process.capture_waiting(tid, waiting)?),
    }
}

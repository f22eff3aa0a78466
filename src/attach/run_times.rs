//! What the kernel's scheduler counts of a thread.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use pollwatch_stack::Tid;
use pollwatch_stack::procfs::{ProcessFolder, RunCount};

use crate::model::time::Nanos;

/// The files that are kept open. Further threads are read by their paths.
const MAX_FILES: usize = 256;

/// What the kernel's scheduler counts of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RunTimes {
    /// The time on a CPU.
    pub(super) cpu: Nanos,
    /// The time that the thread was ready to run without a CPU.
    pub(super) run_delay: Nanos,
    /// The number of times that the thread was given a CPU.
    pub(super) runs: u64,
}

impl RunTimes {
    /// Returns how long the thread ran, or was ready to run, since an earlier reading.
    pub(super) fn active_since(self, earlier: RunTimes) -> Nanos {
        self.cpu.saturating_sub(earlier.cpu) + self.run_delay.saturating_sub(earlier.run_delay)
    }

    /// Parses the content of `schedstat`. `None` where the kernel does not count: such a thread
    /// would seem to wait all the time.
    fn parse(text: &str) -> Option<RunTimes> {
        let RunCount { on_cpu, run_delay, times } = RunCount::parse(text)?;
        Some(RunTimes { cpu: on_cpu.into(), run_delay: run_delay.into(), runs: times })
    }
}

/// The files `schedstat` of the threads that are read in each scan. To read an open one again costs
/// a fraction of opening it.
#[derive(Debug, Default)]
pub(super) struct RunTimesFiles {
    files: HashMap<Tid, File>,
}

impl RunTimesFiles {
    /// Reads the counts of a thread; `None` when it has ended. An open file stays that of its
    /// thread, also when the kernel gives the thread's id to another one.
    pub(super) fn read(&mut self, folder: ProcessFolder, tid: Tid) -> Option<RunTimes> {
        if let Some(file) = self.files.get(&tid) {
            if let Some(times) = read(file) {
                return Some(times);
            }
            self.files.remove(&tid);
        }
        let file = File::open(folder.path(format!("task/{tid}/schedstat"))).ok()?;
        let times = read(&file)?;
        if self.files.len() < MAX_FILES {
            self.files.insert(tid, file);
        }
        Some(times)
    }

    /// Closes the files of threads that are not among these.
    pub(super) fn retain(&mut self, is_alive: impl Fn(Tid) -> bool) {
        self.files.retain(|&tid, _| is_alive(tid));
    }
}

fn read(file: &File) -> Option<RunTimes> {
    let mut buffer = [0; 128];
    let len = file.read_at(&mut buffer, 0).ok()?;
    RunTimes::parse(std::str::from_utf8(&buffer[..len]).ok()?)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn an_open_file_shows_new_counts_and_the_end_of_its_thread() {
        let mut files = RunTimesFiles::default();
        let (tid_sender, tids) = mpsc::channel();
        let (turn, turns) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            tid_sender.send(Tid::current().unwrap()).unwrap();
            while turns.recv().is_ok() {
                tid_sender.send(Tid::current().unwrap()).unwrap();
            }
        });
        let tid = tids.recv().unwrap();
        let first = files.read(ProcessFolder::OWN, tid).unwrap();
        assert_eq!(files.files.len(), 1);
        for _ in 0..3 {
            turn.send(()).unwrap();
            tids.recv().unwrap();
        }
        assert!(files.read(ProcessFolder::OWN, tid).unwrap().runs >= first.runs);
        drop(turn);
        thread.join().unwrap();
        // The kernel removes the thread just after it has signalled its end.
        let start = std::time::Instant::now();
        while files.read(ProcessFolder::OWN, tid).is_some() {
            assert!(start.elapsed().as_secs() < 60, "the thread has ended");
        }
        assert!(files.files.is_empty());
    }

    #[test]
    fn files_are_bounded_and_dropped() {
        let mut files = RunTimesFiles::default();
        let own = Tid::current().unwrap();
        assert!(files.read(ProcessFolder::OWN, own).is_some());
        files.retain(|_| false);
        assert!(files.files.is_empty());
        assert_eq!(RunTimes::parse("1 2"), None);
        assert_eq!(RunTimes::parse("0 0 0"), None);
        assert_eq!(RunTimes::parse("1 2 3\n").map(|times| times.runs), Some(3));
    }
}

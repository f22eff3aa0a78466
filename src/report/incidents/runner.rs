//! Threads that run actions. Each has a bounded queue, and whoever queues a job may wait for it for
//! a limited time.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use crate::report::stage_thread::StageThread;
use crate::util::call_user;

/// The number of jobs that may wait for one thread.
const MAX_JOBS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A job, and whoever waits for its end.
struct QueuedJob {
    run: Job,
    /// Disconnected when the job is over.
    _done: SyncSender<()>,
}

/// A thread that runs jobs one after the other. It ends when the runner is dropped and all jobs are
/// done.
pub(super) struct Runner {
    jobs: SyncSender<QueuedJob>,
    /// The jobs that may not be over.
    running: Vec<Receiver<()>>,
}

impl Runner {
    /// Returns the runner, and its thread, to be started by the caller.
    pub(super) fn new(name: &'static str) -> (Runner, StageThread) {
        let (jobs, queue) = mpsc::sync_channel::<QueuedJob>(MAX_JOBS);
        let run = move || {
            for job in queue {
                let QueuedJob { run, _done } = job;
                call_user(run);
            }
        };
        (Runner { jobs, running: Vec::new() }, StageThread { name, run: Box::new(run) })
    }

    /// Queues a job. Returns `false` if too many wait.
    #[must_use]
    pub(super) fn push(&mut self, run: impl FnOnce() + Send + 'static) -> bool {
        let (done, over) = mpsc::sync_channel(1);
        self.running.retain(|over| is_running(over, Duration::ZERO));
        let is_queued = self.jobs.try_send(QueuedJob { run: Box::new(run), _done: done }).is_ok();
        if is_queued {
            self.running.push(over);
        }
        is_queued
    }

    /// Waits until all jobs are over, at most this long. Returns whether they are.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.running.retain(|over| is_running(over, deadline.saturating_duration_since(Instant::now())));
        self.running.is_empty()
    }
}

/// Returns whether a job still runs, for which this waits until the time limit.
pub(super) fn is_running(over: &Receiver<()>, limit: Duration) -> bool {
    !matches!(over.recv_timeout(limit), Err(mpsc::RecvTimeoutError::Disconnected))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_hangs_delays_only_later_jobs() {
        let (mut runner, thread) = Runner::new("test");
        let thread = std::thread::spawn(thread.run);
        let (results, done) = mpsc::channel();
        let send = |text: &'static str| {
            let results = results.clone();
            move || results.send(text).unwrap()
        };
        assert!(runner.push(send("first")));
        assert!(runner.push(|| panic!("of a callback")));
        assert!(runner.wait(Duration::from_secs(60)));
        let (release, hold) = mpsc::channel::<()>();
        assert!(runner.push(move || {
            let _ = hold.recv();
        }));
        assert!(!runner.wait(Duration::from_millis(20)), "it hangs");
        let queued = (0..2 * MAX_JOBS).filter(|_| runner.push(send("late"))).count();
        assert!((MAX_JOBS - 1..=MAX_JOBS).contains(&queued), "bounded: {queued}");
        release.send(()).unwrap();
        assert!(runner.wait(Duration::from_secs(60)));
        drop((runner, results));
        thread.join().unwrap();
        assert_eq!(done.iter().filter(|text| *text == "late").count(), queued);
    }
}

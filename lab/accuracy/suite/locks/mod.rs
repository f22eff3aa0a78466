//! A run of tasks that wait for locks of all kinds: whether their stalls name the right holder.
//!
//! Other threads are decoys: each has a reference to every lock, and has held each before.

mod tested;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::{Holder, Stall, Watchdog};
use tokio::runtime::Runtime;

use super::statements::{MissedBars, Score, Statement, Statements, TaskReports};
use tested::Locks;
pub(crate) use tested::{TestedHolder, TestedLock};

/// The time limit for a statement about a holder.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// The number of decoys.
const DECOYS: usize = 2;
/// The least share of right statements in the scenarios in which every thread can be searched, but
/// for one block: the first stall is reported before symbols are loaded.
const MIN_RIGHT: f64 = 0.8;

/// A kind of lock and of holder, and the figures about them, which are a row of the table.
#[derive(Debug)]
pub(crate) struct LockScenario {
    pub(crate) lock: TestedLock,
    pub(crate) holder: TestedHolder,
    pub(crate) blocks: usize,
    pub(crate) holders: Statements,
    /// The wrong ones among them that say that no running code holds the lock, though a thread did.
    /// All others name a thread which did not.
    pub(crate) wrong_nobody: usize,
    pub(crate) faults: Vec<String>,
}

impl LockScenario {
    fn new(lock: TestedLock, holder: TestedHolder) -> LockScenario {
        LockScenario { lock, holder, blocks: 0, holders: Statements::default(), wrong_nobody: 0, faults: Vec::new() }
    }

    /// Counts the reports of one block. `holder` is the name of the thread that held the lock;
    /// `None` if no thread did.
    fn evaluate(&mut self, reports: &[Stall], holder: Option<&str>) {
        self.blocks += 1;
        let (mut is_right, mut names_thread, mut says_nobody) = (false, false, false);
        for report in reports {
            match report.lock.as_ref().map(|lock| (&lock.holder, holder)) {
                Some((Holder::Thread(thread), Some(name))) if *thread.name == *name => is_right = true,
                Some((Holder::Thread(_), _)) => names_thread = true,
                Some((Holder::NoRunningCode, None)) => is_right = true,
                Some((Holder::NoRunningCode, Some(_))) => says_nobody = true,
                _ => {}
            }
        }
        let statement = match names_thread || says_nobody {
            true => Statement::Wrong,
            false if is_right => Statement::Right,
            false => Statement::Missing,
        };
        self.wrong_nobody += usize::from(says_nobody && !names_thread);
        let (lock, of) = (self.lock, self.holder);
        self.holders.add("holder", statement, &mut self.faults, || {
            let last = reports.last().map_or_else(|| "no report".to_owned(), ToString::to_string);
            format!("{lock}, {of}, held by {holder:?}: {last}")
        });
    }

    pub(crate) fn wrong_thread(&self) -> usize {
        self.holders.made.wrong - self.wrong_nobody
    }

    /// Returns a description of each missed bar.
    pub(crate) fn missed_bars(&self) -> Vec<String> {
        let LockScenario { lock, holder, blocks, holders, wrong_nobody, .. } = self;
        let (blocks, mut bars) = (*blocks, MissedBars::default());
        let of = |wrong| Score { wrong, of: blocks };
        bars.allow(0, of(self.wrong_thread()), &format!("name a wrong thread ({lock}, {holder})"));
        bars.allow(0, of(*wrong_nobody), &format!("say that no running code holds it ({lock}, {holder})"));
        let (right, is_searchable) = (holders.right(), self.holder != TestedHolder::ComputingThread);
        bars.require(!is_searchable || (right + 1) as f64 >= MIN_RIGHT * blocks as f64, || {
            format!("only {right} of {blocks} are right ({lock}, {holder})")
        });
        bars.into_vec()
    }
}

/// What a run needs.
struct Rig {
    watchdog: Watchdog,
    runtime: Runtime,
    locks: &'static Locks,
    reports: TaskReports,
}

/// Runs all scenarios in turn, each at least once, for `time`.
pub(crate) fn run(threshold: Duration, time: Duration) -> Vec<LockScenario> {
    let locks: &'static Locks = Box::leak(Box::new(Locks::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let decoys: Vec<_> = (0..DECOYS).map(|_| spawn_decoy(locks, stop.clone())).collect();
    let reports = TaskReports::default();
    let watchdog = reports.start(threshold);
    let mut tokio = tokio::runtime::Builder::new_multi_thread();
    let number = std::sync::atomic::AtomicUsize::new(0);
    tokio
        .thread_name_fn(move || format!("lab-{}", number.fetch_add(1, Ordering::Relaxed)))
        .worker_threads(2)
        .enable_all();
    let runtime = watchdog.build_runtime("locks", tokio).expect("builds");
    let rig = Rig { watchdog, runtime, locks, reports };
    let all =
        TestedLock::ALL.into_iter().flat_map(|lock| TestedHolder::ALL.map(|holder| LockScenario::new(lock, holder)));
    let is_possible = |s: &LockScenario| s.lock != TestedLock::Pthread || s.holder != TestedHolder::AcrossAwait;
    let mut rows: Vec<_> = all.filter(is_possible).collect();
    let start = Instant::now();
    loop {
        rows.iter_mut().for_each(|row| rig.run_block(row));
        if start.elapsed() >= time {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    decoys.into_iter().for_each(|decoy| decoy.join().expect("a decoy does not panic"));
    rows
}

/// Starts a thread that has references to all locks, has held each, and holds none.
fn spawn_decoy(locks: &'static Locks, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let decoy = move || {
        TestedLock::ALL.iter().for_each(|which| locks.hold(*which, &|| {}));
        let (mutex, rwlock) = (&locks.std_mutex, &locks.std_rwlock);
        let (other_mutex, other_rwlock, pthread) =
            (&locks.parking_lot_mutex, &locks.parking_lot_rwlock, &locks.pthread);
        drop(mutex.lock());
        drop(rwlock.write());
        drop(other_mutex.lock());
        drop(other_rwlock.write());
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(3));
            std::hint::black_box((mutex, rwlock, other_mutex, other_rwlock, pthread));
        }
    };
    thread::Builder::new().name("decoy".into()).spawn(decoy).expect("starts")
}

fn own_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

impl Rig {
    /// Blocks a task once, and evaluates its reports.
    fn run_block(&self, row: &mut LockScenario) {
        let (which, holder) = (row.lock, row.holder);
        self.reports.clear();
        let (locks, (locked, is_locked)) = (self.locks, channel());
        let (name, named) = channel();
        let released = Arc::new(AtomicBool::new(false));
        let is_released = released.clone();
        let hold = move || {
            let _ = name.send(own_name());
            locks.hold(which, &|| {
                locked.send(()).expect("the run waits for it");
                while !is_released.load(Ordering::Relaxed) {
                    if holder.computes() {
                        std::hint::black_box((0..1_000u64).sum::<u64>());
                    } else {
                        thread::sleep(Duration::from_millis(2));
                    }
                }
            });
        };
        let (keep_alive, release) = tokio::sync::mpsc::channel(1);
        let held: Box<dyn FnOnce()> = match holder {
            TestedHolder::SleepingTask | TestedHolder::ComputingTask => {
                let task = self.spawn(async move { hold() });
                Box::new(move || self.runtime.block_on(task).expect("the holder does not panic"))
            }
            TestedHolder::SleepingThread | TestedHolder::ComputingThread => {
                let thread = thread::Builder::new().name("holder".into()).spawn(hold).expect("starts");
                Box::new(move || thread.join().expect("the holder does not panic"))
            }
            TestedHolder::BlockingPool => {
                let task = self.runtime.spawn_blocking(hold);
                Box::new(move || self.runtime.block_on(task).expect("the holder does not panic"))
            }
            TestedHolder::AcrossAwait => {
                drop(hold);
                let (locked, also_locked) = channel();
                let thread = thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
                    runtime.block_on(locks.keep(which, &locked, release));
                });
                also_locked.recv().expect("it locks");
                Box::new(move || thread.join().expect("the holder does not panic"))
            }
        };
        if holder != TestedHolder::AcrossAwait {
            is_locked.recv().expect("it locks");
        }
        let task = self.spawn(async move { locks.wait(which) });
        let id = task.id();
        let says = |stall: &Stall| stall.lock.as_ref().is_some_and(|lock| !matches!(lock.holder, Holder::Unknown));
        self.reports.wait(id, PATIENCE, says);
        let reports = self.reports.of(id);
        let name = receive_name(&named).filter(|_| holder != TestedHolder::AcrossAwait);
        row.evaluate(&reports, name.as_deref());
        released.store(true, Ordering::Relaxed);
        drop(keep_alive);
        held();
        self.runtime.block_on(task).expect("a waiting task does not panic");
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        let _inside = self.runtime.enter();
        self.watchdog.spawn(future)
    }
}

fn receive_name(names: &Receiver<String>) -> Option<String> {
    names.try_recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_can_be_missed() {
        let missed = |change: fn(&mut LockScenario)| {
            let mut row = LockScenario::new(TestedLock::StdMutex, TestedHolder::SleepingThread);
            (row.blocks, row.holders.made.of) = (10, 10);
            change(&mut row);
            row.missed_bars()
        };
        assert!(missed(|_| ()).is_empty());
        assert!(missed(|row| row.holders.made.wrong = 1)[0].contains("wrong thread"));
        let nobody = |row: &mut LockScenario| (row.holders.made.wrong, row.wrong_nobody) = (1, 1);
        assert!(missed(nobody)[0].contains("no running code"));
        assert!(missed(|row| row.holders.made.of = 6)[0].contains("only 6 of 10"));
        let unsearchable =
            |row: &mut LockScenario| (row.holders.made.of, row.holder) = (0, TestedHolder::ComputingThread);
        assert!(missed(unsearchable).is_empty());
    }
}

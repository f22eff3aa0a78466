//! Measures thread dumps: their time, the CPU time of the process, and what a program with one
//! worker gets done meanwhile.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use tokio::runtime::Builder;

use crate::Size;

/// Threads that wait, until this is dropped.
pub(crate) struct Waiting {
    is_over: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Waiting {
    /// Starts threads until the process has this number of them.
    pub(crate) fn up_to(threads: usize) -> Waiting {
        Waiting::start(threads.saturating_sub(count()))
    }

    /// Starts this number of threads.
    pub(crate) fn start(threads: usize) -> Waiting {
        let is_over = Arc::<(Mutex<bool>, Condvar)>::default();
        let wait = |_| {
            let is_over = is_over.clone();
            let body = move || {
                let guard = is_over.0.lock().expect("nobody panics");
                drop(is_over.1.wait_while(guard, |is_over| !*is_over).expect("nobody panics"));
            };
            std::thread::Builder::new().stack_size(64 << 10).spawn(body).expect("a thread")
        };
        Waiting { threads: (0..threads).map(wait).collect(), is_over: is_over.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.is_over.0.lock().expect("nobody panics") = true;
        self.is_over.1.notify_all();
        self.threads.drain(..).for_each(|thread| thread.join().expect("it ends"));
    }
}

/// Returns the number of threads of this process, or 0 where the system does not report them.
pub(crate) fn count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, |threads| threads.count())
}

/// One thread dump, and the program beside it.
struct Sample {
    took: Duration,
    /// The CPU time that the process used meanwhile.
    cpu: Duration,
    /// The stacks that were read, and the threads that there were.
    with_stack: usize,
    threads: usize,
    /// The work of the program during the dump, and in the same time after it.
    during: Work,
    after: Work,
}

/// What the worker of the program has done.
#[derive(Clone, Copy)]
struct Work {
    polls: f64,
    cpu_seconds: f64,
}

impl Work {
    fn since(self, before: Work) -> Work {
        Work { polls: self.polls - before.polls, cpu_seconds: self.cpu_seconds - before.cpu_seconds }
    }

    /// Returns the polls in a second of the worker's CPU time, over several times.
    fn speed(all: &[Work]) -> f64 {
        let sum = |of: fn(&Work) -> f64| all.iter().map(of).sum::<f64>();
        sum(|work| work.polls) / sum(|work| work.cpu_seconds)
    }
}

/// A program with one worker, which polls while it is busy.
struct Program {
    watchdog: Watchdog,
    polls: Arc<AtomicU64>,
    is_busy: Arc<AtomicBool>,
    /// The worker's folder below `/proc`.
    worker: PathBuf,
    /// The duration of the latest dump, on which the time of the next one depends.
    latest: Duration,
    size: Size,
}

impl Program {
    /// Takes a dump, once a new one is allowed.
    fn sample(&mut self) -> Sample {
        // The watchdog returns a dump again until a second, and ten times its duration, has passed.
        std::thread::sleep(self.size.of(Duration::from_millis(100), Duration::from_secs(1)) + 10 * self.latest);
        let work = || Work { polls: self.polls.load(Ordering::Relaxed) as f64, cpu_seconds: cpu_seconds(&self.worker) };
        let (start, cpu, before) = (Instant::now(), process_cpu(), work());
        let dump = self.watchdog.threads();
        let (took, during) = (start.elapsed(), work().since(before));
        let cpu = process_cpu().saturating_sub(cpu);
        let middle = work();
        std::thread::sleep(took);
        let after = work().since(middle);
        self.latest = took;
        Sample { took, cpu, with_stack: dump.with_stack, threads: dump.threads, during, after }
    }

    fn samples(&mut self, rounds: usize, is_busy: bool) -> Vec<Sample> {
        self.is_busy.store(is_busy, Ordering::Relaxed);
        let samples = (0..rounds).map(|_| self.sample()).collect();
        self.is_busy.store(false, Ordering::Relaxed);
        samples
    }
}

pub(crate) fn run(size: Size) {
    let watchdog = Watchdog::builder().log(false).start().expect("a watchdog");
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    let runtime = watchdog.build_runtime("main", builder).expect("a runtime");
    let (polls, is_busy) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
    let (counted, busy) = (polls.clone(), is_busy.clone());
    let (folder, worker) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        folder.send(std::fs::read_link("/proc/thread-self").unwrap_or_default()).expect("the folder is received");
        loop {
            if busy.load(Ordering::Relaxed) {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    println!(
        "\n| waiting threads | dump | stacks read | time, ms | CPU, ms | polls in the CPU time of a worker, of those without a dump |"
    );
    println!("|---|---|---|---|---|---|");
    // The first dump loads the symbols.
    watchdog.threads();
    let worker = Path::new("/proc").join(worker.recv().expect("the task starts"));
    let mut program = Program { watchdog, polls, worker, is_busy, latest: Duration::from_millis(500), size };
    for threads in size.of(vec![10], vec![10, 100, 1_000, 10_000]) {
        let _waiting = Waiting::start(threads);
        row(threads, "first", &program.sample(), "-");
        // Other processes of the machine only take time: then fewer stacks are read, or at a higher
        // cost. From the worker they take CPU time, which is left out here.
        let rounds = size.of(1, if threads > 1_000 { 5 } else { 15 });
        let idle =
            program.samples(rounds, false).into_iter().max_by_key(|sample| (sample.with_stack, Reverse(sample.cpu)));
        let busy = program.samples(rounds, true);
        let speed = |of: fn(&Sample) -> Work| Work::speed(&busy.iter().map(of).collect::<Vec<_>>());
        let ratio = speed(|sample| sample.during) / speed(|sample| sample.after);
        row(threads, "a later one", &idle.expect("a round"), &format!("{ratio:.2}"));
    }
    runtime.shutdown_background();
}

fn row(waiting: usize, which: &str, sample: &Sample, polls: &str) {
    let Sample { took, cpu, with_stack, threads, .. } = sample;
    let [took, cpu] = [took, cpu].map(|time| time.as_secs_f64() * 1e3);
    println!("| {waiting} | {which} | {with_stack} of {threads} | {took:.0} | {cpu:.1} | {polls} |");
}

/// Returns the CPU seconds of one thread, or 0 where the system does not report them.
fn cpu_seconds(thread: &Path) -> f64 {
    let times = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    times.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}

/// Returns the CPU time that the process has used, or 0 where the system does not report it.
fn process_cpu() -> Duration {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place to write to.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

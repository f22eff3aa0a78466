//! Thousands of captures of a process that checks all that it does, and tracers that are killed in
//! the middle of them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pollwatch_stack::procfs::{RunCount, RunState};
use pollwatch_stack::{Pid, Process, StopBudget, Stopper, Tid};

use super::support::{Folder, PATIENCE, Target, build_from, named};

/// The process that a tracer captures.
const TRACED: &str = "POLLWATCH_TEST_TRACED";
/// Set if a thread of the tracer waits for any child meanwhile.
const WAITS: &str = "POLLWATCH_TEST_WAITS";
/// The seconds that each part takes, in place of the short time of a test.
const SECONDS: &str = "POLLWATCH_TEST_SECONDS";

fn seconds() -> Duration {
    Duration::from_secs(std::env::var(SECONDS).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5))
}

/// What captures all threads of a process, again and again.
struct Tracer {
    process: Process,
    stopper: Stopper,
    ran: HashMap<Tid, RunCount>,
    /// The lengths of all stops.
    stops: Vec<Duration>,
    waiting: u64,
}

impl Tracer {
    fn new(pid: Pid) -> Tracer {
        let stopper = Stopper::with_budget(StopBudget::percent(100));
        Tracer { process: Process::open(pid).unwrap(), stopper, ran: HashMap::new(), stops: Vec::new(), waiting: 0 }
    }

    /// Captures each thread once, whatever it does.
    fn capture_all(&mut self) {
        // The next question shows which check of a process that has ended has failed.
        let Ok(threads) = self.process.threads() else { return };
        for tid in threads {
            let state = self.process.folder().syscall(tid);
            self.waiting += u64::from(self.process.capture_waiting(tid, state).is_ok());
            let earlier = self.process.folder().ran(tid).and_then(|ran| self.ran.insert(tid, ran));
            if earlier.is_some()
                && let Ok(captured) = self.stopper.capture(&mut self.process, tid, earlier)
            {
                self.stops.push(captured.stopped);
            }
        }
    }
}

/// Has the process only count `epoll_wait`s that end with `EINTR`. A thread that enters one in the
/// microseconds before it is stopped has it started again by the tracer. One that is killed at that
/// moment cannot.
const EPOLL_EINTR: &str = "--epoll-eintr";

/// A process that checks itself.
struct Checked(Target);

impl Checked {
    fn run(folder: &Folder, args: &[&str]) -> Checked {
        let program = build_from(folder, "checking_target.rs", &["-Copt-level=3", "-Cdebuginfo=1"]);
        Checked(Target::run(Command::new(program).args(args)))
    }

    fn ask(&mut self, question: &str) -> String {
        // A process whose check has failed says which, and reads no question any more.
        let asked = writeln!(self.0.input.as_mut().unwrap(), "{question}");
        let line = self.0.output.next().expect("the process lives").unwrap();
        assert!(!line.contains("FAILED"), "{line}");
        asked.unwrap();
        line
    }

    /// Returns how far each thread has come.
    fn progress(&mut self) -> Vec<u64> {
        self.ask("progress").split(' ').map(|count| count.parse().unwrap()).collect()
    }

    /// Checks that no thread stays stopped, and that each continues its work.
    fn check(&mut self) {
        let folder = pollwatch_stack::procfs::ProcessFolder::of(self.0.pid());
        let (before, start) = (self.progress(), Instant::now());
        loop {
            let now = self.progress();
            let states: Vec<_> = folder.threads().unwrap().iter().filter_map(|&tid| folder.stat(tid)).collect();
            let is_free = states.iter().all(|stat| !matches!(stat.state, RunState::Stopped | RunState::Traced));
            if is_free && now.iter().zip(&before).all(|(now, before)| now > before) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{before:?} {now:?} {states:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the process and checks that it has not failed.
    fn end(mut self) {
        self.check();
        drop(self.0.input.take());
        let rest: Vec<_> = self.0.output.by_ref().map(Result::unwrap).collect();
        let status = self.0.child.wait().unwrap();
        assert!(status.success() && rest.is_empty(), "{status} {rest:?}");
    }
}

#[test]
fn captures_disturb_nothing() {
    let folder = Folder::new();
    let mut checked = Checked::run(&folder, &[]);
    let mut tracer = Tracer::new(checked.0.pid());
    let start = Instant::now();
    while start.elapsed() < seconds() || tracer.stops.len() < 100 {
        tracer.capture_all();
        assert!(start.elapsed() < seconds() + PATIENCE, "{:?}", tracer.stopper.stats());
    }
    checked.check();
    checked.end();
    tracer.stops.sort_unstable();
    let at = |share: f64| tracer.stops[((tracer.stops.len() - 1) as f64 * share) as usize];
    let (stats, waiting) = (tracer.stopper.stats(), tracer.waiting);
    println!("{waiting} stacks of waiting threads, {} of running ones. {stats:?}", tracer.stops.len());
    println!("stopped for {:?} (median), {:?} (99 %), {:?} (longest)", at(0.5), at(0.99), at(1.0));
    assert!(at(0.5) < Duration::from_millis(1), "the median, on a machine of any load");
}

/// Sends a signal to a thread. Returns whether the thread exists.
#[must_use]
fn send(process: &Process, tid: Tid, signal: i32) -> bool {
    // SAFETY: three integers, which the kernel checks.
    unsafe { libc::syscall(libc::SYS_tgkill, process.pid().as_raw(), tid.as_raw(), signal) == 0 }
}

/// Returns the thread that computes, as soon as it has its name.
fn computer_of(process: &Process) -> Tid {
    let start = Instant::now();
    loop {
        match named(process, "computes").first() {
            Some(tid) => return *tid,
            None => assert!(start.elapsed() < PATIENCE),
        }
    }
}

/// Sends signals to a computing thread while `trace` captures the process, for a time that it gets.
/// Each signal must be delivered, once.
fn check_signals(args: &[&str], trace: impl FnOnce(&mut Checked, &dyn Fn() -> bool)) {
    const SIGNAL: i32 = 40;
    const BURST: u64 = 8;
    let folder = Folder::new();
    let mut checked = Checked::run(&folder, args);
    let target = Process::open(checked.0.pid()).unwrap();
    let computer = computer_of(&target);
    let (mut sent, start) = (0u64, Instant::now());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while start.elapsed() < seconds() {
                // Several at once: the thread stops for the next one while it handles the first.
                if !(0..BURST).all(|_| send(&target, computer, SIGNAL)) {
                    return; // the next question shows which check of the process has failed
                }
                sent += BURST;
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        trace(&mut checked, &|| !sender.is_finished());
    });
    let received = |checked: &mut Checked| checked.ask("signals").parse::<u64>().unwrap();
    while received(&mut checked) < sent {
        assert!(start.elapsed() < seconds() + PATIENCE, "{} of {sent}", received(&mut checked));
        std::thread::sleep(Duration::from_millis(10));
    }
    checked.check();
    assert_eq!(received(&mut checked), sent);
    println!("{sent} signals");
    checked.end();
}

#[test]
fn signals_are_delivered() {
    check_signals(&[], |checked, is_sending| {
        let mut tracer = Tracer::new(checked.0.pid());
        while is_sending() {
            tracer.capture_all();
        }
        println!("{:?}", tracer.stopper.stats());
    });
}

/// A tracer that is killed while the thread has stopped to receive a signal does not swallow it.
#[test]
fn signals_are_delivered_when_tracers_are_killed() {
    check_signals(&[EPOLL_EINTR], |checked, is_sending| {
        let process = Process::open(checked.0.pid()).unwrap();
        let computer = computer_of(&process);
        let is_traced = || process.folder().stat(computer).is_some_and(|stat| stat.state == RunState::Traced);
        while is_sending() {
            kill_a_tracer(checked, || while is_sending() && !is_traced() {});
        }
    });
}

/// Another thread that waits for any child takes the kernel's reports of stops. Captures work.
#[test]
fn stops_are_seen_when_others_take_the_reports() {
    let folder = Folder::new();
    let mut checked = Checked::run(&folder, &[]);
    let mut tracer = start_tracer(&checked, Some("waits"));
    let mut lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().ends_with("tracing")), "the harness prints as well");
    std::thread::sleep(seconds());
    // It ends by itself when its input is closed.
    drop(tracer.stdin.take());
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(tracer.wait().unwrap().success(), "{rest:?}");
    let count = |title: &str| rest.iter().find_map(|line| line.strip_prefix(title)?.parse::<u64>().ok());
    let (stops, taken) = (count("stops: ").expect("it prints them"), count("taken: ").expect("it prints them"));
    let timeouts = count("timeouts: ").expect("it prints them");
    println!("{stops} stops, {timeouts} timeouts, {taken} reports were taken");
    assert!(taken > 0 && timeouts < taken && stops > 0, "{rest:?}");
    checked.check();
    checked.end();
}

/// A process that is stopped and continued by its user meanwhile is stopped when it should be.
#[test]
fn stops_by_the_user_are_kept() {
    let folder = Folder::new();
    let program = build_from(&folder, "target.rs", &["-Copt-level=3"]);
    let target = Target::run(Command::new(program).args(["1", "computing"]));
    let mut tracer = Tracer::new(target.pid());
    let other = Process::open(target.pid()).unwrap();
    let computer = named(&other, "computer")[0];
    let state = || other.folder().stat(computer).map(|stat| stat.state);
    let (wait, start) = (Duration::from_micros(700), Instant::now());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while start.elapsed() < seconds() {
                assert!(send(&other, computer, libc::SIGSTOP));
                std::thread::sleep(wait);
                assert!(send(&other, computer, libc::SIGCONT));
                std::thread::sleep(wait);
            }
            assert!(send(&other, computer, libc::SIGSTOP));
        });
        while !sender.is_finished() {
            tracer.capture_all();
        }
    });
    println!("{:?}", tracer.stopper.stats());
    let start = Instant::now();
    while state() != Some(RunState::Stopped) {
        assert!(start.elapsed() < PATIENCE, "{:?}", state());
    }
    for _ in 0..50 {
        tracer.capture_all();
        assert_eq!(state(), Some(RunState::Stopped));
    }
    let ran = other.folder().ran(computer).unwrap();
    assert!(send(&other, computer, libc::SIGCONT));
    while other.folder().ran(computer).unwrap().on_cpu == ran.on_cpu {
        assert!(start.elapsed() < PATIENCE, "{:?}", state());
    }
}

/// The tracer of the tests below and above. It ends when its input is closed.
#[test]
fn tracer_process() {
    let Ok(pid) = std::env::var(TRACED) else { return };
    static HAS_ENDED: AtomicBool = AtomicBool::new(false);
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        HAS_ENDED.store(true, Ordering::SeqCst);
    });
    let waiter = std::env::var_os(WAITS).map(|_| {
        std::thread::spawn(|| {
            while !HAS_ENDED.load(Ordering::SeqCst) {
                // SAFETY: no status is asked for.
                let taken = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
                TAKEN.fetch_add(u64::from(taken > 0), Ordering::SeqCst);
            }
        })
    });
    let mut tracer = Tracer::new(pid.parse().unwrap());
    println!("tracing");
    while !HAS_ENDED.load(Ordering::SeqCst) {
        tracer.capture_all();
    }
    waiter.into_iter().for_each(|waiter| waiter.join().unwrap());
    let (stats, taken) = (tracer.stopper.stats(), TAKEN.load(Ordering::SeqCst));
    println!("stops: {}\ntimeouts: {}\ntaken: {taken}", stats.stops, stats.timeouts);
}

/// Starts a tracer in a process of its own. It takes the reports of its stops if `waits` is given.
fn start_tracer(checked: &Checked, waits: Option<&str>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hammer::tracer_process", "--nocapture"])
        .env(TRACED, checked.0.pid().to_string())
        .envs(waits.map(|value| (WAITS, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts a tracer, and kills it when `wait` returns.
fn kill_a_tracer(checked: &mut Checked, wait: impl FnOnce()) {
    let mut tracer = start_tracer(checked, None);
    wait();
    tracer.kill().unwrap();
    let status = tracer.wait().unwrap();
    assert_eq!(status.code(), None, "it was killed, and had not ended before");
    checked.check();
}

#[test]
fn a_tracer_that_is_killed_leaves_nothing_stopped() {
    let folder = Folder::new();
    let mut checked = Checked::run(&folder, &[EPOLL_EINTR]);
    let (mut kills, start) = (0u32, Instant::now());
    // A sequence that is different from run to run, without a source of random numbers.
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    while start.elapsed() < 2 * seconds() || kills < 10 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Opening the process takes some milliseconds.
        let moment = Duration::from_micros(20_000 + (seed >> 33) % 80_000);
        kill_a_tracer(&mut checked, || std::thread::sleep(moment));
        kills += 1;
    }
    let interrupted = checked.ask("interrupted").parse::<u32>().unwrap();
    println!("{kills} tracers were killed, {interrupted} calls of epoll_wait ended with EINTR");
    assert!(interrupted <= kills / 10, "{interrupted} of {kills}");
    checked.end();
}

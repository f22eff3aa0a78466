//! Tests that symbols, log and callback do not wait for each other. They share the subscriber and
//! the symbols of the process, and run one after the other.

#![cfg(unix)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};
use std::time::{Duration, Instant};

use pollwatch::{Phase, Stall, Watchdog};
use tracing_subscriber::fmt::MakeWriter;

use test_support::*;

/// True while the log goes to a pipe that nobody reads.
static IS_STUCK: AtomicBool = AtomicBool::new(false);
/// All that was logged while it was not.
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// A pipe that is full, until its other end is read.
struct FullPipe {
    write: UnixStream,
    read: Mutex<Option<UnixStream>>,
}

impl FullPipe {
    fn get() -> &'static FullPipe {
        static PIPE: OnceLock<FullPipe> = OnceLock::new();
        PIPE.get_or_init(|| {
            let (write, read) = UnixStream::pair().expect("a pipe");
            write.set_nonblocking(true).unwrap();
            while (&write).write(&[b'\n'; 4_096]).is_ok() {}
            while (&write).write(b"\n").is_ok() {}
            write.set_nonblocking(false).unwrap();
            FullPipe { write, read: Mutex::new(Some(read)) }
        })
    }

    /// Reads the pipe from now on. What was in it is left out, and what is written later is logged.
    fn drain(&self) {
        IS_STUCK.store(false, Ordering::SeqCst);
        let mut read = lock(&self.read).take().expect("it is drained once");
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = read.read(&mut buffer) {
                lock(&LINES).extend_from_slice(&buffer[..length]);
            }
        });
    }
}

/// The writer of a usual subscriber: writes to the pipe while it is stuck.
struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if IS_STUCK.load(Ordering::SeqCst) {
            return (&FullPipe::get().write).write(bytes);
        }
        lock(&LINES).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer
    }
}

/// Runs one test at a time, with a subscriber.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static ONCE: Once = Once::new();
    let alone = lock(&ALONE);
    ONCE.call_once(|| tracing_subscriber::fmt().with_writer(Writer).with_ansi(false).init());
    lock(&LINES).clear();
    alone
}

/// The first lines of the messages about one stall of a runtime.
fn lines_of(runtime: &str, id: u64) -> Vec<String> {
    let text = String::from_utf8_lossy(&lock(&LINES)).into_owned();
    let (number, runtime) = (format!("stall #{id} "), format!("of {runtime:?}"));
    text.lines().filter(|line| line.contains(&number) && line.contains(&runtime)).map(str::to_owned).collect()
}

/// The presence of symbolized stacks.
const HAS_STACKS: bool = cfg!(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
));

#[test]
fn a_log_that_blocks_delays_the_log_only() {
    let _alone = alone();
    let pipe = FullPipe::get();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let runtime = watchdog.build_runtime("stuck log", multi_thread(2)).unwrap();
    IS_STUCK.store(true, Ordering::SeqCst);
    // A task logs, and blocks there.
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { tracing::info!("into the pipe") });
    let has_stack = |stall: &Stall| stall.elapsed >= 2 * THRESHOLD && stall.stack.is_some() == HAS_STACKS;
    let stuck = collected.wait(has_stack).expect("the callback is called, with the stack");
    if HAS_STACKS {
        let stack = stuck.stack.as_ref().unwrap();
        assert!(format!("{stack:#}").contains("tracing_subscriber::fmt"), "{stack:#}");
    }
    // So are other stalls, also their ends.
    let (other, _) = spawn_measured(&watchdog, runtime.handle(), async { block(3 * THRESHOLD) });
    runtime.block_on(other).unwrap();
    let is_other = |stall: &Stall| stall.id != stuck.id && stall.phase == Phase::Resolved;
    let other = collected.wait(is_other).expect("other stalls are reported");
    let recent = watchdog.stalls();
    let shown = recent.iter().find(|stall| stall.id == stuck.id).expect("the stall is in the list");
    assert_eq!(shown.stack.is_some(), HAS_STACKS);
    wait_until("the profile has the stall", || {
        watchdog.profile().entries.iter().any(|entry| entry.stack.is_empty() != HAS_STACKS)
    });
    let seconds =
        || watchdog.snapshot().runtimes[0].stalls.iter().map(|of_cause| of_cause.stalls.time).sum::<Duration>();
    let before = seconds();
    wait_until("the metrics continue", || seconds() > before);
    assert_eq!(lines_of("stuck log", stuck.id), [""; 0], "nothing was logged");
    let reports = || collected.of("stuck log").iter().filter(|stall| stall.id == stuck.id).count();
    wait_until("the stall is reported again and again", || reports() >= 4);
    pipe.drain();
    runtime.block_on(task).unwrap();
    wait_until("the end is logged", || lines_of("stuck log", stuck.id).iter().any(|line| line.contains("resolved")));
    let lines = lines_of("stuck log", stuck.id);
    // The line that waited in the pipe, at most one that was due meanwhile, and the end.
    assert!(lines.len() <= 3, "{lines:#?} of {} reports", reports());
    let lines = lines_of("stuck log", other.id);
    assert!(lines.len() == 1 && lines[0].contains("resolved"), "one line with the latest state: {lines:#?}");
    let lost = watchdog.snapshot().watchdog.reports_lost_by_stage;
    assert!(lost.iter().all(|lost| lost.count == 0), "{lost:?}");
}

#[test]
fn a_callback_that_blocks_delays_the_callback_only() {
    let _alone = alone();
    let (gate, calls) = (Gate::new(), CollectedStalls::default());
    let (key, keep) = (gate.key(), calls.callback());
    let blocks = move |stall: &Stall| {
        keep(stall);
        key.pass();
    };
    let watchdog = Watchdog::builder().threshold(THRESHOLD).on_stall(blocks).start().unwrap();
    let runtime = watchdog.build_runtime("stuck callback", current_thread()).unwrap();
    for id in 1..=3 {
        let is_logged = || lines_of("stuck callback", id).len() > 2;
        runtime.block_on(watchdog.watch(async { wait_until("it is logged again and again", is_logged) }));
        wait_until("its end is logged", || lines_of("stuck callback", id).iter().any(|line| line.contains("resolved")));
    }
    assert_eq!(calls.all().len(), 1, "the callback hangs");
    assert!(watchdog.stalls().iter().all(|stall| stall.stack.is_some() == HAS_STACKS && stall.id <= 3));
    gate.open();
    wait_until("the last end is passed on", || calls.all().iter().any(|s| s.id == 3 && s.phase == Phase::Resolved));
    let states: Vec<_> = calls.all()[1..].iter().map(|stall| (stall.id, stall.phase)).collect();
    let merged = [1, 2, 3].map(|id| (id, Phase::Resolved));
    assert_eq!(states, merged, "each stall once, in its latest state");
}

/// Symbols that take long delay a report for a limited time. What became of the stall meanwhile is
/// one report.
#[test]
#[cfg(feature = "capture")]
fn symbols_that_take_long_delay_no_report_for_ever() {
    let _alone = alone();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let runtime = watchdog.build_runtime("stuck symbols", current_thread()).unwrap();
    // The report thread waits for this lock as it would for a file on a dead server.
    let loading = pollwatch_stack::Symbolizer::shared();
    let observer = collected.clone();
    let started = Instant::now();
    runtime.block_on(watchdog.watch(async {
        observer.wait_ongoing("stuck symbols").expect("the first report waits for no symbols");
        // The next reports are due at 2, 4, 8 ... thresholds.
        block(10 * THRESHOLD);
    }));
    assert!(collected.of("stuck symbols").iter().all(|stall| stall.stack.is_none()));
    let end = collected.wait_resolved("stuck symbols");
    assert!(end.stack.is_none(), "nothing waits for ever");
    assert!(started.elapsed() > Duration::from_secs(1), "it waited for symbols for a while");
    let reports = collected.of("stuck symbols");
    assert!(reports.len() <= 3, "what is stale is merged: {reports:#?}");
    drop(loading);
    if HAS_STACKS {
        wait_until("the stack is added later", || watchdog.stalls()[0].stack.is_some());
        wait_until("and so is the profile", || !watchdog.profile().entries.is_empty());
    }
    let lines = wait_for("the end is logged", || {
        Some(lines_of("stuck symbols", 1)).filter(|lines| lines.iter().any(|line| line.contains("resolved")))
    });
    assert_eq!(lines.len(), reports.len(), "{lines:#?}");
}

/// Neither hangs the shutdown.
#[test]
fn a_shutdown_waits_for_no_stage_for_ever() {
    let _alone = alone();
    let gate = Arc::new(Gate::new());
    let key = gate.key();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).on_stall(move |_| assert!(key.pass())).start().unwrap();
    let runtime = watchdog.build_runtime("shutdown", current_thread()).unwrap();
    #[cfg(feature = "capture")]
    let _loading = pollwatch_stack::Symbolizer::shared();
    runtime.block_on(watchdog.watch(async { block(3 * THRESHOLD) }));
    let started = Instant::now();
    watchdog.shutdown();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(!watchdog.coverage().watching);
}

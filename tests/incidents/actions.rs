//! Each action, while the runtime is dead and other things hang.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use pollwatch::{Action, Watchdog};
use tracing_subscriber::fmt::MakeWriter;

use super::fixture::*;
use test_support::*;

/// A log whose writer never returns.
struct StuckLog;

impl<'a> MakeWriter<'a> for StuckLog {
    type Writer = std::io::Sink;

    fn make_writer(&'a self) -> Self::Writer {
        loop {
            std::thread::park();
        }
    }
}

/// `Err` where the machine was too busy to read the threads in time, which the text says.
fn has_threads(text: &str) -> Result<(), String> {
    if text.contains("pollwatch-act (") {
        return Ok(());
    }
    assert!(text.contains("the dump was not ready") || text.contains("could not be read in time"), "{text}");
    Err(text.into())
}

#[test]
fn abort_ends_the_process_by_its_signal_after_the_evidence_was_written() {
    if is_child() {
        let builder = Watchdog::builder()
            .log(false)
            .on_incident(AFTER, Action::abort())
            .on_incident(AFTER, Action::write_threads(folder().join("threads.txt")));
        Blockable::new(builder).block_for_ever();
    }
    undisturbed(|| {
        let remains = run_child("actions::abort_ends_the_process_by_its_signal_after_the_evidence_was_written");
        assert_eq!(remains.status.signal(), Some(libc::SIGABRT), "{remains:?}");
        let [file] = &remains.files[..] else { panic!("{remains:?}") };
        assert!(file.starts_with("pollwatch: incident #1: all 2 workers of \"main\" are blocked, for "), "{file}");
        assert_eq!(file.matches("stall #").count(), 2, "{file}");
        has_threads(file)
    });
}

/// The callback hangs, the log hangs, and a worker holds the lock of the standard error.
#[test]
fn exit_waits_for_what_hangs_only_for_a_while() {
    if is_child() {
        // The start of a watchdog logs on the thread that starts it, at a lower level.
        tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(StuckLog).init();
        let builder = Watchdog::builder()
            .on_incident(AFTER, Action::log_threads())
            .on_incident(AFTER, Action::print_threads())
            .on_incident(AFTER, Action::write_threads(folder().join("threads")))
            .on_incident(
                AFTER,
                Action::call(|incident| {
                    println!("called for {incident}");
                    loop {
                        std::thread::park();
                    }
                }),
            )
            .on_incident(2 * AFTER, Action::exit(70));
        let blockable = Blockable::new(builder);
        let holds = async {
            let _lock = std::io::stderr().lock();
            block(TIMEOUT);
        };
        spawn_measured(&blockable.watchdog, blockable.runtime.handle(), holds);
        blockable.block_for_ever();
    }
    undisturbed(|| {
        let remains = run_child("actions::exit_waits_for_what_hangs_only_for_a_while");
        assert_eq!(remains.status.code(), Some(70), "{remains:?}");
        assert!(remains.stdout.contains("called for incident #1: all 2 workers"), "{remains:?}");
        assert!(remains.stderr.contains("pollwatch: incident #1: all 2 workers"), "{remains:?}");
        assert_eq!(remains.files.len(), 1, "{remains:?}");
        has_threads(&remains.stderr)
    });
}

#[test]
fn a_callback_that_panics_delays_nothing_and_is_counted() {
    if is_child() {
        let has_failed = std::sync::Arc::new(AtomicBool::new(false));
        let builder = Watchdog::builder().on_incident(AFTER, Action::call(|_| panic!("of the callback"))).on_incident(
            AFTER,
            Action::call({
                let has_failed = has_failed.clone();
                move |_| has_failed.store(true, Ordering::SeqCst)
            }),
        );
        let blockable = Blockable::new(builder);
        let gate = Gate::new();
        blockable.block(&gate);
        wait_until("the second callback is called", || has_failed.load(Ordering::SeqCst));
        wait_until("both are counted", || {
            let actions = blockable.watchdog.snapshot().watchdog.incident_actions;
            let count = |result| {
                actions.iter().find(|a| a.action.as_str() == "call" && a.result.as_str() == result).unwrap().count
            };
            (count("failed"), count("done")) == (1, 1)
        });
        gate.open();
        return;
    }
    let remains = run_child("actions::a_callback_that_panics_delays_nothing_and_is_counted");
    assert!(remains.status.success(), "{remains:?}");
}

/// A callback may end the block; the process must not be ended then.
#[test]
fn an_incident_that_is_over_ends_no_process() {
    if is_child() {
        let (gate, (ended, is_over)) = (std::sync::Arc::new(Gate::new()), mpsc::channel::<()>());
        let is_over = std::sync::Mutex::new(is_over);
        let opened = gate.clone();
        let call = Action::call(move |_| {
            opened.open();
            let _ = lock(&is_over).recv_timeout(TIMEOUT);
        });
        let builder = Watchdog::builder().on_incident(AFTER, Action::exit(70)).on_incident(AFTER, call);
        let blockable = Blockable::new(builder);
        blockable.block(&gate);
        wait_until("both polls are over", || {
            let stalls = blockable.watchdog.stalls();
            stalls.len() == 2 && stalls.iter().all(|stall| stall.phase == pollwatch::Phase::Resolved)
        });
        drop(ended);
        wait_until("the exit is cancelled", || {
            let actions = blockable.watchdog.snapshot().watchdog.incident_actions;
            actions.iter().any(|a| a.action.as_str() == "exit" && a.result.as_str() == "cancelled" && a.count == 1)
        });
        return;
    }
    let remains = run_child("actions::an_incident_that_is_over_ends_no_process");
    assert!(remains.status.success(), "{remains:?}");
}

/// A log that announces an event with this text, and writes it when it is released.
struct HeldLog {
    text: &'static str,
    announce: mpsc::Sender<()>,
    release: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl HeldLog {
    /// Installs the log. Returns what is announced, and what releases the log when it is dropped.
    fn init(text: &'static str) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (announce, is_announced) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let log = HeldLog { text, announce, release: released.into() };
        tracing_subscriber::fmt().with_writer(std::sync::Arc::new(log)).init();
        (is_announced, release)
    }
}

impl Write for &HeldLog {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if String::from_utf8_lossy(line).contains(self.text) {
            let _ = self.announce.send(());
            let _ = lock(&self.release).recv_timeout(TIMEOUT);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The shutdown comes when the last line is about to be logged. The workers are still blocked.
#[test]
fn no_process_is_ended_after_the_shutdown() {
    if is_child() {
        let (is_announced, release) = HeldLog::init("the process exits");
        let builder = Watchdog::builder().on_incident(AFTER, Action::exit(70));
        let (blockable, gate) = (Blockable::new(builder), Gate::new());
        blockable.block(&gate);
        is_announced.recv_timeout(TIMEOUT).expect("the last line is logged");
        assert_eq!(blockable.watchdog.incidents()[0].phase, pollwatch::Phase::Ongoing);
        blockable.watchdog.shutdown();
        drop(release);
        wait_until("the exit is cancelled", || {
            let actions = blockable.watchdog.snapshot().watchdog.incident_actions;
            actions.iter().any(|a| a.action.as_str() == "exit" && a.result.as_str() == "cancelled" && a.count == 1)
        });
        wait_until("no incident is ongoing", || blockable.watchdog.incidents()[0].phase == pollwatch::Phase::Resolved);
        gate.open();
        return;
    }
    let remains = run_child("actions::no_process_is_ended_after_the_shutdown");
    assert!(remains.status.success(), "{remains:?}");
}

#[test]
fn threads_count_as_logged_when_they_are() {
    if is_child() {
        let (is_announced, release) = HeldLog::init("pollwatch-act (");
        let builder = Watchdog::builder().on_incident(AFTER, Action::log_threads());
        let (blockable, gate) = (Blockable::new(builder), Gate::new());
        blockable.block(&gate);
        is_announced.recv_timeout(TIMEOUT).expect("the threads are logged");
        let is_done = || {
            let actions = blockable.watchdog.snapshot().watchdog.incident_actions;
            actions.iter().any(|a| a.action.as_str() == "log_threads" && a.result.as_str() == "done" && a.count == 1)
        };
        assert!(!is_done());
        drop(release);
        wait_until("it is counted", is_done);
        gate.open();
        return;
    }
    undisturbed(|| {
        let remains = run_child("actions::threads_count_as_logged_when_they_are");
        if remains.status.success() { Ok(()) } else { Err(format!("{remains:?}")) }
    });
}

#[test]
fn a_file_that_cannot_be_written_is_logged_once_and_counted() {
    let folder = std::env::temp_dir().join(format!("pollwatch-no-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("threads.txt");
    let builder = Watchdog::builder()
        .log(false)
        .on_incident(AFTER, Action::write_threads(&path))
        .on_incident(2 * AFTER, Action::write_threads(&path));
    let blockable = Blockable::new(builder);
    std::fs::remove_dir_all(&folder).unwrap();
    let gate = Gate::new();
    blockable.block(&gate);
    wait_until("both are counted", || {
        let actions = blockable.watchdog.snapshot().watchdog.incident_actions;
        actions.iter().any(|a| a.action.as_str() == "write_threads" && a.result.as_str() == "failed" && a.count == 2)
    });
    gate.open();
}

/// The watchdog thread itself does not run: it is stopped by the shutdown of its last handle in the
/// middle of the incident. What has started is done.
#[test]
fn a_shutdown_during_an_incident_does_not_hang() {
    let (called, is_called) = mpsc::channel();
    let call = Action::call(move |_| {
        let _ = called.send(());
        std::thread::sleep(Duration::from_millis(200));
    });
    let blockable = Blockable::new(Watchdog::builder().log(false).on_incident(AFTER, call));
    let gate = Gate::new();
    blockable.block(&gate);
    is_called.recv_timeout(TIMEOUT).expect("the callback is called");
    let watchdog = blockable.watchdog.clone();
    within_timeout("the shutdown", move || watchdog.shutdown());
    gate.open();
    let _ = std::io::stdout().flush();
}

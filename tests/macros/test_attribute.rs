//! Tests with `#[pollwatch::test]`: those that pass, and those that have to fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[pollwatch::test]
async fn a_cooperative_test_passes() {
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::task::spawn_blocking(|| thread::sleep(Duration::from_millis(100))).await.unwrap();
    assert!(pollwatch::current().is_some());
}

#[pollwatch::test]
async fn a_test_may_return_a_result() -> Result<(), std::num::ParseIntError> {
    let number: u8 = "7".parse()?;
    assert_eq!(number, 7);
    Ok(())
}

#[pollwatch::test(start_paused = true)]
async fn the_clock_may_be_paused() {
    let start = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(start.elapsed() >= Duration::from_secs(3600));
}

#[pollwatch::test(flavor = "multi_thread", worker_threads = 2, name = "workers")]
async fn the_root_of_a_multi_thread_runtime_may_block() {
    thread::sleep(Duration::from_millis(100));
    assert_eq!(tokio::runtime::Handle::current().metrics().num_workers(), 2);
    tokio::spawn(async { tokio::task::yield_now().await }).await.unwrap();
}

#[pollwatch::test(flavor = "local")]
async fn tasks_may_be_local() {
    let shared = std::rc::Rc::new(7);
    assert_eq!(tokio::task::spawn_local(async move { *shared }).await.unwrap(), 7);
}

#[pollwatch::test(threshold = "10s")]
async fn the_threshold_may_be_longer() {
    thread::sleep(Duration::from_millis(100));
}

#[pollwatch::test]
#[should_panic(expected = "its own panic")]
async fn a_panic_of_the_test_stays_its_own() {
    panic!("its own panic");
}

#[pollwatch::test]
async fn blocking_on_purpose_is_allowed() {
    pollwatch::allow_blocking("a fixture", || thread::sleep(Duration::from_millis(100)));
}

/// Tests that `macro_rules!` generates. Their names, arguments and bodies have the hygiene contexts
/// of the caller, and the rest has that of the macro.
macro_rules! generated_tests {
    ($simple:ident, $on_workers:ident($flavor:expr, $workers:literal, $threshold:literal) $body:block) => {
        #[pollwatch::test]
        async fn $simple() {
            tokio::task::yield_now().await;
        }

        #[pollwatch::test(flavor = $flavor, worker_threads = $workers, threshold = $threshold, name = "generated")]
        async fn $on_workers() $body
    };
}

generated_tests!(a_test_may_be_generated, a_test_may_be_generated_with_arguments("multi_thread", 2, "10s") {
    assert_eq!(tokio::runtime::Handle::current().metrics().num_workers(), 2);
});

/// The tests below fail. They are called by those that check how.
mod failing {
    use super::*;

    #[pollwatch::test]
    #[ignore = "it fails on purpose"]
    pub(crate) async fn blocks() {
        thread::sleep(Duration::from_millis(150));
    }

    #[pollwatch::test(flavor = "multi_thread", worker_threads = 1, threshold = "20ms")]
    #[ignore = "it fails on purpose"]
    pub(crate) async fn blocks_a_worker() {
        pollwatch::spawn(async { thread::sleep(Duration::from_millis(150)) }).await.unwrap();
    }

    #[pollwatch::test]
    #[ignore = "it fails on purpose"]
    pub(crate) async fn blocks_and_returns() -> Result<(), std::fmt::Error> {
        tokio::task::yield_now().await;
        thread::sleep(Duration::from_millis(150));
        Ok(())
    }
}

/// The number of attempts of which one has to fail. A block while the process is stopped or has no
/// CPU is excused.
const ATTEMPTS: usize = 10;

/// Returns the message with which a test fails.
fn failure<R>(test: impl Fn() -> R) -> String {
    let attempt = || {
        let payload = catch_unwind(AssertUnwindSafe(&test)).err()?;
        Some(payload.downcast_ref::<String>().expect("a text").clone())
    };
    (0..ATTEMPTS).find_map(|_| attempt()).expect("the test fails")
}

#[test]
fn a_test_that_blocks_fails_with_location_and_cause() {
    for text in [failure(failing::blocks), failure(failing::blocks_and_returns)] {
        assert!(text.contains("1 poll(s) blocked the event loop for 50ms or longer"), "{text}");
        assert!(text.contains("tests/macros/test_attribute.rs:"), "{text}");
        if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            assert!(text.contains("blocked in a sleep") && text.contains("advice: use tokio::time::sleep"), "{text}");
        }
    }
    let text = failure(failing::blocks_a_worker);
    assert!(text.contains("blocked the event loop for 20ms or longer"), "{text}");
}

/// Editors and people go to the line of the panic: it is the test's, not one of pollwatch.
#[test]
fn the_panic_has_the_line_of_the_test() {
    let this_program = std::env::current_exe().unwrap();
    let failed = (0..ATTEMPTS)
        .map(|_| {
            let mut test = std::process::Command::new(&this_program);
            test.args(["--ignored", "--exact", "--nocapture", "failing::blocks"]).output().unwrap()
        })
        .find(|output| !output.status.success())
        .expect("the test fails");
    let text = String::from_utf8_lossy(&failed.stderr);
    let panic = text.lines().find(|line| line.contains("panicked at")).expect(&text);
    assert!(panic.contains("tests/macros/test_attribute.rs:"), "{panic}");
}

#[pollwatch::test]
#[ignore = "it is called by the test below"]
async fn waits() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        tokio::task::yield_now().await;
    }
}

/// A test that blocks, and tests that do not, at the same time in one process.
#[test]
fn a_test_that_blocks_does_not_fail_its_neighbours() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let neighbours: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        waits();
                    }
                })
            })
            .collect();
        let text = failure(failing::blocks);
        stop.store(true, Ordering::Relaxed);
        assert!(text.contains("1 poll(s) blocked"), "{text}");
        neighbours.into_iter().for_each(|neighbour| neighbour.join().unwrap());
    });
}

//! Tests of `pollwatch::testing`, used as in a user's tests.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use pollwatch::testing::{Check, run};

fn blocks() {
    std::thread::sleep(Duration::from_millis(150));
}

/// The message with which a check fails, if it does.
fn text(check: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(check)).err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| payload.downcast_ref::<&str>().unwrap().to_string()))
}

/// The number of attempts of which one has to fail. A block while the process is stopped or has no
/// CPU is excused.
const ATTEMPTS: usize = 10;

/// The message with which a check fails.
fn failure(check: impl Fn()) -> String {
    (0..ATTEMPTS).find_map(|_| text(&check)).expect("the check fails")
}

#[test]
fn a_cooperative_test_passes_and_gives_its_output() {
    let output = run(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tokio::task::spawn_blocking(blocks).await.unwrap();
        tokio::task::yield_now().await;
        7
    });
    assert_eq!(output, 7);
}

#[test]
fn a_blocking_test_fails_with_location_and_cause() {
    let text = failure(|| run(async { blocks() }));
    assert!(text.contains("1 poll(s) blocked the event loop for 50ms or longer"), "{text}");
    assert!(text.contains("tests/it/testing.rs:"), "{text}");
    if cfg!(all(feature = "capture", target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        for part in [
            "blocked in a sleep",
            "testing::blocks (tests/it/testing.rs:",
            "advice: use tokio::time::sleep",
            "the whole stack",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
#[cfg(tokio_unstable)]
fn a_task_that_blocks_a_worker_fails_it() {
    let check = Check::new().worker_threads(2).limit(Duration::from_millis(30));
    let text = failure(|| check.clone().run(async { tokio::spawn(async { blocks() }).await.unwrap() }));
    assert!(text.contains("on worker"), "{text}");
}

#[test]
fn allowed_blocking_passes() {
    run(async { pollwatch::allow_blocking("a test", blocks) });
}

#[test]
fn a_failing_test_fails_with_its_own_message() {
    let text = failure(|| {
        run(async {
            blocks();
            panic!("my own assertion")
        })
    });
    assert_eq!(text, "my own assertion");
}

#[tokio::test]
async fn a_guard_checks_the_futures_that_it_wraps() {
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        let guard = Check::new().guard();
        guard.watch(async { tokio::task::yield_now().await }).await;
        guard.spawn(async { blocks() }).await.unwrap();
        failed = failed.or(text(move || drop(guard)));
        if failed.is_some() {
            break;
        }
    }
    let text = failed.expect("the check fails");
    assert!(text.contains("tests/it/testing.rs:"), "{text}");
    let guard = Check::new().guard();
    guard.spawn(tokio::task::yield_now()).await.unwrap();
}

thread_local! {
    /// The location of the latest panic of a thread.
    static LATEST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Lets each thread know where it has panicked.
fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            LATEST_PANIC.set(location.unwrap_or_default());
            previous(info);
        }));
    });
}

#[tokio::test]
async fn the_panic_of_finish_has_the_line_of_the_test() {
    record_panics();
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        let guard = Check::new().guard();
        guard.watch(async { blocks() }).await;
        failed = text(move || guard.finish()).map(|text| (text, line!()));
        if failed.is_some() {
            break;
        }
    }
    let (text, line) = failed.expect("the check fails");
    assert!(text.contains("blocked the event loop"), "{text}");
    assert_eq!(LATEST_PANIC.take(), format!("{}:{line}", file!()));
    let guard = Check::new().guard();
    guard.watch(tokio::task::yield_now()).await;
    guard.finish();
}

#[test]
fn an_invalid_limit_is_refused() {
    let text = failure(|| Check::new().limit(Duration::ZERO).run(async {}));
    assert!(text.contains("threshold"), "{text}");
}

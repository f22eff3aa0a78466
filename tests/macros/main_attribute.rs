//! Functions with `#[pollwatch::main]`, called from tests: several programs in one process.

use std::error::Error;
use std::process::{ExitCode, Termination};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::{FutureExt, Phase, Stall, Watchdog};
use test_support::wait_for;

/// Returns the first stall that is over.
fn resolved(watchdog: &Watchdog) -> Stall {
    wait_for("a stall", || watchdog.stalls().into_iter().find(|stall| stall.phase == Phase::Resolved))
}

/// Returns the names of runtimes, without those of other tests: a future that is watched on a
/// runtime without a watchdog attaches that runtime to the watchdog of a `main`.
fn names(watchdog: &Watchdog) -> Vec<String> {
    let snapshot = watchdog.snapshot();
    let names = snapshot.runtimes.iter().map(|runtime| runtime.name.to_string());
    names.filter(|name| name != "other" && !name.starts_with("runtime-")).collect()
}

#[pollwatch::main]
async fn by_default() -> Vec<String> {
    names(&pollwatch::current().unwrap())
}

#[pollwatch::main(name = "named", worker_threads = 3)]
async fn of_three_workers() -> (Vec<String>, usize) {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    (names(&pollwatch::current().unwrap()), workers)
}

#[test]
fn the_runtime_has_the_name_and_the_workers_of_the_arguments() {
    assert_eq!(by_default(), ["main"]);
    assert_eq!(of_three_workers(), (vec!["named".to_owned()], 3));
}

#[pollwatch::main]
async fn parses(text: &str) -> Result<u16, Box<dyn Error>> {
    let number = text.parse()?;
    tokio::task::yield_now().await;
    Ok(number)
}

#[pollwatch::main(flavor = "current_thread")]
async fn with_exit_code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[pollwatch::main(flavor = "current_thread")]
async fn terminates() -> impl Termination {
    tokio::task::yield_now().await;
    Ok::<(), std::fmt::Error>(())
}

#[pollwatch::main(flavor = "current_thread")]
#[allow(dead_code, reason = "it is only compiled")]
async fn never() -> ! {
    loop {
        tokio::task::yield_now().await;
    }
}

#[pollwatch::main]
async fn generic<T>(value: T) -> Option<T>
where
    T: Clone + Send + 'static,
{
    tokio::spawn(async move { value.clone() }).await.ok()
}

#[test]
fn functions_return_what_they_like() {
    assert_eq!(parses("7").unwrap(), 7);
    assert!(parses("seven").unwrap_err().to_string().contains("invalid digit"));
    assert_eq!(with_exit_code(0), ExitCode::SUCCESS);
    assert_eq!(terminates().report(), ExitCode::SUCCESS);
    assert_eq!(generic("it"), Some("it"));
}

#[pollwatch::main(flavor = "local")]
async fn on_a_local_runtime() -> u32 {
    let shared = std::rc::Rc::new(7);
    tokio::task::spawn_local(async move { *shared }).await.unwrap()
}

#[pollwatch::main(flavor = "current_thread", start_paused = true)]
async fn with_a_paused_clock() -> Duration {
    let start = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    start.elapsed()
}

#[test]
fn flavors_and_the_paused_clock_are_those_of_tokio() {
    assert_eq!(on_a_local_runtime(), 7);
    let start = Instant::now();
    assert!(with_a_paused_clock() >= Duration::from_secs(3600));
    assert!(start.elapsed() < Duration::from_secs(3600));
}

#[cfg(tokio_unstable)]
#[pollwatch::main(flavor = "current_thread", unhandled_panic = "shutdown_runtime")]
async fn shuts_down_at_a_panic() {
    drop(tokio::spawn(async { panic!("on purpose") }));
    std::future::pending().await
}

#[test]
#[cfg(tokio_unstable)]
#[should_panic(expected = "unhandled panic")]
fn an_unhandled_panic_shuts_the_runtime_down() {
    shuts_down_at_a_panic();
}

/// A function that `macro_rules!` generates, with the names of the expansion's own variables.
macro_rules! generated {
    ($function:ident, $paused:literal) => {
        #[pollwatch::main(flavor = "current_thread", start_paused = $paused, name = "generated")]
        async fn $function(builder: u8, body: u8) -> (Vec<String>, u8) {
            (names(&pollwatch::current().unwrap()), builder + body)
        }
    };
}

generated!(by_a_macro, true);

#[test]
fn a_function_may_be_generated() {
    assert_eq!(by_a_macro(3, 4), (vec!["generated".to_owned()], 7));
}

mod exported {
    pub(crate) use pollwatch as watch;
}

#[pollwatch::main(crate = "crate::exported::watch")]
async fn by_another_path() -> usize {
    names(&exported::watch::current().unwrap()).len()
}

#[test]
fn the_crate_may_have_another_path() {
    assert_eq!(by_another_path(), 1);
}

/// Each program blocks in a place of its own, and sees only its own stall.
#[pollwatch::main(flavor = "current_thread", threshold = "20ms")]
async fn root_that_blocks(together: &Barrier) -> Vec<Stall> {
    let watchdog = pollwatch::current().unwrap();
    together.wait();
    thread::sleep(Duration::from_millis(100));
    tokio::task::yield_now().await;
    tokio::task::spawn_blocking(move || {
        resolved(&watchdog);
        watchdog.stalls()
    })
    .await
    .unwrap()
}

#[pollwatch::main(threshold = "20ms", worker_threads = 1)]
async fn task_that_blocks(together: &Barrier) -> Vec<Stall> {
    let watchdog = pollwatch::current().unwrap();
    together.wait();
    pollwatch::spawn(async { thread::sleep(Duration::from_millis(100)) }).await.unwrap();
    tokio::task::spawn_blocking(move || {
        resolved(&watchdog);
        watchdog.stalls()
    })
    .await
    .unwrap()
}

#[test]
fn several_programs_in_one_process_are_watched_apart() {
    let together = Barrier::new(2);
    thread::scope(|scope| {
        let root = scope.spawn(|| root_that_blocks(&together));
        let task = scope.spawn(|| task_that_blocks(&together));
        let root = root.join().unwrap();
        let task = task.join().unwrap();
        for (stalls, function) in [(&root, "root_that_blocks"), (&task, "task_that_blocks")] {
            assert!(stalls.iter().any(|stall| stall.elapsed >= Duration::from_millis(100)), "{stalls:?}");
            let lines = lines_of(function);
            for stall in stalls {
                let line = stall.site.location().expect("a location").line() as usize;
                assert!(lines.contains(&line), "{function} {lines:?}: {stall}");
            }
        }
        // The site of the root is the function's name.
        let line = *lines_of("root_that_blocks").start() as u32;
        assert!(root.iter().any(|stall| stall.site.location().unwrap().line() == line), "{root:?}");
    });
}

/// Returns the lines of a function of this file.
fn lines_of(function: &str) -> std::ops::RangeInclusive<usize> {
    let mut lines = include_str!("main_attribute.rs").lines().enumerate();
    let (start, _) = lines.find(|(_, line)| line.contains(&format!("async fn {function}("))).unwrap();
    let (end, _) = lines.find(|(_, line)| *line == "}").unwrap();
    start + 1..=end + 1
}

#[pollwatch::main]
async fn asks_elsewhere() -> [bool; 3] {
    let elsewhere = |name: &'static str| {
        let found = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let inside = runtime.block_on(async { pollwatch::spawn(async { pollwatch::current().is_some() }).await });
            (pollwatch::current().is_some(), inside.unwrap(), name)
        });
        found.join().unwrap()
    };
    let (outside, inside, _) = tokio::task::spawn_blocking(move || elsewhere("a thread of its own")).await.unwrap();
    [outside, inside, async { pollwatch::current().is_some() }.watched().await]
}

#[pollwatch::main(flavor = "current_thread")]
async fn panics() {
    assert!(pollwatch::current().is_some());
    panic!("on purpose");
}

/// Other tests of this process may run a program at the same time, so that this needs a process of
/// its own to see none afterwards. Within a program there always is one.
#[test]
fn the_watchdog_serves_threads_that_no_other_watches() {
    assert_eq!(asks_elsewhere(), [true; 3]);
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!(asks_elsewhere(), [true; 3], "after a program that has panicked");
}

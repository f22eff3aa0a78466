//! Tests of the log about tasks: their panics, and the growth of their number. `outcome_counts`
//! tests how outcomes are counted.

use std::future::pending;
use std::panic::Location;

use pollwatch::Watchdog;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Level;

use crate::report::{Line, lines, log_to_lines};
use test_support::*;

fn logging() -> Watchdog {
    log_to_lines();
    // No stall is logged in these tests, only what concerns tasks.
    Watchdog::builder().threshold(THRESHOLD * 10).warn_above_alive_tasks(10).start().unwrap()
}

/// Spawns as `Watchdog::spawn` does, and returns the location of the caller.
#[track_caller]
fn spawn<F>(watchdog: &Watchdog, handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _guard = handle.enter();
    (watchdog.spawn(future), Location::caller().to_string())
}

fn task_lines(runtime: &str) -> Vec<Line> {
    lines(runtime).into_iter().filter(|line| line.target == "pollwatch::tasks").collect()
}

fn panics(runtime: &str) -> Vec<Line> {
    task_lines(runtime).into_iter().filter(|line| line.fields.contains_key("panic")).collect()
}

fn growths(runtime: &str) -> Vec<Line> {
    task_lines(runtime).into_iter().filter(|line| line.fields.contains_key("alive")).collect()
}

#[test]
fn a_panic_of_a_spawned_task_is_logged() {
    let watchdog = logging();
    for (name, builder) in flavours() {
        let name = &format!("{name} panics");
        let runtime = watchdog.build_runtime(name, builder).unwrap();
        let (task, location) = spawn(&watchdog, runtime.handle(), async {
            yields(3).await;
            assert_eq!(1 + 1, 3, "sums are wrong: {}", "x".repeat(1_000));
        });
        let id = task.id().to_string();
        let payload = runtime.block_on(task).unwrap_err().into_panic();
        let text = payload.downcast_ref::<String>().expect("the same payload as ever");
        assert!(text.contains("sums are wrong") && text.len() > 1_000);
        let line = wait_for("the panic is logged", || panics(name).pop());
        assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::tasks", Level::WARN, false));
        assert_eq!((&line.fields["site"], &line.fields["task"]), (&location, &id));
        let printed = &line.fields["panic"];
        assert!(printed.starts_with("assertion `left == right` failed: sums are wrong: xxx"), "{printed}");
        assert!(printed.ends_with("x…") && printed.len() < 500, "{printed}");
        let message = &line.fields["message"];
        assert!(message.contains(&location) && message.contains(printed) && !message.contains('\n'), "{message}");
        assert!(!line.fields.contains_key("suppressed"));
        let site = site_of(&watchdog, name, &location);
        assert_eq!((site.panicked, site.completed, site.cancelled), (1, 0, 0), "{name}");
    }
}

/// Other outcomes, panics outside of tasks, and panics of foreign tasks are not logged.
#[test]
fn nothing_else_is_logged_as_a_panic() {
    let watchdog = logging();
    let name = "no panics";
    let runtime = watchdog.build_runtime(name, multi_thread(2)).unwrap();
    let (aborted, _) = spawn(&watchdog, runtime.handle(), pending::<()>());
    let (completed, _) = spawn(&watchdog, runtime.handle(), yields(2));
    let (dropped, _) = spawn(&watchdog, runtime.handle(), yields(2));
    drop(dropped);
    // The owner of the future sees the panic and may continue.
    let (part, _) = watch_at(&watchdog, async { std::panic::panic_any(1) });
    let (with_part, _) = spawn_on(runtime.handle(), part);
    let (plain, _) = spawn_on(runtime.handle(), async { std::panic::panic_any(2) });
    runtime.block_on(async {
        yields(4).await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        completed.await.unwrap();
        assert!(with_part.await.unwrap_err().is_panic() && plain.await.unwrap_err().is_panic());
    });
    // Lines are logged in order, so this one is the first and the last.
    let (last, location) = spawn(&watchdog, runtime.handle(), async { std::panic::panic_any(7_u32) });
    let payload = runtime.block_on(last).unwrap_err().into_panic();
    assert_eq!(payload.downcast_ref::<u32>(), Some(&7), "the payload is unchanged");
    let task_lines =
        wait_for("the last one is logged", || Some(panics(name)).filter(|task_lines| !task_lines.is_empty()));
    assert_eq!(task_lines.len(), 1, "{task_lines:#?}");
    assert_eq!(
        (&task_lines[0].fields["site"], task_lines[0].fields["panic"].as_str()),
        (&location, "(a payload that is no text)")
    );
}

/// A site that panics all the time does not flood the log, and the count is complete.
#[test]
fn panics_of_one_site_are_rate_limited() {
    const PANICS: usize = 60;
    let watchdog = logging();
    let name = "many panics";
    let runtime = watchdog.build_runtime(name, multi_thread(2)).unwrap();
    let mut location = String::new();
    runtime.block_on(async {
        for _ in 0..PANICS {
            let (task, at) =
                spawn(&watchdog, &Handle::current(), async { std::panic::resume_unwind(Box::new("again")) });
            location = at;
            task.await.unwrap_err();
        }
    });
    let left_out = || watchdog.snapshot().watchdog.reports_suppressed as usize;
    wait_until("all are logged or left out", || panics(name).len() + left_out() == PANICS);
    assert!(panics(name).len() >= 5 && left_out() > 0, "{:#?}", panics(name));
    assert!(panics(name).iter().all(|line| line.fields["site"] == location && line.fields["panic"] == "again"));
    assert_eq!(site_of(&watchdog, name, &location).panicked, PANICS as u64);
    assert_eq!(watchdog.snapshot().watchdog.reports_lost, 0);
}

/// The watchdog sleeps when nothing was polled for a second, and a panic wakes it.
#[test]
fn a_panic_wakes_an_idle_watchdog() {
    let watchdog = logging();
    let name = "idle, then panics";
    let runtime = watchdog.build_runtime(name, current_thread()).unwrap();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    // The watchdog never sleeps for long without the system call for it; then this test is like the
    // others.
    let mut before = wakeups();
    if watchdog.coverage().exact_wakeup {
        wait_until("the watchdog sleeps", || {
            block(THRESHOLD * 20);
            std::mem::replace(&mut before, wakeups()) == before
        });
    }
    let (task, location) = spawn(&watchdog, runtime.handle(), async { std::panic::resume_unwind(Box::new("late")) });
    assert!(runtime.block_on(task).unwrap_err().is_panic());
    let line = wait_for("the panic is logged", || panics(name).pop());
    assert_eq!((&line.fields["site"], line.fields["panic"].as_str()), (&location, "late"));
}

/// The shutdown of the watchdog logs the panics that have not been logged.
#[test]
fn a_shutdown_logs_pending_panics() {
    let watchdog = logging();
    let name = "stopped";
    let runtime = watchdog.build_runtime(name, current_thread()).unwrap();
    let (task, location) =
        spawn(&watchdog, runtime.handle(), async { std::panic::resume_unwind(Box::new("last words")) });
    runtime.block_on(task).unwrap_err();
    for _ in 0..11 {
        spawn(&watchdog, runtime.handle(), pending::<()>());
    }
    watchdog.shutdown();
    wait_until("both are logged", || panics(name).len() == 1 && growths(name).len() == 1);
    assert_eq!(panics(name)[0].fields["site"], location);
}

/// The number of tasks is known in both modes: by the hooks, or else by `Watchdog::spawn`.
#[test]
fn a_site_whose_tasks_grow_is_logged_at_each_doubling() {
    let watchdog = logging();
    log_to_lines();
    let generous = Watchdog::builder().threshold(THRESHOLD * 10).warn_above_alive_tasks(u64::MAX).start().unwrap();
    for (name, new_builder) in FLAVOURS {
        let name = &format!("{name} grows");
        let runtime = watchdog.build_runtime(name, new_builder()).unwrap();
        let unlimited = format!("{name} without a limit");
        let other = generous.build_runtime(&unlimited, new_builder()).unwrap();
        let mut tasks = Vec::new();
        let mut location = String::new();
        let mut grow_to = |n: usize| {
            while tasks.len() < n {
                let (task, at) = spawn_measured(&watchdog, runtime.handle(), pending::<()>());
                tasks.push(task);
                location = at;
                spawn_measured(&generous, other.handle(), pending::<()>());
            }
            for runtime in [&runtime, &other] {
                runtime.block_on(watchdog.watch(yields(1)));
            }
            location.clone()
        };
        // These are few for their site, and most tasks of the runtime: all sites are checked, and
        // nothing is found.
        let elsewhere: Vec<_> = (0..9).map(|_| spawn_measured(&watchdog, runtime.handle(), pending::<()>())).collect();
        grow_to(10);
        assert!(growths(name).is_empty());
        let location = grow_to(11);
        let line = wait_for("the growth is logged past the limit", || growths(name).pop());
        assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::tasks", Level::WARN, false));
        assert_eq!(
            (&line.fields["site"], &line.fields["alive"], &line.fields["limit"]),
            (&location, &"11".into(), &"10".into())
        );
        assert!(line.fields["message"].contains(&location), "{line:?}");
        grow_to(19);
        grow_to(45);
        let line = wait_for("the growth is logged at the doubling", || growths(name).into_iter().nth(1));
        let alive: u64 = line.fields["alive"].parse().unwrap();
        assert!((20..=45).contains(&alive), "{line:?}");
        assert!(growths(&unlimited).is_empty() && elsewhere.len() == 9);
        assert!(growths(name).iter().all(|line| line.fields["site"] == location));
        drop((runtime, other));
    }
}

/// Prometheus sees no increase in a series that starts at 1, so outcomes start at 0 when the first
/// future is polled.
#[test]
fn outcome_series_exist_before_the_first_outcome() {
    let watchdog = logging();
    let name = "outcomes at 0";
    let runtime = watchdog.build_runtime(name, current_thread()).unwrap();
    let (task, location) = spawn(&watchdog, runtime.handle(), pending::<()>());
    let (plain, hooked) = spawn_on(runtime.handle(), pending::<()>());
    runtime.block_on(yields(1));
    let metrics = Metrics::parse(&watchdog.metrics_text());
    let site = site_of(&watchdog, name, &location).site.to_string();
    for outcome in ["completed", "cancelled", "panicked"] {
        let family = format!("pollwatch_tasks_{outcome}_total");
        assert_eq!(metrics.find(&family, &[("runtime", name), ("site", &site)]), Some(0.0), "{family}");
        assert_eq!(metrics.find(&family, &[("runtime", name), ("site", &hooked)]), None, "hooks report no outcomes");
    }
    drop((task, plain));
}

//! What becomes of tasks: what is told of their panics and of their growth. How they are counted is in `outcomes`.

use std::future::pending;
use std::panic::Location;

use pollwatch::Watchdog;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::Level;

use crate::report::{Line, lines, log_to_lines};
use crate::support::*;

fn logging() -> Watchdog {
    log_to_lines();
    // No stall of these tests is to be told: nothing but their tasks.
    Watchdog::builder().threshold(THRESHOLD * 10).warn_above_alive_tasks(10).start().unwrap()
}

/// As `Watchdog::spawn`, with the place that it knows.
#[track_caller]
fn spawn<F>(watchdog: &Watchdog, handle: &Handle, future: F) -> (JoinHandle<F::Output>, String)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _guard = handle.enter();
    (watchdog.spawn(future), Location::caller().to_string())
}

fn told(runtime: &str) -> Vec<Line> {
    lines(runtime).into_iter().filter(|line| line.target == "pollwatch::tasks").collect()
}

fn panics(runtime: &str) -> Vec<Line> {
    told(runtime).into_iter().filter(|line| line.fields.contains_key("panic")).collect()
}

fn growths(runtime: &str) -> Vec<Line> {
    told(runtime).into_iter().filter(|line| line.fields.contains_key("alive")).collect()
}

#[test]
fn a_panic_of_a_spawned_task_is_told() {
    let watchdog = logging();
    for (name, mut builder) in flavours() {
        let name = &format!("{name} panics");
        let runtime = watchdog.build_runtime(name, &mut builder).unwrap();
        let (task, place) = spawn(&watchdog, runtime.handle(), async {
            yields(3).await;
            assert_eq!(1 + 1, 3, "sums are wrong: {}", "x".repeat(1_000));
        });
        let id = task.id().to_string();
        let payload = runtime.block_on(task).unwrap_err().into_panic();
        let text = payload.downcast_ref::<String>().expect("the same payload as ever");
        assert!(text.contains("sums are wrong") && text.len() > 1_000);
        let line = wait_for("the panic is told", || panics(name).pop());
        assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::tasks", Level::WARN, false));
        assert_eq!((&line.fields["site"], &line.fields["task"]), (&place, &id));
        let said = &line.fields["panic"];
        assert!(said.starts_with("assertion `left == right` failed: sums are wrong: xxx"), "{said}");
        assert!(said.ends_with("x…") && said.len() < 500, "{said}");
        let message = &line.fields["message"];
        assert!(message.contains(&place) && message.contains(said) && !message.contains('\n'), "{message}");
        assert!(!line.fields.contains_key("suppressed"));
        let site = site_of(&watchdog, name, &place);
        assert_eq!((site.panicked, site.completed, site.cancelled), (1, 0, 0), "{name}");
    }
}

/// Those that end otherwise, are not tasks, or are somebody else's are not told.
#[test]
fn nothing_else_is_told_as_a_panic() {
    let watchdog = logging();
    let name = "no panics";
    let runtime = watchdog.build_runtime(name, &mut multi_thread(2)).unwrap();
    let (aborted, _) = spawn(&watchdog, runtime.handle(), pending::<()>());
    let (completed, _) = spawn(&watchdog, runtime.handle(), yields(2));
    let (dropped, _) = spawn(&watchdog, runtime.handle(), yields(2));
    drop(dropped);
    // Its owner sees it, and may go on from there.
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
    // What is told comes in order: this one is the first and the last.
    let (last, place) = spawn(&watchdog, runtime.handle(), async { std::panic::panic_any(7_u32) });
    let payload = runtime.block_on(last).unwrap_err().into_panic();
    assert_eq!(payload.downcast_ref::<u32>(), Some(&7), "it went on as it was");
    let told = wait_for("the last one is told", || Some(panics(name)).filter(|told| !told.is_empty()));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!((&told[0].fields["site"], told[0].fields["panic"].as_str()), (&place, "(a payload that is no text)"));
}

/// A place that panics all the time does not flood the log, and nothing is lost from the count.
#[test]
fn panics_of_one_place_are_limited() {
    const PANICS: usize = 60;
    let watchdog = logging();
    let name = "many panics";
    let runtime = watchdog.build_runtime(name, &mut multi_thread(2)).unwrap();
    let mut place = String::new();
    runtime.block_on(async {
        for _ in 0..PANICS {
            let (task, at) =
                spawn(&watchdog, &Handle::current(), async { std::panic::resume_unwind(Box::new("again")) });
            place = at;
            task.await.unwrap_err();
        }
    });
    let left_out = || watchdog.snapshot().watchdog.reports_suppressed as usize;
    wait_until("all are told or left out", || panics(name).len() + left_out() == PANICS);
    assert!(panics(name).len() >= 5 && left_out() > 0, "{:#?}", panics(name));
    assert!(panics(name).iter().all(|line| line.fields["site"] == place && line.fields["panic"] == "again"));
    assert_eq!(site_of(&watchdog, name, &place).panicked, PANICS as u64);
    assert_eq!(watchdog.snapshot().watchdog.reports_lost, 0);
}

/// The watchdog sleeps when nothing has been polled for a second, and is woken.
#[test]
fn a_panic_is_told_after_an_idle_time() {
    let watchdog = logging();
    let name = "idle, then panics";
    let runtime = watchdog.build_runtime(name, &mut current_thread()).unwrap();
    let wakeups = || watchdog.snapshot().watchdog.wakeups;
    // Without the system call that lets it sleep for long, it never does; then this is as the other tests.
    let mut before = wakeups();
    if watchdog.coverage().exact_wakeup {
        wait_until("the watchdog sleeps", || {
            block(THRESHOLD * 20);
            std::mem::replace(&mut before, wakeups()) == before
        });
    }
    let (task, place) = spawn(&watchdog, runtime.handle(), async { std::panic::resume_unwind(Box::new("late")) });
    assert!(runtime.block_on(task).unwrap_err().is_panic());
    let line = wait_for("the panic is told", || panics(name).pop());
    assert_eq!((&line.fields["site"], line.fields["panic"].as_str()), (&place, "late"));
}

/// What has not been told when the watchdog is stopped is told then.
#[test]
fn a_stop_tells_what_is_left() {
    let watchdog = logging();
    let name = "stopped";
    let runtime = watchdog.build_runtime(name, &mut current_thread()).unwrap();
    let (task, place) = spawn(&watchdog, runtime.handle(), async { std::panic::resume_unwind(Box::new("last words")) });
    runtime.block_on(task).unwrap_err();
    for _ in 0..11 {
        spawn(&watchdog, runtime.handle(), pending::<()>());
    }
    watchdog.shutdown();
    wait_until("both are told", || panics(name).len() == 1 && growths(name).len() == 1);
    assert_eq!(panics(name)[0].fields["site"], place);
}

/// In either mode: by the hooks where there are any, else by `Watchdog::spawn`.
#[test]
fn a_place_whose_tasks_grow_is_told_at_each_doubling() {
    let watchdog = logging();
    log_to_lines();
    let generous = Watchdog::builder().threshold(THRESHOLD * 10).warn_above_alive_tasks(u64::MAX).start().unwrap();
    for (name, mut builder) in flavours() {
        let name = &format!("{name} grows");
        let runtime = watchdog.build_runtime(name, &mut builder).unwrap();
        let unlimited = format!("{name} without a limit");
        let other = generous.build_runtime(&unlimited, &mut builder).unwrap();
        let mut tasks = Vec::new();
        let mut place = String::new();
        let mut grow_to = |n: usize| {
            while tasks.len() < n {
                let (task, at) = spawn_seen(&watchdog, runtime.handle(), pending::<()>());
                tasks.push(task);
                place = at;
                spawn_seen(&generous, other.handle(), pending::<()>());
            }
            for runtime in [&runtime, &other] {
                runtime.block_on(watchdog.watch(yields(1)));
            }
            place.clone()
        };
        // Few for their place, and most tasks of the runtime: places are gone through, and nothing is found.
        let elsewhere: Vec<_> = (0..9).map(|_| spawn_seen(&watchdog, runtime.handle(), pending::<()>())).collect();
        grow_to(10);
        assert!(growths(name).is_empty());
        let place = grow_to(11);
        let line = wait_for("it is told past the limit", || growths(name).pop());
        assert_eq!((line.target.as_str(), line.level, line.in_span), ("pollwatch::tasks", Level::WARN, false));
        assert_eq!(
            (&line.fields["site"], &line.fields["alive"], &line.fields["limit"]),
            (&place, &"11".into(), &"10".into())
        );
        assert!(line.fields["message"].contains(&place), "{line:?}");
        grow_to(19);
        grow_to(45);
        let line = wait_for("it is told at the doubling", || growths(name).into_iter().nth(1));
        let alive: u64 = line.fields["alive"].parse().unwrap();
        assert!((20..=45).contains(&alive), "{line:?}");
        assert!(growths(&unlimited).is_empty() && elsewhere.len() == 9);
        assert!(growths(name).iter().all(|line| line.fields["site"] == place));
        drop((runtime, other));
    }
}

/// To Prometheus, a series that begins at 1 did not increase: outcomes begin at 0, when the first future is polled.
#[test]
fn outcomes_exist_before_the_first() {
    let watchdog = logging();
    let name = "outcomes at 0";
    let runtime = watchdog.build_runtime(name, &mut current_thread()).unwrap();
    let (task, place) = spawn(&watchdog, runtime.handle(), pending::<()>());
    let (plain, hooked) = spawn_on(runtime.handle(), pending::<()>());
    runtime.block_on(yields(1));
    let metrics = Metrics::parse(&watchdog.metrics_text());
    let site = site_of(&watchdog, name, &place).site.to_string();
    for outcome in ["completed", "cancelled", "panicked"] {
        let family = format!("pollwatch_tasks_{outcome}_total");
        assert_eq!(metrics.find(&family, &[("runtime", name), ("site", &site)]), Some(0.0), "{family}");
        assert_eq!(metrics.find(&family, &[("runtime", name), ("site", &hooked)]), None, "hooks tell none");
    }
    drop((task, plain));
}

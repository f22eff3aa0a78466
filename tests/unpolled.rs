//! How long the tasks of a site have waited for a poll (`tokio_unstable`).
#![cfg(all(tokio_unstable, not(pollwatch_loom)))]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use test_support::*;

/// The moments of the clock are kept in units of at most a millisecond.
const RESOLUTION: Duration = Duration::from_millis(3);

fn start_tracking() -> Watchdog {
    start_with(Watchdog::builder().threshold(THRESHOLD).log(false).track_unpolled(true)).0
}

/// Two tasks wait for each other's message, and a third one works now and then.
#[test]
fn tasks_that_wait_for_each_other_stand_out() {
    let watchdog = start_tracking();
    let runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    let (to_second, first_receives) = tokio::sync::oneshot::channel::<()>();
    let (to_first, second_receives) = tokio::sync::oneshot::channel::<()>();
    let last_poll = Arc::new(Mutex::new(Instant::now()));
    let polled = last_poll.clone();
    let wait_first = async move {
        *lock(&polled) = Instant::now();
        let _ = second_receives.await;
        let _ = to_second.send(());
    };
    let wait_second = async move {
        let _ = first_receives.await;
        let _ = to_first.send(());
    };
    let work = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let handle = runtime.handle();
    let (first, deadlocked) = spawn_on(handle, wait_first);
    let (second, _) = spawn_on(handle, wait_second);
    let (worker, working) = spawn_on(handle, work);
    let unpolled = |site: &str| site_of(&watchdog, "main", site).unpolled;
    let enough = Duration::from_millis(300);
    let longest = wait_for("a task that is not polled", || unpolled(&deadlocked).filter(|longest| *longest >= enough));
    let truth = lock(&last_poll).elapsed();
    assert!(longest <= truth + RESOLUTION, "{longest:?}, the task itself measured {truth:?}");
    let later = unpolled(&deadlocked).unwrap();
    assert!(later + RESOLUTION >= longest, "{later:?} after {longest:?}");
    // On a busy machine the other task may wait for some time, but not as long at each look.
    wait_until("a task that works is polled", || unpolled(&working).is_some_and(|longest| longest < enough));
    let tasks = [first, second, worker];
    tasks.iter().for_each(|task| task.abort());
    // The end of the first task ends the second.
    tasks.into_iter().for_each(|task| drop(runtime.block_on(task)));
    wait_until("no task is alive", || unpolled(&deadlocked).is_none() && unpolled(&working).is_none());
    assert_eq!(watchdog.coverage().untracked_tasks, 0);
}

/// A task that is being polled waits for none, and one that was never polled waits since its spawn.
#[test]
fn a_task_in_a_long_poll_does_not_wait() {
    let watchdog = start_tracking();
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let (gate, (entered, is_entered)) = (Gate::new(), std::sync::mpsc::channel());
    let key = gate.key();
    let (blocks, blocking) = spawn_on(runtime.handle(), async move {
        entered.send(()).unwrap();
        key.pass()
    });
    is_entered.recv_timeout(TIMEOUT).unwrap();
    let spawned = Instant::now();
    let (waits, waiting) = spawn_on(runtime.handle(), async {});
    let waited = wait_for("a task that waits for its first poll", || {
        // The counters of the site are made at the spawn.
        let site = find_site(&watchdog.snapshot(), "main", &waiting)?;
        site.unpolled.filter(|longest| *longest >= 2 * THRESHOLD)
    });
    assert!(waited <= spawned.elapsed() + RESOLUTION);
    assert_eq!(site_of(&watchdog, "main", &blocking).unpolled, None);
    gate.open();
    assert!(runtime.block_on(blocks).unwrap());
    runtime.block_on(waits).unwrap();
    wait_until("no task is alive", || site_of(&watchdog, "main", &waiting).unpolled.is_none());
}

#[test]
fn nothing_is_tracked_unless_it_was_asked_for() {
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let (task, site) = spawn_on(runtime.handle(), std::future::pending::<()>());
    wait_until("the task is polled", || polls(&watchdog, "main") > 0);
    assert_eq!(site_of(&watchdog, "main", &site).unpolled, None);
    assert!(!watchdog.metrics_text().contains("site_unpolled"));
    task.abort();
}

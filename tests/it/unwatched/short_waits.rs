//! Workers that wait in a loop of short waits: a lock with a timeout, a `recv_timeout`.

use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use pollwatch::{Cause, Certainty};
use tokio::sync::Notify;

use super::{build, observed};
use test_support::*;

/// The length of each wait, half of the threshold.
const WAIT: Duration = Duration::from_millis(5);
/// The length of the polls that are short. 244 of them take longer than 122 thresholds.
const SHORT_POLL: Duration = Duration::from_millis(6);
/// The time for which the loop waits. The stall is observed after 244 thresholds.
const LOOP: Duration = Duration::from_millis(2_900);

fn assert_observed(wait: impl Fn() + Clone + Send + 'static) {
    undisturbed(|| {
        let (watchdog, collected) = start(WAIT * 2);
        let runtime = build(&watchdog, 2);
        let wait = wait.clone();
        let task = runtime.spawn(async move {
            let started = Instant::now();
            while started.elapsed() < LOOP {
                wait();
            }
            started.elapsed()
        });
        let blocked = runtime.block_on(task).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        let Some(stall) = observed(&stalls).last().copied().cloned() else { return Err(format!("{stalls:?}")) };
        assert_eq!(stall.certainty, Certainty::Observed, "{stall}");
        assert!(stall.elapsed >= LOOP / 2 && stall.elapsed <= blocked, "{blocked:?}: {stall}");
        if stall.cause == Cause::Lock { Ok(()) } else { Err(stall.to_string()) }
    });
}

#[test]
fn a_loop_of_receives_with_a_timeout_is_observed() {
    assert_observed(|| {
        let (_send, receive) = mpsc::channel::<()>();
        assert!(receive.recv_timeout(WAIT).is_err());
    });
}

#[test]
fn a_loop_of_waits_on_a_condvar_is_observed() {
    assert_observed(|| {
        let (condvar, mutex) = (Condvar::new(), Mutex::new(()));
        drop(condvar.wait_timeout(lock(&mutex), WAIT));
    });
}

/// Two tasks that wake one another are polled four times in a tick of the worker, so that it is
/// long until tokio publishes its figures again. Each poll is short.
#[test]
fn tasks_that_wake_one_another_in_short_polls_are_not_observed() {
    undisturbed(|| {
        let (watchdog, collected) = start(WAIT * 2);
        let runtime = build(&watchdog, 1);
        let started = Instant::now();
        let baton = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let tasks = [0, 1].map(|own| {
            let (mine, other) = (baton[own].clone(), baton[1 - own].clone());
            runtime.spawn(async move {
                let mut longest = Duration::ZERO;
                while started.elapsed() < LOOP {
                    mine.notified().await;
                    let poll = Instant::now();
                    std::thread::sleep(SHORT_POLL);
                    longest = longest.max(poll.elapsed());
                    other.notify_one();
                }
                other.notify_one();
                longest
            })
        });
        baton[0].notify_one();
        let longest = tasks.map(|task| runtime.block_on(task).unwrap()).into_iter().max().unwrap_or_default();
        let stalls = reported_so_far(&watchdog, &collected);
        if let Some(stall) = observed(&stalls).first() {
            // On a busy machine a poll may be long.
            assert!(longest >= WAIT * 2, "{stall}");
            return Err(format!("a poll took {longest:?}: {stall}"));
        }
        if stalls.is_empty() { Err("not even suspected".into()) } else { Ok(()) }
    });
}

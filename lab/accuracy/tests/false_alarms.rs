//! Loads in which other detectors raise false alarms. A report is right here only for a poll that
//! lasted for the threshold because it was given no CPU.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::{ATTEMPTS, THRESHOLD, exclusive};
use crate::suite::fixture::{Fixture, Outcome};
use crate::suite::ground_truth::{Block, Span, now};
use crate::suite::kinds::{Kind, compute};
use crate::suite::matching::match_up;
use crate::suite::modes::{Mode, run_watched};
use crate::suite::overload::Overload;
use crate::suite::poll_recorder::{record_block, record_block_in_place};

/// Asserts that a load that does not block raises no alarm, in all modes but those of four workers.
fn assert_no_alarm(load: impl Fn(&Arc<Fixture>)) {
    let _exclusive = exclusive();
    for mode in Mode::measured().filter(|mode| mode.workers() <= 2) {
        let blames = |_: usize| blames_a_task(mode, &load);
        assert!(!(0..ATTEMPTS).all(blames), "{}: a task is blamed in every attempt", mode.name());
    }
}

/// Returns true if a report blames a task that was merely given no CPU.
fn blames_a_task(mode: Mode, load: &impl Fn(&Arc<Fixture>)) -> bool {
    let (guarantee, Outcome { polls, counted, recorded, reported, .. }, _) = run_watched(mode, THRESHOLD, load);
    assert!(polls > 0, "{}: no poll was measured", mode.name());
    let overload = Overload::new(&guarantee, &recorded, &reported);
    overload.faults.iter().for_each(|fault| eprintln!("{fault}"));
    assert_eq!(overload.wrong, 0, "{}: {:#?}\n{recorded:#?}", mode.name(), overload.faults);
    assert_eq!(counted, reported.len() as u64, "{}", mode.name());
    // No task may be blamed for a poll that would have been short without its run delay.
    overload.blamed > 0
}

/// Spawns tasks, and returns when they are gone.
fn all<F: Future<Output = ()> + Send + 'static>(fixture: &Fixture, tasks: impl Iterator<Item = F>) {
    let (done, are_done) = mpsc::channel::<()>();
    for task in tasks {
        let done = done.clone();
        fixture.spawn(false, async move {
            let _done = done;
            task.await;
        });
    }
    drop(done);
    let _ = are_done.recv();
}

#[test]
fn two_thousand_tasks_of_half_a_millisecond() {
    assert_no_alarm(|fixture| {
        all(
            fixture,
            (0..2_000).map(|_| async {
                compute(Duration::from_micros(500));
            }),
        )
    });
}

#[test]
fn a_second_of_short_spins_that_yield() {
    let spins = || async {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            compute(Duration::from_micros(200));
            yield_now().await;
        }
    };
    assert_no_alarm(|fixture| all(fixture, std::iter::once(spins())));
}

#[test]
fn many_polls_of_two_milliseconds() {
    let naps = || async {
        for _ in 0..100 {
            // Recorded, since the machine may make the sleep longer than the threshold.
            let start = now();
            std::thread::sleep(Duration::from_millis(2));
            record_block(Block { kind: Kind::Sleeps, inner: Span { start, end: now() }, waited: 0, request: None });
            yield_now().await;
        }
    };
    assert_no_alarm(|fixture| all(fixture, (0..4).map(|_| naps())));
}

/// Runs bursts of blocking work and of `block_in_place`. Between them the idle threads end.
#[test]
fn a_thread_pool_that_shrinks() {
    assert_no_alarm(|fixture| {
        let threads = || std::fs::read_dir("/proc/self/task").expect("proc is mounted").count();
        let in_place = fixture.mode.uses_block_in_place();
        for _ in 0..3 {
            let before = threads();
            all(
                fixture,
                (0..20).map(|_| async move {
                    let nap = || std::thread::sleep(THRESHOLD / 2);
                    let _ = tokio::task::spawn_blocking(nap).await;
                    if in_place {
                        record_block_in_place();
                        tokio::task::block_in_place(|| std::thread::sleep(THRESHOLD * 2));
                    }
                }),
            );
            let start = Instant::now();
            while threads() > before && start.elapsed() < Duration::from_secs(20) {
                all(fixture, std::iter::once(yield_now()));
            }
            assert!(threads() <= before, "the pool shrinks");
        }
    });
}

/// Shuts the runtime down during blocks. Short blocks are not reported, and long ones are reported
/// once, to their end.
#[test]
fn a_runtime_that_shuts_down_in_mid_block() {
    let _exclusive = exclusive();
    for mode in Mode::measured().filter(|mode| mode.workers() <= 2) {
        for share in [0.5, 3.0] {
            let blocks = |fixture: &Arc<Fixture>| {
                let (starts, started) = mpsc::channel();
                for _ in 0..mode.workers() {
                    let starts = starts.clone();
                    fixture.spawn(false, async move {
                        let start = now();
                        let _ = starts.send(());
                        std::thread::sleep(THRESHOLD.mul_f64(share));
                        record_block(Block {
                            kind: Kind::Sleeps,
                            inner: Span { start, end: now() },
                            waited: 0,
                            request: None,
                        });
                    });
                }
                for _ in 0..mode.workers() {
                    started.recv().expect("the block starts");
                }
            };
            let (guarantee, Outcome { recorded, reported, .. }, cpu) = run_watched(mode, THRESHOLD, blocks);
            let mut matching = match_up(&guarantee, &recorded, &reported);
            matching.missed.retain(|i| !guarantee.excuses(&recorded[*i], &cpu));
            let context = format!("{}, {share}: {reported:#?} {recorded:#?}", mode.name());
            assert!(matching.wrong.is_empty() && matching.duplicates.is_empty(), "{context}");
            assert!(matching.missed.is_empty(), "{context}");
            assert!(reported.iter().all(|reported| !reported.last().ongoing), "{context}");
            let asleep: Vec<_> = recorded.iter().filter(|poll| !poll.blocks.is_empty()).collect();
            assert_eq!(asleep.len(), mode.workers(), "each block ended by itself: {context}");
        }
    }
}

//! The false alarms that others raise. What is told here has to be of a poll that was in ground_truth as long as the threshold, since the
//! machine kept it from a CPU; where none was, nothing is told.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::{ATTEMPTS, THRESHOLD, alone, measured};
use crate::suite::fixture::{Outcome, Scene};
use crate::suite::ground_truth::{Block, Span, now};
use crate::suite::kinds::{Kind, computes};
use crate::suite::matching::match_up;
use crate::suite::modes::{Mode, while_it_is_watched};
use crate::suite::overload::Overload;
use crate::suite::poll_recorder::{note, note_in_place};

/// Runs something that blocks nobody, in all modes but those of four workers.
fn silent(load: impl Fn(&Arc<Scene>)) {
    let _alone = alone();
    for mode in measured().filter(|mode| mode.workers() <= 2) {
        let blames = |_: usize| attempt(mode, &load);
        assert!(!(0..ATTEMPTS).all(blames), "{}: somebody is blamed each time", mode.name());
    }
}

/// Whether somebody is blamed who was only given no CPU.
fn attempt(mode: Mode, load: &impl Fn(&Arc<Scene>)) -> bool {
    let (promise, Outcome { polls, counted, journal, told, .. }, _) = while_it_is_watched(mode, THRESHOLD, load);
    assert!(polls > 0, "{}: it was watched", mode.name());
    let overload = Overload::new(&promise, &journal, &told);
    overload.faults.iter().for_each(|fault| eprintln!("{fault}"));
    assert_eq!(overload.wrong, 0, "{}: {:#?}\n{journal:#?}", mode.name(), overload.faults);
    assert_eq!(counted, told.len() as u64, "{}", mode.name());
    // What would have been short, had it been given a CPU, is held against nobody.
    overload.blamed > 0
}

/// Spawns tasks, and returns when they are gone.
fn all<F: Future<Output = ()> + Send + 'static>(scene: &Scene, tasks: impl Iterator<Item = F>) {
    let (done, are_done) = mpsc::channel::<()>();
    for task in tasks {
        let done = done.clone();
        scene.spawn(false, async move {
            let _done = done;
            task.await;
        });
    }
    drop(done);
    let _ = are_done.recv();
}

#[test]
fn two_thousand_tasks_of_half_a_millisecond() {
    silent(|scene| {
        all(
            scene,
            (0..2_000).map(|_| async {
                computes(Duration::from_micros(500));
            }),
        )
    });
}

#[test]
fn a_second_of_short_spins_that_yield() {
    let spins = || async {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            computes(Duration::from_micros(200));
            yield_now().await;
        }
    };
    silent(|scene| all(scene, std::iter::once(spins())));
}

#[test]
fn many_polls_of_two_milliseconds() {
    let naps = || async {
        for _ in 0..100 {
            // Written down: should the machine make it long, it is a poll that slept.
            let begin = now();
            std::thread::sleep(Duration::from_millis(2));
            note(Block { kind: Kind::Sleeps, inner: Span { begin, end: now() }, waited: 0, request: None });
            yield_now().await;
        }
    };
    silent(|scene| all(scene, (0..4).map(|_| naps())));
}

/// Bursts of blocking work, and of workers that are handed on; in between all threads that are not needed end.
#[test]
fn a_thread_pool_that_shrinks() {
    silent(|scene| {
        let threads = || std::fs::read_dir("/proc/self/task").expect("proc is mounted").count();
        let in_place = scene.mode.hands_workers_on();
        for _ in 0..3 {
            let before = threads();
            all(
                scene,
                (0..20).map(|_| async move {
                    let nap = || std::thread::sleep(THRESHOLD / 2);
                    let _ = tokio::task::spawn_blocking(nap).await;
                    if in_place {
                        note_in_place();
                        tokio::task::block_in_place(|| std::thread::sleep(THRESHOLD * 2));
                    }
                }),
            );
            let begin = Instant::now();
            while threads() > before && begin.elapsed() < Duration::from_secs(20) {
                all(scene, std::iter::once(yield_now()));
            }
            assert!(threads() <= before, "the pool shrinks");
        }
    });
}

/// The runtime is shut down while blocks of it go on: those that are short stay so, and the others are told once, to their ends.
#[test]
fn a_runtime_that_shuts_down_in_mid_block() {
    let _alone = alone();
    for mode in measured().filter(|mode| mode.workers() <= 2) {
        for share in [0.5, 3.0] {
            let blocks = |scene: &Arc<Scene>| {
                let (begun, has_begun) = mpsc::channel();
                for _ in 0..mode.workers() {
                    let begun = begun.clone();
                    scene.spawn(false, async move {
                        let begin = now();
                        let _ = begun.send(());
                        std::thread::sleep(THRESHOLD.mul_f64(share));
                        note(Block { kind: Kind::Sleeps, inner: Span { begin, end: now() }, waited: 0, request: None });
                    });
                }
                for _ in 0..mode.workers() {
                    has_begun.recv().expect("it begins");
                }
            };
            let (promise, Outcome { journal, told, .. }, watch) = while_it_is_watched(mode, THRESHOLD, blocks);
            let mut matching = match_up(&promise, &journal, &told);
            matching.missed.retain(|i| !promise.excuses(&journal[*i], &watch));
            let context = format!("{}, {share}: {told:#?} {journal:#?}", mode.name());
            assert!(matching.wrong.is_empty() && matching.duplicates.is_empty(), "{context}");
            assert!(matching.missed.is_empty(), "{context}");
            assert!(told.iter().all(|told| !told.last().ongoing), "{context}");
            let asleep: Vec<_> = journal.iter().filter(|poll| !poll.blocks.is_empty()).collect();
            assert_eq!(asleep.len(), mode.workers(), "each was let end: {context}");
        }
    }
}

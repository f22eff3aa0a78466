//! Sampled timing: every poll is counted, some are timed, and stalls are found by looking.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch::{Phase, Watchdog};

use test_support::*;

fn sampled(threshold: Duration) -> (Watchdog, CollectedStalls) {
    start_with(Watchdog::builder().threshold(threshold).log(false).sampled_timing(true))
}

/// More than enough for most of them to be untimed.
const STALLS: usize = 12;

/// Each block ends only after it has been told.
#[test]
fn a_stall_is_told_while_it_blocks_and_no_longer_than_it_was() {
    for (name, mut builder) in flavours() {
        let (watchdog, told) = sampled(THRESHOLD);
        let runtime = watchdog.build_runtime(name, &mut builder).unwrap();
        for nth in 1..=STALLS as u64 {
            let heard = told.clone();
            let (task, place) = spawn_measured(&watchdog, runtime.handle(), async move {
                let begin = Instant::now();
                let first = heard.wait(|s| s.id == nth && s.elapsed >= THRESHOLD * 2).expect("told while it blocks");
                (first, begin.elapsed())
            });
            let outer = Instant::now();
            let (ongoing, inner) = runtime.block_on(task).unwrap();
            let outer = outer.elapsed();
            assert!(ongoing.phase == Phase::Ongoing && ongoing.elapsed_is_lower_bound, "{name}: {ongoing:#?}");
            assert!(ongoing.to_string().contains("ongoing at least "), "{ongoing}");
            assert_eq!(ongoing.site.to_string(), place);
            let end = told.wait(|s| s.id == nth && s.phase == Phase::Resolved).expect("it is resolved");
            assert!(
                end.elapsed >= ongoing.elapsed && end.elapsed <= outer.mul_f64(1.01),
                "{inner:?} {outer:?} {end:#?}"
            );
        }
        assert_eq!(reported_so_far(&watchdog, &told).iter().filter(|s| s.phase == Phase::Resolved).count(), STALLS);
    }
}

/// Judged by what each poll took by its own clock, which on a busy machine is more than was meant.
#[test]
fn one_and_a_half_thresholds_are_found_and_less_than_one_never() {
    for (name, builder) in [("current", current_thread as fn() -> _), ("multi", || multi_thread(1))] {
        undisturbed(|| {
            let (watchdog, told) = sampled(THRESHOLD);
            let runtime = watchdog.build_runtime(name, &mut builder()).unwrap();
            let found = || told.of(name).iter().filter(|s| s.phase == Phase::Resolved).count();
            for time in [THRESHOLD * 9 / 10, THRESHOLD * 3 / 2] {
                let (before, spawned) = (found(), Instant::now());
                let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
                    let mut blocks = Vec::new();
                    for _ in 0..STALLS {
                        let begin = Instant::now();
                        block(time);
                        blocks.push((begin, Instant::now()));
                        yield_once().await;
                    }
                    blocks
                });
                let blocks = runtime.block_on(task).unwrap();
                let joined = Instant::now();
                reported_so_far(&watchdog, &told);
                // A poll lies between the blocks before and after its own.
                let outer = |i: usize| {
                    let from = i.checked_sub(1).map_or(spawned, |i| blocks[i].1);
                    blocks.get(i + 1).map_or(joined, |next| next.0).duration_since(from)
                };
                let at_most = (0..STALLS).filter(|i| outer(*i) >= THRESHOLD).count();
                let at_least =
                    blocks.iter().filter(|(begin, end)| end.duration_since(*begin) >= THRESHOLD * 3 / 2).count();
                let found = found() - before;
                assert!(found <= at_most, "{name}, {time:?}: {found} of {at_most}: {:#?}", told.of(name));
                // A watchdog that is late by a part of a threshold has overslept nothing that it tells of.
                if found < at_least {
                    return Err(format!("{name}, {time:?}: {found} of {at_least}"));
                }
            }
            let shortest = told.of(name).iter().filter(|s| s.phase == Phase::Resolved).map(|s| s.elapsed).min();
            holds_unless_overslept(&watchdog, shortest >= Some(THRESHOLD), shortest)
        });
    }
}

#[test]
fn polls_are_counted_and_their_times_estimated() {
    const TASKS: usize = 4;
    const POLLS: usize = 4_000;
    let spin = |time: Duration| {
        let begin = Instant::now();
        while begin.elapsed() < time {
            std::hint::spin_loop();
        }
        begin.elapsed()
    };
    undisturbed(|| {
        let (watchdog, _) = sampled(Duration::from_secs(10));
        let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
                    let mut busy = Duration::ZERO;
                    for _ in 1..POLLS {
                        busy += spin(Duration::from_micros(10));
                        yield_once().await;
                    }
                    busy
                });
                task
            })
            .collect();
        let busy: Duration = tasks.into_iter().map(|task| runtime.block_on(task).unwrap()).sum();
        let snapshot = runtime_of(&watchdog.snapshot(), "main");
        assert_eq!(snapshot.polls_total, (TASKS * POLLS) as u64);
        let sites: u64 = watchdog.snapshot().sites.iter().map(|site| site.polls).sum();
        assert_eq!(sites, snapshot.polls_total);
        // The standard deviation is some 280 of 16,000.
        assert!(snapshot.polls.count.abs_diff(snapshot.polls_total) < 2_500, "{snapshot:#?}");
        assert_eq!(snapshot.polls.count % 16, 0, "each timed poll stands for 16");
        let ratio = snapshot.polls.sum.as_secs_f64() / busy.as_secs_f64();
        // One poll that was given no CPU for a while weighs 16 times.
        if (0.8..1.4).contains(&ratio) { Ok(()) } else { Err(format!("{ratio}: {snapshot:#?}")) }
    });
}

/// The stall stands for itself, whether its poll was one of the timed or not.
#[test]
fn what_a_stall_adds_to_the_busy_time_is_its_own() {
    let (watchdog, told) = sampled(THRESHOLD);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    let outer = Instant::now();
    for _ in 0..STALLS {
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async { block(THRESHOLD * 3) });
        runtime.block_on(task).unwrap();
    }
    let outer = outer.elapsed();
    reported_so_far(&watchdog, &told);
    let stalls: Duration = told.of("main").iter().filter(|s| s.phase == Phase::Resolved).map(|s| s.elapsed).sum();
    let busy = runtime_of(&watchdog.snapshot(), "main").polls.sum;
    assert!(busy <= outer.mul_f64(1.01), "{busy:?} of {outer:?}");
    assert!(busy >= stalls.mul_f64(0.99) || watchdog.snapshot().watchdog.oversleeps > 0, "{busy:?}, stalls {stalls:?}");
}

#[test]
fn what_is_meant_to_block_is_no_stall() {
    let (watchdog, told) = sampled(THRESHOLD);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    for _ in 0..STALLS {
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async {
            pollwatch::allow_blocking("on purpose", || block(THRESHOLD * 3));
        });
        runtime.block_on(task).unwrap();
    }
    let stalls = reported_so_far(&watchdog, &told);
    assert!(stalls.iter().all(|s| s.cause.as_str() == "starved" || s.cause.as_str() == "paused"), "{stalls:#?}");
    let allowed = watchdog.snapshot().watchdog.allowed_blocking;
    assert!(allowed[0].time >= THRESHOLD * 3 * STALLS as u32, "{allowed:?}");
}

/// What the scopes took is left out, and nothing else: what was known of the poll before stays known.
#[test]
fn a_long_poll_of_many_parts_that_are_meant_to_block_is_found() {
    const POLLS: usize = 6;
    const PARTS: usize = 12;
    undisturbed(|| {
        let (watchdog, told) = sampled(THRESHOLD);
        let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async {
            let mut polls = Vec::new();
            for _ in 0..POLLS {
                let (begin, mut allowed) = (Instant::now(), Duration::ZERO);
                for _ in 0..PARTS {
                    block(THRESHOLD / 4);
                    pollwatch::allow_blocking("on purpose", || allowed += block(THRESHOLD / 4));
                }
                polls.push(begin.elapsed() - allowed);
                yield_once().await;
            }
            polls
        });
        let polls = runtime.block_on(task).unwrap();
        reported_so_far(&watchdog, &told);
        let stalls: Vec<_> = told.of("main").into_iter().filter(|s| s.phase == Phase::Resolved).collect();
        stalls.iter().try_for_each(is_undisturbed)?;
        holds_unless_overslept(&watchdog, stalls.len() == POLLS, &stalls)?;
        for (stall, own) in stalls.iter().zip(polls) {
            // It may have been given no CPU just outside of what was measured here.
            let fits = stall.elapsed <= own.mul_f64(1.01) && stall.elapsed >= own.saturating_sub(THRESHOLD * 3 / 2);
            if !fits {
                return Err(format!("{own:?}: {stall:#?}"));
            }
        }
        Ok(())
    });
}

/// The thread that blocks in place has handed its worker on; whoever has it then blocks it.
#[test]
fn who_has_the_worker_is_told_and_who_handed_it_on_is_not() {
    undisturbed(|| {
        let (watchdog, told) = sampled(THRESHOLD);
        let runtime = watchdog.build_runtime("main", &mut multi_thread(1)).unwrap();
        let (mut handed_on, mut blocked) = (Vec::new(), Vec::new());
        for _ in 0..STALLS {
            let gate = Gate::new();
            let (key, spawns) = (gate.key(), watchdog.clone());
            let (ends, is_through) = mpsc::channel();
            let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
                // In the queue before the worker goes.
                let blocks = spawns.spawn(async move {
                    block(THRESHOLD * 4);
                    ends.send(()).ok();
                });
                let id = blocks.id();
                tokio::task::block_in_place(|| key.pass());
                blocks.await.unwrap();
                id
            });
            handed_on.push(task.id());
            is_through.recv_timeout(TIMEOUT).expect("the other has its worker");
            gate.open();
            blocked.push(runtime.block_on(task).unwrap());
        }
        let stalls = reported_so_far(&watchdog, &told);
        let is_told = |id: &tokio::task::Id| stalls.iter().any(|s| s.task == Some(*id));
        let (wrong, right) =
            (handed_on.iter().filter(|id| is_told(id)).count(), blocked.iter().filter(|id| is_told(id)).count());
        if (wrong, right) == (0, STALLS) {
            Ok(())
        } else {
            Err(format!("{wrong} told wrongly, {right} of {STALLS} found"))
        }
    });
}

#[test]
fn it_is_shown_that_times_are_estimates() {
    for on in [true, false] {
        let watchdog = Watchdog::builder().sampled_timing(on).start().unwrap();
        assert_eq!(watchdog.coverage().sampled_timing, on);
        assert_eq!(watchdog.coverage().to_string().contains("timing: one poll in 16"), on);
        let way = Metrics::parse(&watchdog.metrics_text()).get("pollwatch_coverage", &[("source", "sampled_timing")]);
        assert_eq!(way, f64::from(u8::from(on)));
    }
}

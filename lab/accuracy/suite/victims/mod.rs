//! A run with delays tracked: whether each stall has the right number of tasks that waited behind
//! it, for the right time, of the right sites and routes.
//!
//! Every task of the runtime records when it was scheduled and when it was polled, by its own
//! clock. Its wait lies between two bounds, since a thread may be preempted between a reading of
//! the clock and the wake.

mod evaluation;
mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Stall, Watchdog};

use super::fixture::{self, Fixture};
use super::modes::Mode;
use super::poll_recorder::lock;
use super::rng::Rng;
use evaluation::StallAndPoll;
pub(crate) use evaluation::VictimFigures;
use waiting::{TaskRecords, inject};

/// The interval at which the recent stalls are read, of which the watchdog keeps some hundred.
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// The latest state of each stall, by its number: more victims may follow after its last report.
type LatestStalls = HashMap<u64, Stall>;

/// Runs a mode for some time.
pub(crate) fn run(mode: Mode, threshold: Duration, time: Duration, seed: u64) -> VictimFigures {
    let fixture = Fixture::with(mode, threshold, Watchdog::builder().track_delays(true));
    let (watchdog, records) = (fixture.watchdog.clone(), Arc::new(TaskRecords::default()));
    let latest: Mutex<LatestStalls> = Mutex::default();
    let read = || lock(&latest).extend(watchdog.stalls().into_iter().map(|stall| (stall.id, stall)));
    let (is_over, end) = (AtomicBool::new(false), Instant::now() + time);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                read();
                std::thread::sleep(READ_INTERVAL);
            }
        });
        let injectors: Vec<_> = (0..=mode.workers() as u64)
            .map(|i| {
                let (fixture, records) = (&fixture, &records);
                scope.spawn(move || inject(fixture, records, end, Rng::new(seed + i)))
            })
            .collect();
        let results = injectors.into_iter().map(|injector| injector.join());
        let all_ended = results.fold(true, |all, result| all & result.is_ok());
        is_over.store(true, Ordering::Release);
        assert!(all_ended, "an injector has panicked");
    });
    let outcome = fixture::end(fixture);
    read();
    let stalls = latest.into_inner().expect("nobody panics while it is locked");
    let polls = outcome.recorded.iter().filter(|poll| !poll.blocks.is_empty());
    let by_task: HashMap<_, _> = polls.filter_map(|poll| Some((poll.task?, poll))).collect();
    let mut pairs: Vec<_> =
        stalls.values().filter_map(|stall| Some(StallAndPoll { stall, poll: by_task.get(&stall.task?)? })).collect();
    pairs.sort_by_key(|pair| pair.stall.id);
    let waits = records.waits();
    let mut figures = VictimFigures::new(&pairs, &waits, threshold.as_nanos() as u64);
    figures.compare_sites(&waits, &watchdog.snapshot());
    figures.lost = watchdog.coverage().lost_delays;
    figures
}

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::*;
use crate::model::event::{CpuVerdict, Liveness, StallEnd, StallOrigin, StallStarted};
use crate::model::id::{FrameNumber, RuntimeId, SiteId};
use crate::model::stall::Phase;
use crate::model::time::Nanos;
use crate::report::queue::{Report, ReportQueue};
use crate::report::queues::FIRST_WAIT;
use crate::report::samples::stall;
use crate::report::segments::SampleNumber;
use crate::report::stack_symbols::StackSymbols;
use crate::report::symbols::SymbolStage;

/// The thread of a stall that is over for everyone who asks.
#[derive(Debug)]
struct Gone;

impl Liveness for Gone {
    fn open_frames(&self) -> Option<Vec<FrameNumber>> {
        None
    }
}

fn started(id: u64) -> StallStarted {
    StallStarted {
        stall: stall(id, 10),
        origin: StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None, parent_route: None },
        #[cfg(feature = "server")]
        poll: None,
        at: Nanos::from_millis(10),
        liveness: Arc::new(Gone),
        stack: None,
        lock_wait: None,
        verdict: CpuVerdict::Other,
    }
}

/// The number of stalls of the stress test.
const STALLS: u64 = 2_000;

/// A recorder and what it fills.
struct Recording {
    recorder: Recorder,
    symbols: SymbolStage,
    store: Arc<Mutex<StallStore>>,
    log: Arc<ReportQueue>,
    _tasks: Receiver<SymbolTask>,
}

impl Recording {
    fn new() -> Recording {
        let (store, counters): (Arc<Mutex<StallStore>>, Arc<ReportCounters>) = Default::default();
        let log = Arc::new(ReportQueue::new(STALLS as usize));
        let queues = Arc::new(ReportQueues::new(Some(log.clone()), None, counters.clone()));
        let (tasks, received) = sync_channel(10);
        let symbols = SymbolStage::new(
            StackSymbols::Off,
            store.clone(),
            #[cfg(feature = "server")]
            Arc::default(),
            queues.clone(),
            counters.clone(),
            None,
        );
        let waits = ReportWaits { first: FIRST_WAIT, victims: Duration::ZERO };
        let recorder = Recorder::new(store.clone(), Arc::default(), queues, tasks, counters, waits);
        Recording { recorder, symbols, store, log, _tasks: received }
    }
}

/// Records a stall whose stack is not symbolized yet, so that its report waits.
fn start(recorder: &mut Recorder, id: u64) {
    recorder.update(None, Some(LATER_WAIT), |store| Some(store.insert_ongoing(started(id), true)));
}

/// Returns the phases of the reports in a queue.
fn reported(queue: &ReportQueue) -> Vec<Phase> {
    queue.close();
    let phase = |report| match report {
        Report::Stall(record) => Some(record.stall.phase),
        Report::Notice(_) => None,
    };
    std::iter::from_fn(|| queue.pop()).filter_map(phase).collect()
}

/// The duration of each stall.
const ENDED: Duration = Duration::from_millis(20);
/// The time for which nobody gets the store's lock before its holder counts as blocked.
const BLOCKED: Duration = Duration::from_millis(200);

/// Whoever finds the end of a stall in the store finds it in the queue, too. If not, the report
/// thread could log the end by a report that waits already, before the recorder queues another one.
#[test]
fn the_end_of_a_stall_is_stored_and_queued_at_once() {
    let Recording { mut recorder, symbols, store, log, _tasks } = Recording::new();
    start(&mut recorder, 1);
    std::thread::scope(|scope| {
        log.while_locked(|| {
            let end = StallEnd { elapsed: Duration::from_millis(20), verdict: Default::default(), fork: None };
            let end = Event::StallEnded { id: StallId(1), end };
            let recorder = &mut recorder;
            scope.spawn(move || recorder.record(end));
            let mut since = Instant::now();
            while since.elapsed() < BLOCKED {
                if let Ok(store) = store.try_lock() {
                    assert_eq!(store.recent(1)[0].phase, Phase::Ongoing, "the end is stored, and not queued");
                    since = Instant::now();
                }
                std::thread::yield_now();
            }
        });
    });
    symbols.set_stack(StallId(1), SampleNumber::FIRST, None, WaitedFor::default());
    assert_eq!(reported(&log), [Phase::Resolved]);
}

/// The report thread finishes a stack at any moment around the end of its stall, while the log
/// takes reports.
#[test]
fn each_end_is_reported_once() {
    let mut recording = Recording::new();
    let ended = std::thread::scope(|scope| {
        let (log, symbols) = (recording.log.clone(), &recording.symbols);
        let log = scope.spawn(move || {
            let mut ended = vec![0; STALLS as usize];
            while let Some(report) = log.pop() {
                if let Report::Stall(record) = report
                    && record.stall.phase == Phase::Resolved
                {
                    ended[record.stall.id as usize - 1] += 1;
                }
            }
            ended
        });
        let (stacks, received) = sync_channel(0);
        scope.spawn(move || {
            for id in received {
                symbols.set_stack(StallId(id), SampleNumber::FIRST, None, WaitedFor::default());
            }
        });
        for id in 1..=STALLS {
            start(&mut recording.recorder, id);
            stacks.send(id).unwrap();
            let end = StallEnd { elapsed: ENDED, verdict: CpuVerdict::Other, fork: None };
            recording.recorder.record(Event::StallEnded { id: StallId(id), end });
        }
        drop(stacks);
        recording.log.close();
        log.join().unwrap()
    });
    assert!(ended.iter().all(|times| *times == 1), "{ended:?}");
}

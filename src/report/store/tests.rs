use std::sync::{Arc, Mutex};

use pollwatch_stack::Frame;

use super::*;
use crate::model::cause::Cause;
use crate::model::event::{CpuVerdict, Liveness, StallOrigin};
#[cfg(feature = "server")]
use crate::model::id::ThreadNumber;
use crate::model::id::{FrameNumber, RouteId, SiteId};
use crate::model::kernel_time::KernelUsage;
use crate::model::lock::Deadlock;
use crate::model::stall::Phase;
use crate::report::recent::MAX_RECENT;
use crate::report::samples::{frame, stall};
use crate::report::totals::CountAndTime;
use crate::util::lock;

mod properties;

const ORIGIN: StallOrigin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None, parent_route: None };

/// The frames of a thread that a test invents.
#[derive(Debug)]
struct Frames(Mutex<Option<Vec<FrameNumber>>>);

impl Frames {
    fn open(frames: &[u64]) -> Arc<Frames> {
        Arc::new(Frames(Mutex::new(Some(frames.iter().copied().map(FrameNumber).collect()))))
    }

    fn set(&self, frames: Option<&[u64]>) {
        *lock(&self.0) = frames.map(|frames| frames.iter().copied().map(FrameNumber).collect());
    }
}

impl Liveness for Frames {
    fn open_frames(&self) -> Option<Vec<FrameNumber>> {
        lock(&self.0).clone()
    }
}

fn started(stall: Stall, liveness: Arc<Frames>) -> StallStarted {
    StallStarted {
        stall,
        origin: ORIGIN,
        #[cfg(feature = "server")]
        poll: Some(PollKey { thread: ThreadNumber(7), number: FrameNumber(1) }),
        at: Nanos::ZERO,
        liveness,
        stack: None,
        lock_wait: None,
        verdict: Default::default(),
    }
}

fn progress(id: u64, since: u64, elapsed: u64, cause: Cause) -> StallProgress {
    StallProgress {
        id: StallId(id),
        elapsed: Duration::from_millis(elapsed),
        at: Nanos::from_millis(elapsed),
        since: Duration::from_millis(since),
        is_report: true,
        cause,
        syscall: None,
        on_cpu: None,
        kernel: KernelUsage::default(),
        spans: Vec::new(),
        stack: None,
        no_stack: None,
        lock_wait: None,
        verdict: CpuVerdict::Other,
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn end(elapsed: u64, verdict: CpuVerdict) -> StallEnd {
    StallEnd { elapsed: millis(elapsed), verdict, fork: None }
}

fn request(stall: u64, frame: u64, elapsed: u64, is_over: bool) -> BlockedRequest {
    let route = RouteId::OTHER;
    let (elapsed, at) = (Nanos(elapsed), Nanos::ZERO);
    BlockedRequest {
        stall: StallId(stall),
        frame: FrameNumber(frame),
        route,
        route_name: "other".into(),
        elapsed,
        at,
        is_over,
    }
}

const RUNTIME: RuntimeId = RuntimeId(1);
const SITE: (RuntimeId, SiteId) = (RUNTIME, SiteId(1));

fn total(count: u64, millis: u64) -> CountAndTime {
    CountAndTime { count, time: Nanos::from_millis(millis) }
}

/// A store with one ongoing stall of this cause, which has lasted for 10 ms.
fn store_with(cause: Cause) -> (StallStore, Arc<Frames>) {
    let frames = Frames::open(&[1]);
    let mut store = StallStore::default();
    let started = StallStarted { at: Nanos::from_millis(10), ..started(stall(1, 10), frames.clone()) };
    store.insert_ongoing(StallStarted { stall: Stall { cause, ..started.stall }, ..started }, false);
    (store, frames)
}

#[test]
fn seconds_move_during_a_stall_and_never_go_back() {
    let (mut store, frames) = store_with(Cause::Lock);
    assert_eq!(store.totals(Nanos::from_millis(10)).sites[&SITE], total(0, 10));
    assert_eq!(store.totals(Nanos::from_millis(15)).sites[&SITE], total(0, 15));
    frames.set(None);
    let ended = store.totals(Nanos::from_millis(19)).sites[&SITE];
    assert_eq!(ended, total(0, 15), "it is over, though no event has said so");
    let resolved = store.resolve(StallId(1), end(14, CpuVerdict::Other)).unwrap();
    assert_eq!(resolved.record.stall.phase, Phase::Resolved);
    let totals = store.totals(Nanos::ZERO);
    assert_eq!(totals.sites[&SITE], total(1, 15), "what was shown stays, and the stall counts");
    assert_eq!(totals.causes[&(RUNTIME, Cause::Lock)], total(1, 15));
}

/// The watchdog may wait for a fork as long as it takes, and examine nothing meanwhile.
#[test]
fn a_fork_that_outlasts_the_latest_examination_is_named_at_the_end() {
    const FORK: &str = "computing in the kernel: fork";
    let end = StallEnd { fork: Some(millis(499)), ..end(500, CpuVerdict::Computed) };
    let mut before = store_with(Cause::Cpu).0;
    let resolved = before.resolve(StallId(1), end).unwrap().record.stall;
    assert_eq!((resolved.fork, resolved.reason), (end.fork, FORK));
    assert_eq!(resolved.segments[0].reason, FORK);

    // The thread had computed for a second before the fork started.
    let mut later = store_with(Cause::Cpu).0;
    let on_cpu = Some(millis(1_000));
    later.examine(StallProgress { on_cpu, ..progress(1, 500, 1_000, Cause::Cpu) }, false).unwrap();
    let ended = StallEnd { elapsed: millis(1_500), ..end };
    let resolved = later.resolve(StallId(1), ended).unwrap().record.stall;
    assert_eq!(resolved.fork, ended.fork);
    assert_ne!(resolved.reason, FORK, "a part of it");
}

/// A fork is named by a stack that was captured before it ended, too, once that is symbolized.
#[test]
fn a_fork_is_named_by_a_stack_that_is_symbolized_later() {
    let (mut store, _frames) = store_with(Cause::Cpu);
    let pending = store.examine(progress(1, 10, 20, Cause::Cpu), true).unwrap();
    let ended = StallEnd { fork: Some(millis(480)), ..end(500, CpuVerdict::Computed) };
    assert!(store.resolve(StallId(1), ended).unwrap().is_pending);
    let stack = Some(Stack::new(vec![frame("app::start_child")], true, |_| false));
    let symbolized = store.set_stack(StallId(1), pending.sample, stack, WaitedFor::default()).unwrap().record.stall;
    assert_eq!(symbolized.reason, "computing in the kernel: fork");
}

/// The seconds are those of each segment, and the stall counts once, under the cause with the most
/// time.
#[test]
fn each_segment_has_its_seconds_and_the_stall_counts_once() {
    let (mut store, _frames) = store_with(Cause::Syscall);
    store.examine(progress(1, 100, 120, Cause::Lock), false).unwrap();
    assert_eq!(store.totals(Nanos::from_millis(120)).causes[&(RUNTIME, Cause::Lock)], total(0, 20));
    store.resolve(StallId(1), end(400, CpuVerdict::Other)).unwrap();
    let totals = store.totals(Nanos::ZERO);
    assert_eq!(totals.causes[&(RUNTIME, Cause::Syscall)], total(0, 100));
    assert_eq!(totals.causes[&(RUNTIME, Cause::Lock)], total(1, 300));
    assert_eq!(totals.sites[&SITE], total(1, 400));
}

#[test]
fn a_stall_counts_once_it_has_lasted_for_a_second() {
    let (mut store, _frames) = store_with(Cause::Syscall);
    let count =
        |store: &mut StallStore, now| store.totals(Nanos::from_millis(now)).causes[&(RUNTIME, Cause::Syscall)].count;
    assert_eq!((count(&mut store, 999), count(&mut store, 1_000)), (0, 1), "also between two scans");
    store.examine(progress(1, 1_100, 1_200, Cause::Lock), false).unwrap();
    store.resolve(StallId(1), end(9_000, CpuVerdict::Other)).unwrap();
    let totals = store.totals(Nanos::ZERO);
    assert_eq!(totals.causes[&(RUNTIME, Cause::Syscall)], total(1, 1_100), "counters never go down");
    assert_eq!(totals.causes[&(RUNTIME, Cause::Lock)], total(0, 7_900));
    // The watchdog stops during a stall, and nobody finds its end.
    let (mut store, _frames) = store_with(Cause::Syscall);
    store.count_ongoing();
    assert_eq!(count(&mut store, 10), 1);
}

/// A stall whose thread had no CPU at first, and then computes, gives only the later seconds to its
/// site.
#[test]
fn only_the_starved_part_is_excused() {
    let (mut store, _frames) = store_with(Cause::Starved);
    store.examine(progress(1, 20, 40, Cause::Cpu), false).unwrap();
    let ended = store.resolve(StallId(1), end(50, CpuVerdict::Computed)).unwrap().record.stall;
    assert_eq!(ended.cause, Cause::Cpu);
    let totals = store.totals(Nanos::ZERO);
    assert_eq!(totals.sites[&SITE], total(1, 30));
    assert_eq!(totals.causes[&(RUNTIME, Cause::Starved)], total(0, 20));
}

/// On a busy machine every examination may find the thread without a CPU, while it computes.
#[test]
fn a_poll_that_computed_is_blamed_for_its_cpu_time() {
    let (mut store, _frames) = store_with(Cause::Starved);
    store.record_request(&request(1, 1, 40_000_000, false));
    let examined = StallProgress { on_cpu: Some(millis(25)), ..progress(1, 40, 40, Cause::Starved) };
    store.examine(examined, false).unwrap();
    let ended = store.resolve(StallId(1), end(50, CpuVerdict::Computed)).unwrap().record.stall;
    assert_eq!(ended.cause, Cause::Cpu);
    let totals = store.totals(Nanos::ZERO);
    assert_eq!(totals.sites[&SITE], total(1, 25));
    assert_eq!(totals.routes[&RouteId::OTHER], total(1, 25));
    assert_eq!(totals.causes[&(RUNTIME, Cause::Cpu)], total(1, 0));
}

#[test]
fn a_starved_stall_is_held_against_nobody() {
    let (mut store, _frames) = store_with(Cause::Starved);
    store.record_request(&request(1, 2, 12, true));
    let ended = store.resolve(StallId(1), end(50, CpuVerdict::Starved)).unwrap().record.stall;
    assert_eq!(ended.cause, Cause::Starved);
    let totals = store.totals(Nanos::ZERO);
    assert!(totals.routes.is_empty() && totals.sites.is_empty(), "{totals:?}");
    assert_eq!(totals.causes[&(RUNTIME, Cause::Starved)], total(1, 50));
}

#[test]
fn a_request_is_counted_once_and_its_seconds_move() {
    let frames = Frames::open(&[1, 2]);
    let route = RouteId::OTHER;
    let total = |store: &mut StallStore, now| store.totals(Nanos(now)).routes[&route];
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), frames.clone()), false);
    store.record_request(&request(1, 2, 10, false));
    store.record_request(&request(1, 2, 12, false));
    assert_eq!(store.recent(MAX_RECENT)[0].route.as_deref(), Some("other"));
    assert_eq!(total(&mut store, 5), CountAndTime { count: 0, time: Nanos(17) });
    frames.set(Some(&[1]));
    assert_eq!(total(&mut store, 50), CountAndTime { count: 0, time: Nanos(17) }, "it is over, the poll is not");
    store.record_request(&request(1, 2, 14, true));
    store.record_request(&request(1, 3, 20, true));
    store.record_request(&request(1, 2, 14, false));
    let time = Nanos(37);
    assert_eq!(total(&mut store, 0), CountAndTime { count: 0, time }, "seen before its end, recorded after it");
    let resolved = store.resolve(StallId(1), end(20, CpuVerdict::Other)).unwrap();
    assert_eq!(resolved.record.origin.route, Some(route));
    assert_eq!(total(&mut store, 0), CountAndTime { count: 2, time }, "they count with the stall");
    // The request of a stall that ended before it was found.
    store.record_request(&request(2, 2, 11, true));
    assert_eq!(total(&mut store, 0), CountAndTime { count: 3, time: Nanos(48) });
}

#[test]
fn keeps_the_recent_and_the_ongoing() {
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), Frames::open(&[1])), false);
    for id in 2..2_000 {
        let resolved = Stall { phase: Phase::Resolved, ..stall(id, 10) };
        store.insert_resolved(StallRecord { stall: resolved, origin: ORIGIN, version: 0 });
    }
    let recent = store.recent(MAX_RECENT);
    assert_eq!(recent.len(), MAX_RECENT);
    assert_eq!((recent[0].id, recent[MAX_RECENT - 1].id), (1, 1_999));
    store.examine(progress(1, 99, 99, Cause::Lock), false).unwrap();
    assert_eq!((store.recent(MAX_RECENT)[0].elapsed, store.recent(MAX_RECENT)[0].cause), (millis(99), Cause::Lock));
}

/// A stall whose stacks are symbolized after its end still gets them. Then the store forgets it.
#[test]
fn stacks_that_arrive_after_the_end_are_shown() {
    let mut store = StallStore::default();
    let first = store.insert_ongoing(started(stall(1, 10), Frames::open(&[1])), true);
    let second = store.examine(progress(1, 20, 20, Cause::Unknown), true).unwrap();
    assert!(first.is_pending && second.is_pending && first.sample != second.sample);
    assert!(store.resolve(StallId(1), end(30, CpuVerdict::Other)).unwrap().is_pending);
    let stack = || Some(Stack::new(Vec::new(), true, |_| false));
    let updated = store.set_stack(StallId(1), first.sample, stack(), WaitedFor::default()).unwrap();
    assert!(updated.is_pending && store.recent(MAX_RECENT)[0].stack.is_some());
    let updated = store.set_stack(StallId(1), second.sample, None, WaitedFor::default()).unwrap();
    assert!(!updated.is_pending && updated.record.stall.stack.is_some());
    assert_eq!(updated.profiled.iter().map(|sample| sample.amount.count).sum::<u64>(), 1);
    assert!(store.resolving.is_empty());
    assert!(store.set_stack(StallId(1), second.sample, None, WaitedFor::default()).is_none());
}

/// Takes in an examination that finds a deadlock or none, with a stack in this function.
fn wait_at(store: &mut StallStore, now: u64, function: &str, deadlock: Option<Deadlock>) {
    let updated = store.examine(progress(1, now, now, Cause::Lock), true).unwrap();
    let stack = Some(Stack::new(vec![frame(function)], true, |_| false));
    store.set_stack(StallId(1), updated.sample, stack, WaitedFor { deadlock, ..WaitedFor::default() });
}

/// A lock with a time limit ends a deadlock, and the stall may last.
#[test]
fn a_deadlock_lasts_while_its_stall_waits_at_the_same_location() {
    let found = || Some(Deadlock { threads: Vec::new() });
    let deadlocked = || {
        let (mut store, frames) = store_with(Cause::Lock);
        wait_at(&mut store, 20, "app::load", None);
        wait_at(&mut store, 30, "app::lock_both", found());
        wait_at(&mut store, 40, "app::lock_both", None);
        store.examine(progress(1, 50, 50, Cause::Unknown), false).unwrap();
        assert_eq!(store.deadlocks().len(), 1);
        (store, frames)
    };
    let (mut store, frames) = deadlocked();
    store.examine(progress(1, 60, 60, Cause::Cpu), false).unwrap();
    assert!(store.deadlocks().is_empty(), "it computes");
    wait_at(&mut store, 70, "app::lock_both", found());
    wait_at(&mut store, 80, "app::lock_both", found());
    assert_eq!(store.deadlocks().len(), 1, "one of each stall");
    frames.set(None);
    assert!(store.deadlocks().is_empty(), "the poll is over, though no event has said so");
    let (mut store, _frames) = deadlocked();
    wait_at(&mut store, 60, "app::lock_another", None);
    assert!(store.deadlocks().is_empty(), "it waits for another lock");
    let (mut store, _frames) = deadlocked();
    store.resolve(StallId(1), end(60, CpuVerdict::Other));
    assert!(store.deadlocks().is_empty(), "the stall is over");
}

#[test]
#[cfg(feature = "server")]
fn an_ongoing_stall_is_found_by_its_poll() {
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), Frames::open(&[1])), false);
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(1) }), Some(1));
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(2) }), None);
    store.resolve(StallId(1), end(12, CpuVerdict::Other));
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(1) }), None);
}

/// Takes in an examination of a thread that computes, with what it has used so far in milliseconds,
/// and its stack: the C library's function `call`, below the program's `function`.
fn compute(store: &mut StallStore, [elapsed, system]: [u64; 2], function: &str, call: Option<&str>) -> Stall {
    let kernel = KernelUsage { system_time: Some(millis(system)), ..KernelUsage::default() };
    let examined = progress(1, elapsed, elapsed, Cause::Cpu);
    let updated = store.examine(StallProgress { on_cpu: Some(millis(elapsed)), kernel, ..examined }, true).unwrap();
    let frame = |name: &str, library| {
        let mut frame = Frame::default();
        (frame.function, frame.library, frame.file) = (Some(name.into()), library, Some("src/main.rs".into()));
        frame
    };
    let frames = call.map(|call| frame(call, true)).into_iter().chain([frame(function, false)]).collect();
    let stack = Some(Stack::new(frames, true, |_| false));
    store.set_stack(StallId(1), updated.sample, stack, WaitedFor::default()).unwrap().record.stall
}

const READ: &str = "computing in the kernel: a read of cached data";

#[test]
fn a_read_after_a_computation_is_in_the_kernel() {
    let (mut store, _frames) = store_with(Cause::Cpu);
    for now in [1_000, 2_000, 3_000] {
        assert_eq!(compute(&mut store, [now, 0], "app::sum", None).reason, "computing");
    }
    let stall = compute(&mut store, [4_000, 950], "app::load", Some("read"));
    assert_eq!(stall.reason, READ);
    assert_eq!(stall.system_time, Some(millis(950)), "of the whole stall");
    let reasons: Vec<_> = stall.segments.iter().map(|segment| segment.reason).collect();
    assert_eq!(reasons, ["computing", READ]);
}

#[test]
fn a_computation_after_a_read_is_in_user_mode() {
    let (mut store, _frames) = store_with(Cause::Cpu);
    for now in [1_000, 2_000, 3_000] {
        assert_eq!(compute(&mut store, [now, now - 50], "app::load", Some("read")).reason, READ);
    }
    // A call that copies little: the thread is in it by chance.
    let stall = compute(&mut store, [4_000, 2_960], "app::sum", Some("read"));
    assert_eq!((stall.reason, stall.segments[0].reason), ("computing", READ));
    store.resolve(StallId(1), end(4_100, CpuVerdict::Computed)).unwrap();
    let resolved = &store.recent(MAX_RECENT)[0];
    assert_eq!((resolved.reason, resolved.segments[1].reason), (READ, "computing"), "most of the time");
}

/// Where stacks cannot be captured, each examination still says what the thread does now.
#[test]
fn the_share_of_the_kernel_is_current_without_stacks() {
    let (mut store, _frames) = store_with(Cause::Cpu);
    let reason = |store: &mut StallStore, now, system| {
        let kernel = KernelUsage { system_time: Some(millis(system)), ..KernelUsage::default() };
        let examined = progress(1, now, now, Cause::Cpu);
        let examined = StallProgress { on_cpu: Some(millis(now)), kernel, ..examined };
        store.examine(examined, false).unwrap().record.stall.reason
    };
    assert_eq!(reason(&mut store, 1_000, 10), "computing");
    assert_eq!(reason(&mut store, 2_000, 1_900), "computing in the kernel");
}

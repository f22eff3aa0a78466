use std::sync::Mutex;

use super::*;
use crate::model::id::{SiteId, ThreadNumber};
use crate::report::samples::stall;
use crate::report::totals::CountAndTime;
use crate::util::lock;

const ORIGIN: StallOrigin = StallOrigin { runtime: RuntimeId(1), site: SiteId(1), route: None };

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
    }
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

#[test]
fn seconds_move_during_a_stall_and_never_go_back() {
    let frames = Frames::open(&[1]);
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), frames.clone()));
    let key = (RuntimeId(1), SiteId(1));
    assert_eq!(store.totals(Nanos(0)).sites[&key], CountAndTime { count: 1, time: Nanos(10_000_000) });
    assert_eq!(store.totals(Nanos(5_000_000)).sites[&key].time, Nanos(15_000_000));
    frames.set(None);
    assert_eq!(
        store.totals(Nanos(9_000_000)).sites[&key].time,
        Nanos(15_000_000),
        "it is over, though no event has said so"
    );
    assert_eq!(store.resolve(StallId(1), Duration::from_millis(14)).unwrap().stall.phase, Phase::Resolved);
    assert_eq!(store.totals(Nanos(0)).sites[&key].time, Nanos(15_000_000), "what was shown stays");
    assert_eq!(store.totals(Nanos(0)).causes[&(RuntimeId(1), Cause::Unknown)].count, 1);
}

#[test]
fn a_request_is_counted_once_and_its_seconds_move() {
    let frames = Frames::open(&[1, 2]);
    let route = RouteId::OTHER;
    let total = |store: &mut StallStore, now| store.totals(Nanos(now)).routes[&route];
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), frames.clone()));
    store.record_request(request(1, 2, 10, false));
    store.record_request(request(1, 2, 12, false));
    assert_eq!(store.recent()[0].route.as_deref(), Some("other"));
    assert_eq!(total(&mut store, 5), CountAndTime { count: 1, time: Nanos(17) });
    frames.set(Some(&[1]));
    assert_eq!(total(&mut store, 50), CountAndTime { count: 1, time: Nanos(17) }, "it is over, the poll is not");
    store.record_request(request(1, 2, 14, true));
    store.record_request(request(1, 3, 20, true));
    assert_eq!(total(&mut store, 0), CountAndTime { count: 2, time: Nanos(37) }, "another one of the same poll");
    store.record_request(request(1, 2, 14, false));
    assert_eq!(
        total(&mut store, 0),
        CountAndTime { count: 2, time: Nanos(37) },
        "seen before its end, recorded after it"
    );
    let resolved = store.resolve(StallId(1), Duration::from_millis(20)).unwrap();
    assert_eq!(resolved.origin.route, Some(route));
    // The request of a stall that ended before it was found.
    store.record_request(request(2, 2, 11, true));
    assert_eq!(total(&mut store, 0), CountAndTime { count: 3, time: Nanos(48) });
}

#[test]
fn a_request_that_was_starved_is_not_blamed() {
    let mut store = StallStore::default();
    let starved = Stall { cause: Cause::Starved, ..stall(1, 10) };
    store.insert_ongoing(started(starved, Frames::open(&[1])));
    store.record_request(request(1, 2, 12, true));
    assert!(store.totals(Nanos(0)).routes.is_empty());
}

#[test]
fn keeps_the_recent_and_the_ongoing() {
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), Frames::open(&[1])));
    for id in 2..2_000 {
        let resolved = Stall { phase: Phase::Resolved, ..stall(id, 10) };
        store.insert_resolved(StallRecord { stall: resolved, origin: ORIGIN });
    }
    let recent = store.recent();
    assert_eq!(recent.len(), MAX_RECENT);
    assert_eq!((recent[0].id, recent[MAX_RECENT - 1].id), (1, 1_999));
    store.update(StallId(1), |ongoing| ongoing.set_elapsed(Duration::from_millis(99), Nanos::ZERO));
    assert_eq!(store.recent()[0].elapsed, Duration::from_millis(99));
}

#[test]
#[cfg(feature = "server")]
fn an_ongoing_stall_is_found_by_its_poll() {
    let mut store = StallStore::default();
    store.insert_ongoing(started(stall(1, 10), Frames::open(&[1])));
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(1) }), Some(1));
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(2) }), None);
    store.resolve(StallId(1), Duration::from_millis(12));
    assert_eq!(store.id_of(PollKey { thread: ThreadNumber(7), number: FrameNumber(1) }), None);
}

//! Gates: whether requests are turned away now because their runtime is late. The watchdog opens and narrows them, requests read.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::measure::primitives::clock::Clock;
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::sync::AtomicU32;
use crate::util::lock;

/// When requests are turned away; in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Marks {
    pub(crate) high: u64,
    pub(crate) low: u64,
    /// How long the lag has to stay above `high` until shedding begins.
    pub(crate) sustain: u64,
}

/// What a request reads, for all services with the same marks.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) marks: Marks,
    /// Whether some runtime is late.
    is_closed: AtomicBool,
    runtimes: [Late; MAX_RUNTIMES],
    /// Up to when that is to be believed, on the meter's clock in nanoseconds: a watchdog that stands still must not turn requests
    /// away.
    until: AtomicU64,
}

/// How late a runtime is.
#[derive(Debug, Default)]
struct Late {
    /// By what was measured, in nanoseconds; 0: not so late that requests are turned away.
    lag: AtomicU64,
    /// The probe's wake that has not been answered: the lag is at least its age.
    sent: OnceLock<Arc<AtomicU64>>,
    /// Requests of blocking routes that are in their first poll, and how many there may be.
    blocking: AtomicU32,
    room: AtomicU32,
    /// Whether one was turned away for want of room since the watchdog last looked.
    refused: AtomicBool,
    /// How many requests were turned away, for whatever reason.
    turned_away: AtomicU64,
}

/// A place for a request of a blocking route, while it may block its worker.
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    runtime: u16,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.runtimes[self.runtime as usize].blocking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A route whose polls take this part of the high mark, on average, is a blocking one.
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
const BLOCKS: u64 = 8;

/// Odds of 1.
pub(crate) const ALL: u32 = 1 << 31;

impl Marks {
    /// The share of requests to turn away, in parts of [`ALL`]: none at the high mark, all at twice the high mark.
    pub(crate) fn odds(&self, lag: u64) -> u32 {
        let high = self.high.max(1);
        let over = lag.saturating_sub(high).min(high);
        (u128::from(over) * u128::from(ALL) / u128::from(high)) as u32
    }
}

impl Gate {
    pub(crate) fn new(marks: Marks) -> Gate {
        Gate {
            marks,
            is_closed: AtomicBool::new(false),
            runtimes: std::array::from_fn(|_| Late::default()),
            until: AtomicU64::new(0),
        }
    }

    /// Whether any request may be turned away. One load; what follows is read only then.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Whether to turn a request of the runtime away by the lag; `None` where the runtime is not late.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn turns_away(&self, clock: &Clock, runtime: u16) -> Option<bool> {
        let late = self.runtimes.get(runtime as usize)?;
        let (lag, now) = (late.lag.load(Ordering::Relaxed), clock.now());
        if lag == 0 || clock.nanos(now) >= self.until.load(Ordering::Relaxed) {
            return None;
        }
        // Requests that are read in a row all see what was measured before the first of them.
        let waiting = late.sent.get().map_or(0, |sent| match sent.load(Ordering::Relaxed) {
            0 => 0,
            sent => clock.delta(sent, now),
        });
        Some(lose(self.marks.odds(lag.max(waiting)), random()))
    }

    /// Polls this long, on average, make a route a blocking one.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn blocks(&self, mean_poll: u64) -> bool {
        mean_poll >= (self.marks.high / BLOCKS).max(1)
    }

    /// A place for a request of a blocking route; `None` if all are taken: one worker is kept free of them. Shared writes, while the
    /// runtime is late only.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn pass(self: &Arc<Self>, runtime: u16) -> Option<Pass> {
        let late = self.runtimes.get(runtime as usize)?;
        let room = late.room.load(Ordering::Relaxed).max(1);
        let pass = (late.blocking.fetch_add(1, Ordering::Relaxed), Pass { gate: self.clone(), runtime });
        match pass {
            (inside, pass) if inside < room => Some(pass),
            _ => {
                late.refused.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    /// Counts a request that was turned away.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn count(&self, runtime: u16) {
        if let Some(late) = self.runtimes.get(runtime as usize) {
            late.turned_away.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests have been turned away.
    pub(crate) fn turned_away(&self, runtime: u16) -> u64 {
        self.runtimes.get(runtime as usize).map_or(0, |late| late.turned_away.load(Ordering::Relaxed))
    }

    /// Whether a request was turned away for want of a place since this was last asked. The watchdog only.
    pub(crate) fn take_refused(&self, runtime: u16) -> bool {
        self.runtimes.get(runtime as usize).is_some_and(|late| late.refused.swap(false, Ordering::Relaxed))
    }

    /// Sets how many workers a runtime has. The watchdog only.
    pub(crate) fn set_workers(&self, runtime: u16, workers: usize) {
        if let Some(late) = self.runtimes.get(runtime as usize) {
            late.room.store(u32::try_from(workers).unwrap_or(u32::MAX).saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Sets the lag of a runtime, 0 if it is not late, and `until` when what the gate says holds. The watchdog only.
    pub(crate) fn set(&self, runtime: u16, lag: u64, sent: &Arc<AtomicU64>, until: u64) {
        let Some(late) = self.runtimes.get(runtime as usize) else { return };
        late.sent.get_or_init(|| sent.clone());
        self.until.store(until, Ordering::Relaxed);
        late.lag.store(lag, Ordering::Relaxed);
        let is_closed = self.runtimes.iter().any(|late| late.lag.load(Ordering::Relaxed) > 0);
        self.is_closed.store(is_closed, Ordering::Relaxed);
    }

    /// Lets all requests in. The watchdog only.
    pub(crate) fn open(&self) {
        self.runtimes.iter().for_each(|late| late.lag.store(0, Ordering::Relaxed));
        self.is_closed.store(false, Ordering::Relaxed);
    }
}

/// Whether these odds are lost with this random number.
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
fn lose(odds: u32, random: u32) -> bool {
    random >> 1 < odds
}

/// A random number of this thread's own (xorshift64*).
#[cfg_attr(not(feature = "tower"), allow(dead_code))]
fn random() -> u32 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    let next = STATE.try_with(|state| {
        let mut x = state.get();
        if x == 0 {
            // Its own address: another one on each thread, and never 0.
            x = std::ptr::from_ref(state) as u64;
            x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    });
    // The thread is exiting: not turned away, unless all are.
    next.unwrap_or(u32::MAX)
}

/// All gates of one watchdog: one for each way to set them.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    are_there: AtomicBool,
    list: Mutex<Vec<Weak<Gate>>>,
}

impl Gates {
    /// Whether there are any: whether lag matters to anybody.
    #[inline]
    pub(crate) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Relaxed)
    }

    /// The gate with these marks. It goes when the last service with it does.
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    pub(crate) fn get(&self, marks: Marks) -> Arc<Gate> {
        let mut list = lock(&self.list);
        let known = list.iter().filter_map(Weak::upgrade).find(|gate| gate.marks == marks);
        let gate = known.unwrap_or_else(|| {
            let gate = Arc::new(Gate::new(marks));
            list.push(Arc::downgrade(&gate));
            gate
        });
        self.are_there.store(true, Ordering::Relaxed);
        gate
    }

    /// Those that there still are. The watchdog only.
    pub(crate) fn all(&self) -> Vec<Arc<Gate>> {
        if !self.are_there() {
            return Vec::new();
        }
        let mut list = lock(&self.list);
        list.retain(|gate| gate.strong_count() > 0);
        self.are_there.store(!list.is_empty(), Ordering::Relaxed);
        list.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(all(test, pollwatch_loom))]
mod models;

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { high: 20, low: 10, sustain: 100 };

    #[test]
    fn the_share_is_that_of_the_odds() {
        assert!((0..1_000).all(|_| !lose(0, random()) && lose(ALL, random())));
        assert!(lose(ALL, u32::MAX) && !lose(0, 0));
        for tenths in 1..10u32 {
            let lost = (0..100_000).filter(|_| lose(ALL / 10 * tenths, random())).count();
            // Ten standard deviations.
            assert!(lost.abs_diff(tenths as usize * 10_000) < 1_600, "{lost} of 100,000 at {tenths}/10");
        }
    }

    #[test]
    fn threads_do_not_draw_alike() {
        let draw = || (0..8).map(|_| random()).collect::<Vec<_>>();
        let here = draw();
        assert_ne!(here, draw());
        assert_ne!(here, std::thread::spawn(draw).join().unwrap());
    }

    #[test]
    fn the_odds_grow_with_the_lag() {
        let odds = |lag| f64::from(MARKS.odds(lag)) / f64::from(ALL);
        for (lag, expected) in [(0, 0.0), (20, 0.0), (21, 0.05), (25, 0.25), (39, 0.95), (40, 1.0), (u64::MAX, 1.0)] {
            assert!((odds(lag) - expected).abs() < 1e-6, "{} at {lag}", odds(lag));
        }
        assert_eq!(Marks { high: 0, ..MARKS }.odds(2), ALL);
        assert_eq!(Marks { high: u64::MAX, ..MARKS }.odds(u64::MAX), 0);
    }

    #[test]
    fn a_gate_is_of_a_runtime_and_of_a_time() {
        let (clock, gate) = (Clock::new(), Gate::new(MARKS));
        let sent = Arc::default();
        let set = |runtime, lag, until| gate.set(runtime, lag, &sent, until);
        let turns_away = |runtime| gate.turns_away(&clock, runtime).unwrap_or(false);
        assert!(!gate.is_closed() && !turns_away(3));
        set(3, 40, u64::MAX);
        assert!(gate.is_closed() && turns_away(3) && !turns_away(2) && !turns_away(u16::MAX));
        set(3, 40, clock.nanos(clock.now()));
        assert!(!turns_away(3), "what the watchdog said a while ago");
        set(2, 40, u64::MAX);
        set(3, 0, u64::MAX);
        assert!(gate.is_closed() && !turns_away(3) && turns_away(2));
        set(2, 0, u64::MAX);
        assert!(!gate.is_closed());
        set(3, 40, u64::MAX);
        gate.open();
        assert!(!gate.is_closed() && !turns_away(3));
    }

    #[test]
    fn a_wake_that_waits_counts_where_requests_are_turned_away() {
        let (clock, gate, sent) = (Clock::new(), Gate::new(MARKS), Arc::new(AtomicU64::new(0)));
        gate.set(3, 1, &sent, u64::MAX);
        assert!((0..1_000).all(|_| gate.turns_away(&clock, 3) == Some(false)), "below the mark");
        sent.store(clock.now(), Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(gate.turns_away(&clock, 3), Some(true));
        gate.set(3, 0, &sent, u64::MAX);
        assert_eq!(gate.turns_away(&clock, 3), None, "one long poll does not begin it");
    }

    #[test]
    fn one_worker_is_kept_free_of_blocking_routes() {
        let gate = Arc::new(Gate::new(MARKS));
        assert!(gate.blocks(3) && !gate.blocks(1));
        for (workers, places) in [(4, 3), (2, 1), (1, 1), (0, 1)] {
            gate.set_workers(3, workers);
            let passes: Vec<_> = std::iter::from_fn(|| gate.pass(3)).collect();
            assert_eq!(passes.len(), places);
            assert!(gate.take_refused(3) && !gate.take_refused(3) && gate.pass(2).is_some());
            drop(passes);
            assert!(gate.pass(3).is_some() && !gate.take_refused(3));
        }
    }

    #[test]
    fn services_alike_share_a_gate_that_goes_with_the_last() {
        let gates = Gates::default();
        assert!(!gates.are_there());
        let (one, same, other) = (gates.get(MARKS), gates.get(MARKS), gates.get(Marks { high: 30, ..MARKS }));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!(gates.all().len(), 2);
        drop((one, same, other));
        assert!(gates.all().is_empty() && !gates.are_there());
    }
}

//! Tells stalls: symbols, log, callback. On a thread of its own, so that whatever takes long there keeps no stall from being found.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use pollwatch_stack::{RawStack, Stack, Symbolizer, preload};

use super::log;
use super::tasks::{TaskNews, TaskTeller};
use super::throttle::Throttle;
use crate::detect::overload::Turn;
use crate::detect::shedding;
use crate::measure::gate::Marks;
use crate::measure::route::RouteId;
use crate::measure::site::SiteId;
use crate::model::cause::Certainty;
use crate::model::stall::{Phase, Stall};
use crate::shared::Shared;
use crate::util::{call_user, lock};

/// Reports that may wait to be told.
pub(crate) const QUEUE: usize = 1_024;
/// Stalls remembered; a lost end must not keep one for ever.
const REMEMBERED: usize = 4 * QUEUE;
/// A callback that takes longer is told about, once.
const SLOW_CALLBACK: Duration = Duration::from_millis(100);
/// How often unused symbol tables are looked for.
const TIDY: Duration = Duration::from_secs(5);

/// What repeats are limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LogKey {
    pub(crate) runtime: u16,
    pub(crate) site: SiteId,
    /// The tasks of a web server's connections have one site.
    pub(crate) route: Option<RouteId>,
    /// What is suspected leaves room for what is known.
    pub(crate) certainty: Certainty,
}

/// Something to tell.
pub(crate) enum Told {
    Stall {
        stall: Box<Stall>,
        place: LogKey,
        stack: Option<RawStack>,
    },
    Pause {
        nanos: u64,
    },
    Task(TaskNews),
    Shed(shedding::Told),
    /// Something that cannot be done.
    Cannot(String),
}

/// A stall that was told and goes on.
#[derive(Default)]
struct Known {
    logged: bool,
    stack: Option<Stack>,
    location_changed: Option<bool>,
    /// Of its time, what stands in the profile.
    #[cfg(feature = "server")]
    counted: Duration,
}

/// See the module's text.
pub(crate) struct Teller {
    shared: Arc<Shared>,
    throttle: Throttle<LogKey>,
    pauses: Throttle<()>,
    tasks: TaskTeller,
    sheds: Throttle<(u16, Marks)>,
    /// Runtimes, with the marks of a gate, whose shedding was told to begin: since when, and how many requests had been turned away
    /// before.
    shedding: HashMap<(u16, Marks), (Instant, u64)>,
    /// By id: the oldest first.
    known: BTreeMap<u64, Known>,
    told_slow: bool,
}

impl Teller {
    pub(crate) fn new(shared: Arc<Shared>) -> Teller {
        Teller {
            shared,
            throttle: Throttle::new(),
            pauses: Throttle::new(),
            tasks: TaskTeller::new(),
            sheds: Throttle::new(),
            shedding: HashMap::new(),
            known: BTreeMap::new(),
            told_slow: false,
        }
    }

    /// Runs until nobody can have anything to tell any more.
    pub(crate) fn run(mut self, queue: Receiver<Told>) {
        // Here, since there is nothing to tell yet, and the watchdog looks from the start.
        if self.shared.capture {
            preload();
        }
        loop {
            let patience = if Symbolizer::shared().holds_tables() { TIDY } else { Duration::MAX };
            match queue.recv_timeout(patience) {
                Ok(told) => {
                    // A subscriber of the user's may panic; the next report is told all the same.
                    let panicked = call_user(|| match told {
                        Told::Stall { stall, place, stack } => self.tell(*stall, place, stack),
                        Told::Pause { nanos } => self.tell_pause(nanos),
                        Told::Task(news) => self.tell_task(&news),
                        Told::Shed(told) => self.tell_shed(told),
                        Told::Cannot(what) if self.shared.log => log::cannot(&what),
                        Told::Cannot(_) => {}
                    });
                    if panicked {
                        self.shared.callback_panics.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            Symbolizer::shared().release_unused();
        }
    }

    fn tell(&mut self, mut stall: Stall, place: LogKey, raw: Option<RawStack>) {
        let earlier = self.known.remove(&stall.id);
        let is_first = earlier.is_none();
        // Its end is logged if its begin was; one that comes with its end is logged as a begin would be.
        let may_begin = stall.phase == Phase::Ongoing || earlier.is_none();
        let mut known = earlier.unwrap_or_default();
        // Tables that have to be loaded first take some 100 ms: a new stall is told before, without its stack.
        let is_cold = is_first && may_begin && raw.as_ref().is_some_and(|raw| !Symbolizer::shared().is_loaded_for(raw));
        if is_cold {
            stall.explain();
            self.say(&stall, place, may_begin, is_first, &mut known);
        }
        if let Some(raw) = raw {
            let stack = Symbolizer::shared().symbolize(&raw);
            known.location_changed = known.stack.as_ref().map(|before| !before.is_same_location(&stack));
            known.stack = Some(stack);
        }
        (stall.stack, stall.location_changed) = (known.stack.clone(), known.location_changed);
        stall.explain();
        lock(&self.shared.book).describe(&stall);
        #[cfg(feature = "server")]
        if place.certainty != Certainty::Suspected {
            // Each look's stack stands for the time since the look before.
            let time = stall.elapsed.saturating_sub(known.counted);
            known.counted += time;
            lock(&self.shared.profile).add(&stall, time);
        }
        if !is_cold {
            self.say(&stall, place, may_begin, is_first, &mut known);
        }
        if stall.phase == Phase::Ongoing {
            self.known.insert(stall.id, known);
            if self.known.len() > REMEMBERED {
                self.known.pop_first();
            }
        }
    }

    /// One report, to the log and the callback.
    fn say(&mut self, stall: &Stall, place: LogKey, may_begin: bool, is_first: bool, known: &mut Known) {
        if known.logged {
            log::stall(stall, 0);
        } else if may_begin && let Some(untold) = self.admit(place, is_first) {
            known.logged = true;
            log::stall(stall, untold);
        }
        self.call(stall);
    }

    fn tell_pause(&mut self, nanos: u64) {
        let clock = &self.shared.meter.clock;
        if self.shared.log && self.pauses.admit((), clock.nanos(clock.now()), true).is_some() {
            log::pause(nanos as f64 / 1e9);
        }
    }

    fn tell_task(&mut self, news: &TaskNews) {
        let clock = &self.shared.meter.clock;
        if self.shared.log && !self.tasks.tell(news, clock.nanos(clock.now())) {
            self.shared.suppressed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The begin of shedding, and its end if its begin was told.
    fn tell_shed(&mut self, told: shedding::Told) {
        let meter = &self.shared.meter;
        let key = (told.runtime, told.marks);
        let name = || meter.runtimes.get(told.runtime).map_or_else(|| "other".into(), |runtime| runtime.name.clone());
        match told.turn {
            Turn::Begins if self.shared.log => {
                if let Some(untold) = self.sheds.admit(key, meter.clock.nanos(meter.clock.now()), true) {
                    self.shedding.insert(key, (Instant::now(), told.turned_away));
                    log::shedding_begins(&name(), told.lag, told.marks.high, untold);
                }
            }
            Turn::Begins => {}
            Turn::Ends => {
                if let Some((begin, before)) = self.shedding.remove(&key) {
                    log::shedding_ends(&name(), begin.elapsed(), told.turned_away.saturating_sub(before));
                }
            }
        }
    }

    /// Whether one of this place may be logged now; a stall counts as left out once, at its first report.
    fn admit(&mut self, place: LogKey, is_first: bool) -> Option<u64> {
        if !self.shared.log {
            return None;
        }
        let clock = &self.shared.meter.clock;
        let admitted = self.throttle.admit(place, clock.nanos(clock.now()), is_first);
        if admitted.is_none() && is_first {
            self.shared.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    fn call(&mut self, stall: &Stall) {
        let Some(callback) = &self.shared.on_stall else { return };
        let begin = Instant::now();
        if call_user(|| callback(stall)) {
            self.shared.callback_panics.fetch_add(1, Ordering::Relaxed);
        }
        if begin.elapsed() > SLOW_CALLBACK && !self.told_slow {
            self.told_slow = true;
            log::cannot(
                "an on_stall callback took more than 100 ms: later reports wait for it, and are lost when they are too many",
            );
        }
    }
}

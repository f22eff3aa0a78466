//! The watchdog thread: sleeps until a poll could be due, looks at all slots, has the changes told.

mod look;
mod rest;
mod unwatched;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use look::Seen;
use rest::CpuTime;

use super::driven::Driven;
use super::growth::Growth;
use super::live;
use super::pause::Pauses;
use super::scan::{Placement, Poll, Tracker};
use super::shedding::Shedding;
use super::suspect::Suspects;
use super::turns::{Turns, Verdict};
use super::waits::Waits;
use super::workers::Workers;
use crate::measure::runtime::Runtime;
use crate::measure::site::SiteId;
use crate::measure::slot::Frame;
use crate::measure::thread::ThreadState;
use crate::report::reporter::Reporter;
use crate::report::teller::Told;
use crate::shared::Shared;
use crate::sys::OwnRunDelay;
use crate::util::call_user;

/// After this long without a poll the watchdog sleeps until there is one.
const IDLE_NANOS: u64 = 1_000_000_000;
/// A runtime that is polling has its probe woken this often.
const PROBE_NANOS: u64 = 100_000_000;
/// And this often where requests are turned away when the runtime is late.
const SHED_PROBE_NANOS: u64 = 20_000_000;

/// While anything is polled, tasks are counted this often; so late at most is a panic told.
const TASKS_NANOS: u64 = 1_000_000_000;

/// A turn that panicked is not followed by the next at once.
const BACK_OFF: Duration = Duration::from_millis(10);

/// What is kept from one look to the next.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    reporter: Reporter,
    tracker: Tracker,
    pauses: Pauses,
    /// The threads that were in a poll when the last sleep began.
    cpu: HashMap<u64, CpuTime>,
    run_delay: OwnRunDelay,
    /// Its reading before the last sleep.
    delay: Option<u64>,
    waits: Waits,
    /// The moment up to which it is known whether the watchdog ran when it meant to. Standstills do not wait for it to sleep.
    trusted: u64,
    /// Runtimes whose probe was woken while they were polling.
    probing: HashMap<u16, Driven>,
    probed: u64,
    growth: Growth<(u16, SiteId)>,
    /// When tasks were counted.
    counted: u64,
    shedding: Shedding,
    /// Workers as they are seen from outside, and the stalls of those.
    workers: Workers,
    suspects: Suspects,
    suspected: HashMap<u64, u64>,
    turns: Turns,
    /// Changes whenever anything was polled.
    fingerprint: u64,
    active: u64,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, teller: SyncSender<Told>) -> Watcher {
        Watcher {
            reporter: Reporter::new(shared.clone(), teller),
            tracker: Tracker::new(shared.meter.threshold),
            workers: Workers::default(),
            suspects: Suspects::new(shared.meter.threshold),
            suspected: HashMap::new(),
            // Only the log tells of it.
            growth: Growth::new(if shared.log { shared.warn_above_alive_tasks } else { u64::MAX }),
            counted: 0,
            shared,
            pauses: Pauses::default(),
            cpu: HashMap::new(),
            run_delay: OwnRunDelay::open(),
            delay: None,
            waits: Waits::default(),
            trusted: 0,
            probing: HashMap::new(),
            probed: 0,
            shedding: Shedding::default(),
            turns: Turns::default(),
            fingerprint: 0,
            active: 0,
        }
    }

    /// Runs until the watchdog stops.
    pub(crate) fn run(mut self) {
        self.shared.meter.wake.set_thread(std::thread::current());
        self.trusted = self.now();
        loop {
            let stopping = self.shared.is_stopping();
            let panicked = call_user(|| self.turn(stopping));
            if stopping || panicked && !self.goes_on() {
                break;
            }
            if !panicked {
                self.turns.good();
            }
        }
        // Also where the last turn panicked before it did: nobody would open them any more.
        call_user(|| drop(self.shedding.open_all()));
        self.shared.watching.store(false, Ordering::Release);
    }

    /// After a turn that panicked, which is a defect of ours.
    fn goes_on(&mut self) -> bool {
        self.shared.watchdog_panics.fetch_add(1, Ordering::Relaxed);
        match self.turns.panicked() {
            Verdict::First => self.reporter.cannot(
                "the watchdog thread panicked, which is a defect of pollwatch: stalls of that moment may be told wrongly or not \
                 at all; it goes on"
                    .into(),
            ),
            Verdict::Again => {}
            Verdict::TooMany => {
                self.reporter.cannot(
                    "the watchdog thread panicked again and again, which is a defect of pollwatch: it has stopped, no stall is \
                     found any more; the program is not touched"
                        .into(),
                );
                return false;
            }
        }
        std::thread::sleep(BACK_OFF);
        self.trusted = self.now();
        true
    }

    /// One look, and the sleep until the next.
    fn turn(&mut self, stopping: bool) {
        #[cfg(test)]
        if self.shared.broken_turns.load(Ordering::Relaxed) > 0 {
            self.shared.broken_turns.fetch_sub(1, Ordering::Relaxed);
            panic!("as a test wants it");
        }
        let seen = self.look();
        self.mistrust(self.trusted);
        self.carry_out(&seen);
        self.suspect(&seen);
        if self.reporter.has_examined() {
            // A stack may have been waited for: the time that this took says nothing about the process.
            self.trusted = self.now();
        }
        self.reporter.tell_panics();
        if stopping {
            self.count_tasks();
            for told in self.shedding.open_all() {
                self.reporter.tell_shed(told);
            }
            return;
        }
        self.shed(&seen);
        self.probe(&seen);
        let sheds = self.shedding.late().next().is_some();
        if seen.fingerprint != self.fingerprint
            || !seen.look.running.is_empty()
            || self.tracker.has_stalls()
            || seen.workers.is_busy
            || sheds
        {
            self.fingerprint = seen.fingerprint;
            self.active = seen.now;
        }
        // Comes between what was polled last and the sleep that follows on it.
        if self.active >= self.counted && seen.now.saturating_sub(self.counted) >= TASKS_NANOS {
            self.counted = seen.now;
            if self.growth.may_change(self.most_tasks()) {
                self.count_tasks();
            }
        }
        if seen.now.saturating_sub(self.active) >= IDLE_NANOS {
            self.sleep_until_a_poll();
        } else {
            self.sleep(&seen);
        }
        self.shared.wakeups.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        let clock = &self.shared.meter.clock;
        clock.nanos(clock.now())
    }

    /// Has the changes told.
    fn carry_out(&mut self, seen: &Seen) {
        let place = |poll: &Poll| place(&self.shared, seen, poll);
        let changes = self.tracker.step(seen.now, &seen.look, &self.pauses, place);
        for change in changes {
            let (cpu, waits) = (&self.cpu, &self.waits);
            self.reporter.tell(change, seen.at, |poll| {
                let id = poll.key.thread;
                let thread = seen.threads.get(&id)?.clone();
                let first = cpu.get(&id).filter(|cpu| cpu.poll == poll.key).map(|cpu| cpu.first);
                let before = waits.before(id, poll.begin, thread.waited);
                Some((thread, first, before))
            });
        }
    }

    /// Has requests turned away, or let in again, by what the probes answered.
    fn shed(&mut self, seen: &Seen) {
        for told in self.shedding.step(&self.shared.meter, seen.now, &seen.look) {
            self.reporter.tell_shed(told);
        }
    }

    /// Wakes the probes of the runtimes that have been polling.
    fn probe(&mut self, seen: &Seen) {
        let polls: HashMap<u16, u64> = seen.look.running.iter().map(|poll| (poll.runtime, poll.key.thread)).collect();
        let mut polling: HashSet<u16> = polls.keys().copied().collect();
        let runtime = |id: u16| self.shared.meter.runtimes.get(id);
        // A current-thread runtime that nobody drives answers no probe: what it waits for is not its schedule.
        self.probing.retain(|id, driven| {
            let poll = polls.get(id).copied();
            let state = |thread| seen.threads.get(&thread).map(|thread: &Arc<ThreadState>| thread.slot.state());
            let idle = !driven.look(seen.now, poll, state);
            if let Some(runtime) = runtime(*id).filter(|runtime| idle && !runtime.is_multi_thread()) {
                runtime.probe.withdraw();
            }
            !idle
        });
        if seen.now.saturating_sub(self.probed) < self.probe_interval() {
            return;
        }
        self.probed = seen.now;
        // To hear that it is over.
        polling.extend(self.shedding.late());
        for id in polling {
            if let Some(runtime) = runtime(id) {
                if runtime.probe.send(self.shared.meter.clock.now()) {
                    self.shedding.sent(id);
                }
                self.probing.entry(id).or_insert_with(|| Driven::new(seen.now, polls.get(&id).copied()));
            }
        }
    }

    /// How many tasks the largest runtime has: no place of it has more.
    fn most_tasks(&self) -> u64 {
        let runtimes = self.shared.meter.runtimes.all();
        let alive = runtimes.iter().filter_map(|runtime| Some(runtime.metrics()?.num_alive_tasks()));
        alive.max().unwrap_or(0) as u64
    }

    /// Has the places told that have too many tasks.
    fn count_tasks(&mut self) {
        for (place, alive) in self.growth.judge(&self.shared.meter.alive()) {
            self.reporter.tell_growth(place, alive);
        }
    }

    fn probe_interval(&self) -> u64 {
        if self.shedding.is_wanted() { SHED_PROBE_NANOS } else { PROBE_NANOS }
    }
}

fn place(shared: &Shared, seen: &Seen, poll: &Poll) -> Placement {
    let thread = seen.threads.get(&poll.key.thread);
    let Some(thread) = thread else { return Placement::Over };
    let frame = thread.slot.read().and_then(|r| r.frames().iter().find(|f| f.number == poll.key.number).copied());
    let (Some(frame), Some(runtime)) = (frame, shared.meter.runtimes.get(poll.runtime)) else {
        return Placement::Over;
    };
    on(&runtime, thread, &frame)
}

fn on(runtime: &Runtime, thread: &ThreadState, frame: &Frame) -> Placement {
    match live::worker_of(runtime, thread, frame) {
        Some(worker) => Placement::Worker(worker),
        None if thread.slot.holds(frame.number) => Placement::Off,
        None => Placement::Over,
    }
}

//! The watchdog thread: sleeps until a poll could be due, looks at all slots, has the changes told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::driven::Driven;
use super::examine::First;
use super::growth::Growth;
use super::live::{self, Still};
use super::pause::{Pauses, Sleep};
use super::procfs;
use super::scan::{Change, EndedPoll, EndedRequest, Look, Placement, Poll, PollKey, Request, Tracker};
use super::shedding::Shedding;
use super::suspect::{Suspects, Verdict};
use super::waits::Waits;
use super::workers::{self, Eyes, Workers};
use crate::measure::ended::Ended;
use crate::measure::route::RouteId;
use crate::measure::runtime::Runtime;
use crate::measure::site::SiteId;
use crate::measure::slot::{Frame, Kind, Reading, What};
use crate::measure::thread::ThreadState;
use crate::report::reporter::{Reporter, Unwatched};
use crate::report::teller::Told;
use crate::shared::Shared;
use crate::sys::{self, OwnRunDelay};

/// After this long without a poll the watchdog sleeps until there is one.
const IDLE_NANOS: u64 = 1_000_000_000;
/// A runtime that is polling has its probe woken this often.
const PROBE_NANOS: u64 = 100_000_000;
/// And this often where requests are turned away when the runtime is late.
const SHED_PROBE_NANOS: u64 = 20_000_000;

/// While anything is polled, tasks are counted this often; so late at most is a panic told.
const TASKS_NANOS: u64 = 1_000_000_000;

/// Workers that are seen from outside are looked at four times a threshold, but not more often than this.
const LEAST_LOOK: u64 = 500_000;

/// A poll that has lasted this long may come to be a stall: more is noted about its thread.
const LONG_NANOS: u64 = 500_000;

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
    /// Changes whenever anything was polled.
    fingerprint: u64,
    active: u64,
}

/// The CPU time of a thread in a poll.
#[derive(Clone, Copy)]
struct CpuTime {
    poll: PollKey,
    tid: i32,
    first: First,
    /// When the last sleep began.
    latest: u64,
}

/// A look, with the threads that it speaks of.
struct Seen {
    at: u64,
    now: u64,
    look: Look,
    threads: HashMap<u64, Arc<ThreadState>>,
    workers: workers::Look,
    fingerprint: u64,
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
            growth: Growth::new(if shared.log { shared.alive_tasks_limit } else { u64::MAX }),
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
            fingerprint: 0,
            active: 0,
        }
    }

    /// Runs until the watchdog stops.
    pub(crate) fn run(mut self) {
        self.shared.meter.wake.set_thread(std::thread::current());
        self.reporter.warm();
        self.trusted = self.now();
        loop {
            let stopping = self.shared.is_stopping();
            let seen = self.look();
            self.mistrust(self.trusted);
            if self.carry_out(&seen) | self.suspect(&seen) {
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
    }

    /// Reads all slots, then what has ended: a poll that is in neither began after.
    fn look(&mut self) -> Seen {
        let shared = self.shared.clone();
        let meter = &shared.meter;
        let at = meter.clock.now();
        let mut look = Look::default();
        let mut threads = HashMap::new();
        let mut fingerprint = 0u64;
        let live = meter.threads();
        for thread in &live {
            match thread.slot.read() {
                Some(mut reading) => {
                    if meter.sampled {
                        thread.slot.note(&mut reading, meter.clock.now());
                    }
                    fingerprint = fingerprint.wrapping_add(reading.state);
                    self.polls_of(thread, &reading, &mut look.running);
                }
                None => {
                    fingerprint = fingerprint.wrapping_add(1);
                    look.unread.push(thread.id);
                }
            }
        }
        for thread in live.into_iter().chain(meter.take_departed()) {
            thread.ended.drain(|ended| match What::unpack(ended.what) {
                What { kind: Kind::Route, route, .. } => {
                    look.ended_requests.extend(route.map(|route| self.ended_request_of(&thread, &ended, route)));
                }
                what => look.ended.push(self.ended_of(&thread, &ended, what)),
            });
            threads.insert(thread.id, thread);
        }
        let workers = self.workers.look(meter);
        // As it was before: a worker that is unparked meanwhile keeps the watchdog from falling asleep.
        fingerprint = fingerprint.wrapping_add(workers.fingerprint);
        Seen { at, now: meter.clock.nanos(at), look, threads, workers, fingerprint }
    }

    fn polls_of(&self, thread: &ThreadState, reading: &Reading, polls: &mut Vec<Poll>) {
        let clock = &self.shared.meter.clock;
        for (frame, what, stands) in reading.polls() {
            let mut poll = self.poll_of(thread, frame.number, frame.begin, what, frame.task);
            poll.watched = reading.scope_of(frame);
            poll.spawned_under = reading.spawned_under(frame);
            poll.request = reading.request_of(frame).map(|(request, route)| Request {
                frame: request.number,
                route,
                begin: clock.nanos(request.begin),
            });
            poll.stands_since = stands.map(|reading| clock.nanos(reading));
            if clock.since(frame.begin) >= self.shared.meter.threshold {
                poll.waited = self.waited(thread, poll.begin);
            }
            polls.push(poll);
        }
    }

    fn poll_of(&self, thread: &ThreadState, number: u64, begin: u64, what: What, task: u64) -> Poll {
        Poll {
            key: PollKey { thread: thread.id, number },
            begin: self.shared.meter.clock.nanos(begin),
            runtime: what.runtime,
            site: thread.tally.cell(what.index).map_or(SiteId::OTHER, |cell| cell.site()),
            watched: None,
            request: None,
            spawned_under: what.route,
            task,
            stands_since: None,
            waited: 0,
        }
    }

    fn ended_request_of(&self, thread: &ThreadState, ended: &Ended, route: RouteId) -> EndedRequest {
        let begin = self.shared.meter.clock.nanos(ended.begin);
        let poll = PollKey { thread: thread.id, number: ended.task };
        EndedRequest { poll, request: Request { frame: ended.number, route, begin }, nanos: ended.nanos }
    }

    fn ended_of(&self, thread: &ThreadState, ended: &Ended, what: What) -> EndedPoll {
        let poll = self.poll_of(thread, ended.number, ended.begin, what, ended.task);
        EndedPoll {
            poll: Poll { waited: self.waited(thread, poll.begin), ..poll },
            nanos: ended.nanos,
            worker: ended.worker,
        }
    }

    /// How long a thread has been kept from a CPU since the last look before a poll of it began, as far as that is known.
    fn waited(&self, thread: &ThreadState, begin: u64) -> u64 {
        let waited = || Some(procfs::run_delay(thread.tid?)?.saturating_sub(self.waits.before(thread.id, begin)?));
        waited().unwrap_or(0)
    }

    fn now(&self) -> u64 {
        let clock = &self.shared.meter.clock;
        clock.nanos(clock.now())
    }

    /// Has the changes told; whether there were any.
    fn carry_out(&mut self, seen: &Seen) -> bool {
        let place = |poll: &Poll| place(&self.shared, seen, poll);
        let changes = self.tracker.step(seen.now, &seen.look, &self.pauses, place);
        let told = changes.iter().any(|change| !matches!(change, Change::GoesOn { .. }));
        for change in changes {
            let (cpu, waits) = (&self.cpu, &self.waits);
            self.reporter.tell(change, seen.at, |poll| {
                let id = poll.key.thread;
                let thread = seen.threads.get(&id)?.clone();
                let first = cpu.get(&id).filter(|cpu| cpu.poll == poll.key).map(|cpu| cpu.first);
                Some((thread, first, waits.before(id, poll.begin)))
            });
        }
        told
    }

    /// Has the workers told that are blocked by tasks that nobody wrapped; whether there were any.
    fn suspect(&mut self, seen: &Seen) -> bool {
        if seen.workers.is_blind() && self.suspected.is_empty() {
            return false;
        }
        self.workers.learn(&seen.workers, &mut self.reporter);
        let mut eyes = Eyes { look: &seen.workers, workers: &self.workers, reporter: &mut self.reporter };
        let verdicts = self.suspects.step(seen.now, &seen.workers.sightings, &self.pauses, &mut eyes);
        let told = verdicts.iter().any(|verdict| !matches!(verdict, Verdict::GoesOn { .. }));
        for verdict in verdicts {
            self.tell_verdict(verdict, seen);
        }
        told
    }

    fn tell_verdict(&mut self, verdict: Verdict, seen: &Seen) {
        let change = match verdict {
            Verdict::Began { thread, certainty, stands, begin, elapsed } => {
                let Some(busy) = seen.workers.busy.get(&thread) else { return };
                let id = self.tracker.new_id();
                self.suspected.insert(thread, id);
                let mut still = busy.still.clone();
                still.cpu = still.cpu.filter(|_| stands);
                let unwatched = Unwatched {
                    id,
                    runtime: busy.runtime,
                    worker: busy.index,
                    thread: busy.state.clone(),
                    still: Still::Worker(still),
                    certainty,
                    begin,
                    elapsed,
                };
                return self.reporter.tell_unwatched(unwatched, seen.at);
            }
            Verdict::Continued { thread, elapsed } => {
                self.suspected.get(&thread).map(|&id| Change::Continued { id, elapsed })
            }
            Verdict::GoesOn { thread, elapsed } => {
                self.suspected.get(&thread).map(|&id| Change::GoesOn { id, elapsed })
            }
            Verdict::Ended { thread, elapsed } => {
                self.suspected.remove(&thread).map(|id| Change::Ended { id, elapsed })
            }
        };
        if let Some(change) = change {
            self.reporter.tell(change, seen.at, |_| None);
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

    fn sleep(&mut self, seen: &Seen) {
        let delay = self.run_delay.nanos();
        self.mistrust(self.trusted);
        self.remember_waits(seen, delay.zip(self.delay).map_or(0, |(now, then)| now.saturating_sub(then)));
        self.delay = delay;
        self.remember_cpu(seen);
        let begin = self.now();
        let mut due = self.tracker.next_look(seen.now, &seen.look, &self.pauses).min(seen.now + TASKS_NANOS);
        if self.shedding.is_wanted() {
            due = due.min(self.probed + SHED_PROBE_NANOS);
        }
        if !seen.workers.is_blind() {
            due = due.min(seen.now + (self.shared.meter.threshold / 4).max(LEAST_LOOK));
        }
        if self.shared.meter.sampled {
            // What has begun unseen is seen soon.
            due = due.min(seen.now + self.shared.meter.threshold / 4);
        }
        let due = due.max(begin);
        std::thread::park_timeout(Duration::from_nanos(due - begin));
        self.mistrust(due);
    }

    /// Whether this moment is later than it was `due` to be, and why.
    fn mistrust(&mut self, due: u64) {
        let end = self.now();
        let begin = std::mem::replace(&mut self.trusted, end);
        let mut sleep = Sleep { begin, due, end, own_run_delay: None, busiest: None };
        let threshold = self.shared.meter.threshold;
        if !sleep.overslept(threshold) {
            return;
        }
        self.shared.oversleeps.fetch_add(1, Ordering::Relaxed);
        sleep.own_run_delay = self.delay.zip(self.run_delay.nanos()).map(|(then, now)| now.saturating_sub(then));
        sleep.busiest = self.busiest();
        if let Some(nanos) = self.pauses.note(&sleep, threshold) {
            self.reporter.tell_pause(nanos);
        }
    }

    fn sleep_until_a_poll(&mut self) {
        self.cpu.clear();
        let meter = &self.shared.meter;
        let fingerprint = self.fingerprint;
        meter.wake.fall_asleep(|| {
            let threads = meter.threads();
            let states = threads.iter().map(|thread| thread.slot.state());
            let now = states.fold(workers::fingerprint(meter), u64::wrapping_add);
            !self.shared.is_stopping() && !meter.panics.any() && now == fingerprint
        });
        self.trusted = self.now();
        // Whatever woke it, there is something to watch for a while.
        if self.shared.meter.wake.is_exact() {
            self.active = self.trusted;
        }
    }

    fn remember_waits(&mut self, seen: &Seen, own: u64) {
        let mut begins: HashMap<u64, u64> = HashMap::new();
        for poll in &seen.look.running {
            begins.entry(poll.key.thread).or_insert(poll.begin);
        }
        let threads = seen.threads.keys().map(|id| (*id, begins.get(id).copied()));
        let clock = &self.shared.meter.clock;
        self.waits.note(seen.now, own, threads, |id| {
            let waited = procfs::run_delay(seen.threads.get(&id)?.tid?)?;
            Some((clock.nanos(clock.now()), waited))
        });
    }

    fn remember_cpu(&mut self, seen: &Seen) {
        let mut now = HashMap::new();
        for poll in &seen.look.running {
            let tid = seen.threads.get(&poll.key.thread).and_then(|t| t.tid);
            let Some((tid, latest)) = tid.and_then(|tid| Some((tid, sys::thread_cpu_nanos(tid)?))) else { continue };
            let known = self.cpu.get(&poll.key.thread).filter(|cpu| cpu.poll == poll.key);
            let mut first = known.map_or(First { cpu: latest, at: self.now(), run_delay: None }, |cpu| cpu.first);
            // Costs some microseconds: only for polls that are already longer than those of a healthy service.
            if first.run_delay.is_none() && seen.now.saturating_sub(poll.begin) >= LONG_NANOS {
                first.run_delay = procfs::run_delay(tid);
            }
            now.insert(poll.key.thread, CpuTime { poll: poll.key, tid, first, latest });
        }
        self.cpu = now;
    }

    /// The most that one of them has used since the last sleep began.
    fn busiest(&self) -> Option<u64> {
        let used = |cpu: &CpuTime| Some(sys::thread_cpu_nanos(cpu.tid)?.saturating_sub(cpu.latest));
        self.cpu.values().filter_map(used).max()
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

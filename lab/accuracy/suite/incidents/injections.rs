//! The injections: conditions that become incidents, and what resembles one.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use pollwatch::{IncidentKind, Watchdog};
use test_support::{Gate, TIMEOUT, keep_driver, spawn_measured};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use super::super::ground_truth::{Span, at, now};
use super::super::kinds::compute;
use super::super::modes::UNSTABLE;
use super::super::rng::Rng;
use super::evaluation::{TrueCondition, must_report};
use super::provoked::{BlockedWorkers, Deadlocked, Ticker};
use super::{AFTER, PATIENCE, POOL_FULL_AFTER, POOL_THREADS};

/// The moment at which a task that the driver has woken blocks.
const WOKEN_AFTER: Duration = Duration::from_millis(25);

/// The time within which the pools are read, also by a watchdog that is given its CPU late: four
/// times the interval of these readings.
const POOL_READ_WITHIN: Duration = POOL_FULL_AFTER;

/// True where holders of locks are searched for.
const FINDS_DEADLOCKS: bool = cfg!(all(target_env = "gnu", target_arch = "x86_64"));

/// Returns true if incidents of this kind are found in this build.
pub(crate) fn can_occur(kind: IncidentKind) -> bool {
    match kind {
        IncidentKind::BlockingPoolFull => UNSTABLE,
        IncidentKind::Deadlock => FINDS_DEADLOCKS,
        _ => true,
    }
}

/// A runtime under test.
pub(super) struct TestedRuntime {
    pub(super) name: Arc<str>,
    pub(super) workers: usize,
    /// The number of blocked workers that is an incident.
    pub(super) needed: usize,
    pub(super) runtime: Runtime,
    pub(super) watchdog: Watchdog,
}

/// What is injected once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injection {
    /// A condition that is an incident if it lasts.
    Condition(IncidentKind),
    /// Fewer blocked workers than an incident needs, while another one attends the driver.
    FewBlocked,
    /// Blocks of all workers, each of which is short, without a pause between them.
    ShortBlocks,
    Idle,
    /// More tasks than workers, which compute in short polls.
    FullLoad,
    /// `block_in_place` on every worker.
    BlockInPlace,
    /// Busy threads of the whole blocking pool, for which no call waits.
    BusyPool,
}

impl TestedRuntime {
    /// Returns all injections into this runtime, in a random order, each with its length.
    pub(super) fn shuffled(&self, rng: &mut Rng) -> Vec<(Injection, Duration)> {
        let after = AFTER.as_nanos() as f64;
        let mut all = Vec::new();
        for kind in IncidentKind::ALL.iter().copied().filter(|kind| self.can_have(*kind)) {
            let (short, long) = (rng.between(0.2, 0.8) * after, rng.between(0.1, 1.5) * after);
            all.push((Injection::Condition(kind), Duration::from_nanos(short as u64)));
            all.push((Injection::Condition(kind), Duration::from_nanos(must_report(kind) + long as u64)));
        }
        let mut others = vec![Injection::ShortBlocks, Injection::Idle, Injection::FullLoad, Injection::BlockInPlace];
        others.extend(UNSTABLE.then_some(Injection::BusyPool));
        others.extend((self.needed > 1).then_some(Injection::FewBlocked));
        for injection in others {
            all.push((injection, AFTER.mul_f64(rng.between(2.0, 3.0))));
        }
        for last in (1..all.len()).rev() {
            all.swap(last, rng.below(last + 1));
        }
        all
    }

    fn can_have(&self, kind: IncidentKind) -> bool {
        // Fewer than all workers are enough for one kind alone.
        let is_whole = self.needed == self.workers;
        can_occur(kind)
            && match kind {
                IncidentKind::WorkersBlocked => true,
                IncidentKind::DriverUnattended => is_whole && self.workers > 1,
                _ => is_whole,
            }
    }

    fn condition(&self, kind: IncidentKind, span: Span) -> TrueCondition {
        TrueCondition { kind, runtime: self.name.clone(), span, is_injected: true }
    }

    /// Returns a condition that was not injected, but may have occurred.
    fn side_effect(&self, kind: IncidentKind, span: Span) -> TrueCondition {
        TrueCondition { is_injected: false, ..self.condition(kind, span) }
    }

    /// Returns the times in which nobody may have attended the driver, as side effects.
    fn unattended(&self, gaps: Vec<Span>) -> impl Iterator<Item = TrueCondition> {
        gaps.into_iter().map(|gap| self.side_effect(IncidentKind::DriverUnattended, gap))
    }

    /// Blocks some workers. Returns the conditions that this was, by the record of the blocked
    /// tasks and of a timer.
    fn block(&self, count: usize, delay: Option<Duration>, length: Duration) -> Vec<TrueCondition> {
        let (handle, start) = (self.runtime.handle(), now());
        let ticker = Ticker::start(handle);
        let blocked = BlockedWorkers::spawn(self, count, delay);
        let Some(starts) = blocked.wait_blocked(handle) else {
            return self.unattended(ticker.stop(Vec::new(), Span { start, end: blocked.end() })).collect();
        };
        let first = starts.iter().copied().min().unwrap_or(0);
        let latest = starts.iter().copied().max().unwrap_or(0);
        // A worker that the driver has woken leaves it unattended. Otherwise another one attends
        // it, once it is woken.
        let is_attended = delay.is_none() && count < self.workers;
        let ticks = if is_attended { ticker.await_attended(handle, latest) } else { Vec::new() };
        std::thread::sleep(length);
        let end = blocked.end();
        let all = Span { start: latest, end };
        // Where all workers are blocked, the driver is unattended only until then.
        let within = Span { start: first, end: if count == self.workers { latest } else { end } };
        let mut conditions: Vec<_> = self.unattended(ticker.stop(ticks, within)).collect();
        // The longest one.
        conditions[0].is_injected = delay.is_some();
        if count >= self.needed {
            conditions.push(self.condition(IncidentKind::WorkersBlocked, all));
        }
        conditions
    }

    /// Blocks the worker that leaves the driver, until no other one was woken meanwhile. That may
    /// happen by chance.
    fn leave_driver(&self, length: Duration) -> Vec<TrueCondition> {
        let (mut all, start) = (Vec::new(), Instant::now());
        while start.elapsed() < PATIENCE {
            let conditions = self.block(1, Some(WOKEN_AFTER), length);
            let is_unattended = conditions.iter().any(|condition| condition.span.nanos() >= length.as_nanos() as u64);
            all.extend(conditions);
            if is_unattended {
                break;
            }
        }
        all
    }

    fn deadlock(&self, length: Duration) -> Vec<TrueCondition> {
        let (handle, spawned) = (self.runtime.handle(), now());
        let ticker = Ticker::start(handle);
        let deadlocked = Deadlocked::spawn(self);
        let start = deadlocked.wait_blocked(handle);
        let all_are_blocked = self.workers <= 2;
        let ticks = if all_are_blocked { Vec::new() } else { ticker.await_attended(handle, start.waits) };
        std::thread::sleep(length);
        let span = Span { start: start.waits, end: deadlocked.end() };
        // Where all workers are blocked, the driver is unattended only until then. A participant
        // may block its worker earlier.
        let within = Span { start: spawned, end: if all_are_blocked { start.waits } else { span.end } };
        let mut conditions: Vec<_> = self.unattended(ticker.stop(ticks, within)).collect();
        conditions.push(self.condition(IncidentKind::Deadlock, span));
        if all_are_blocked {
            let blocked = Span { start: start.entered, ..span };
            conditions.push(self.condition(IncidentKind::WorkersBlocked, blocked));
        }
        conditions
    }

    fn hang(&self, length: Duration) -> TrueCondition {
        let kept = keep_driver(self.runtime.handle(), WOKEN_AFTER);
        let start = at(kept.wait_entered());
        std::thread::sleep(length);
        let end = now();
        drop(kept);
        self.condition(IncidentKind::RuntimeHung, Span { start, end })
    }

    /// Occupies all threads of the pool, with `waiting` calls behind them. Returns for how long the
    /// calls waited.
    fn occupy_pool(&self, waiting: usize, length: Duration) -> Span {
        let (gate, (starts, started)) = (Gate::new(), channel());
        // The pool is full while its last threads start, since their calls wait for them.
        let (mut calls, start) = (Vec::new(), now());
        for _ in 0..POOL_THREADS {
            let (key, starts) = (gate.key(), starts.clone());
            calls.push(self.runtime.spawn_blocking(move || {
                let _ = starts.send(());
                key.pass();
            }));
        }
        (0..POOL_THREADS).for_each(|_| started.recv_timeout(TIMEOUT).expect("a thread of the pool is free"));
        calls.extend((0..waiting).map(|_| self.runtime.spawn_blocking(|| ())));
        std::thread::sleep(length);
        let end = now();
        gate.open();
        calls.into_iter().for_each(|call| self.runtime.block_on(call).expect("a call does not panic"));
        // tokio publishes no more than the state of the pool. If it is full again before the next
        // reading, that is the same condition, as far as readings can show.
        std::thread::sleep(POOL_READ_WITHIN);
        Span { start, end }
    }

    /// Runs tasks, and returns when they have ended.
    fn run_tasks<F: Future<Output = ()> + Send + 'static>(&self, count: usize, task: impl Fn() -> F) {
        let handle = self.runtime.handle();
        let tasks: Vec<_> = (0..count).map(|_| spawn_measured(&self.watchdog, handle, task()).0).collect();
        tasks.into_iter().for_each(|task| self.runtime.block_on(task).expect("a task does not panic"));
    }

    /// Runs short blocks on all workers. Returns the conditions that those were which the machine
    /// made long.
    fn short_blocks(&self, length: Duration) -> Vec<TrueCondition> {
        self.short_polls(self.workers, length, AFTER / 2, || std::thread::sleep(AFTER / 4))
    }

    /// Computes in short polls on all workers. Returns the conditions that those were which the
    /// machine made long: a worker that is given no CPU within a poll is blocked.
    fn full_load(&self, length: Duration) -> Vec<TrueCondition> {
        self.short_polls(4 * self.workers, length, AFTER / 4, || {
            compute(Duration::from_micros(200));
        })
    }

    /// Runs tasks of short polls. Returns the times in which at least one poll had lasted for
    /// `long`, as side effects: all workers were blocked at most then.
    fn short_polls(
        &self,
        count: usize,
        length: Duration,
        long: Duration,
        poll: impl Fn() + Copy + Send + 'static,
    ) -> Vec<TrueCondition> {
        let ((spans, long_polls), end) = (channel(), Instant::now() + length);
        self.run_tasks(count, || {
            let spans = spans.clone();
            async move {
                while Instant::now() < end {
                    let start = now();
                    poll();
                    let span = Span { start, end: now() };
                    if u128::from(span.nanos()) > long.as_nanos() {
                        let _ = spans.send(span);
                    }
                    yield_now().await;
                }
            }
        });
        drop(spans);
        let spans = unions(long_polls.iter().collect());
        spans.into_iter().map(|span| self.side_effect(IncidentKind::WorkersBlocked, span)).collect()
    }
}

/// Returns the times that are in at least one of the spans.
fn unions(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| span.start);
    let mut unions: Vec<Span> = Vec::new();
    for span in spans {
        match unions.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => unions.push(span),
        }
    }
    unions
}

/// Injects once, and returns the conditions that this was.
pub(super) fn inject(runtime: &TestedRuntime, injection: Injection, length: Duration) -> Vec<TrueCondition> {
    match injection {
        Injection::Condition(IncidentKind::WorkersBlocked) => runtime.block(runtime.needed, None, length),
        Injection::Condition(IncidentKind::DriverUnattended) => runtime.leave_driver(length),
        Injection::Condition(IncidentKind::RuntimeHung) => vec![runtime.hang(length)],
        Injection::Condition(IncidentKind::BlockingPoolFull) => {
            vec![runtime.condition(IncidentKind::BlockingPoolFull, runtime.occupy_pool(2, length))]
        }
        Injection::Condition(IncidentKind::Deadlock) => runtime.deadlock(length),
        Injection::Condition(kind) => unreachable!("nothing provokes {kind}"),
        Injection::FewBlocked => runtime.block(runtime.needed - 1, None, length),
        Injection::ShortBlocks => runtime.short_blocks(length),
        Injection::Idle => {
            std::thread::sleep(length);
            Vec::new()
        }
        Injection::FullLoad => runtime.full_load(length),
        Injection::BlockInPlace => {
            let nap = move || std::thread::sleep(length);
            runtime.run_tasks(runtime.workers, || async move { tokio::task::block_in_place(nap) });
            Vec::new()
        }
        Injection::BusyPool => {
            runtime.occupy_pool(0, length);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_polls_explain_nothing_beside_them() {
        let span = |start, end| Span { start, end };
        let all = vec![span(50, 60), span(10, 20), span(15, 30), span(12, 18)];
        assert_eq!(unions(all), [span(10, 30), span(50, 60)]);
    }
}

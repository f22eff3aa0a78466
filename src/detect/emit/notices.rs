//! Findings that need no examination of a thread: what is only logged, and the victims of stalls.

use std::sync::Arc;
use std::time::SystemTime;

use super::Emitter;
use crate::detect::late::{Lateness, PollUsage};
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::stack_coverage;
use crate::detect::victims::{VictimCount, VictimCounts, VictimGroupKey};
use crate::measure::primitives::frame::MAX_RUNTIMES;
use crate::measure::primitives::route::RouteId;
use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::MAX_THREADS;
use crate::model::condition::ConditionChange;
use crate::model::event::{Event, Notice, TaskGroup};
use crate::model::id::{RuntimeId, SiteId, StallId};
use crate::model::late_runtime::{LateRuntime, RouteUsage, SiteUsage};
use crate::model::time::Nanos;
use crate::model::victims::{VictimGroup, Victims};

impl Emitter {
    /// Emits, once, a reason for missing stacks that was not known at the start.
    pub(in crate::detect) fn report_degradation(&mut self) {
        let now = stack_coverage::now(self.stacks);
        if !self.has_reported_degradation
            && now != self.stacks
            && let Some((which, why)) = now.lacking()
        {
            self.has_reported_degradation = true;
            self.emit_degraded(format!("{which} are reported without stacks: {why}"));
        }
    }

    /// Emits, once, that there are too many threads to measure them all.
    pub(in crate::detect) fn report_refused_threads(&mut self) {
        if self.has_reported_refused_threads || self.meter.refused_threads() == 0 {
            return;
        }
        self.has_reported_refused_threads = true;
        self.emit_degraded(format!(
            "more than {MAX_THREADS} threads poll watched runtimes or futures at a time: further threads are not measured, \
             and stalls on them are not reported; use fewer threads, or watch no futures on threads of their own"
        ));
    }

    /// Emits, once, that runtimes are not watched because all names are taken, unless the line was
    /// logged when one of them was built.
    pub(in crate::detect) fn report_unnamed_runtimes(&mut self) {
        let runtimes = &self.meter.runtimes;
        if runtimes.unnamed() > 0 && runtimes.claim_report_of_unnamed() {
            self.emit_degraded(format!(
                "some runtimes are not watched: one watchdog distinguishes {} names, and they are taken. Their polls count \
                 for the runtime \"other\". Use fewer runtimes at a time (for actix-web: `HttpServer::workers`), or watch \
                 some of them with another watchdog",
                MAX_RUNTIMES - 1
            ));
        }
    }

    /// Emits, once, that nothing unmeasured is found on the threads of current-thread runtimes.
    pub(in crate::detect) fn report_missing_symbols(&mut self) {
        let is_current_thread = |runtime: &Arc<Runtime>| runtime.driven().is_some();
        if !self.has_reported_missing_symbols
            && stack_coverage::now(self.stacks).has_waiting_threads()
            && TokioFunctions::lacks_current_thread()
            && self.meter.runtimes.all().iter().any(is_current_thread)
        {
            self.has_reported_missing_symbols = true;
            self.emit_degraded(
                "what blocks the thread of a current-thread runtime is found only where it is watched: the program has no \
                 symbols of tokio. Build it without `strip`, or with `strip = \"debuginfo\"`",
            );
        }
    }

    /// Emits that a function of pollwatch is missing or limited.
    pub(in crate::detect) fn emit_degraded(&mut self, what: impl Into<String>) {
        self.emit(Event::Notice(Notice::Degraded(what.into())));
    }

    /// Emits a change of a condition of a whole runtime.
    pub(in crate::detect) fn emit_condition(&mut self, change: ConditionChange) {
        self.emit(Event::Condition(Box::new(change)));
    }

    /// Emits that the process was stopped for a time.
    pub(in crate::detect) fn emit_pause(&mut self, length: Nanos) {
        self.emit(Event::Notice(Notice::ProcessPaused(length.to_duration())));
    }

    /// Emits the panics of tasks since the previous call.
    pub(in crate::detect) fn emit_task_panics(&mut self) {
        for panic in self.meter.panics.take() {
            let group = self.task_group(panic.runtime, panic.site);
            // SAFETY: the bits are those that `TaskBits::of` made in the panic's task.
            let task = unsafe { panic.task.id() };
            self.emit(Event::Notice(Notice::TaskPanicked { group, task, message: panic.text }));
        }
    }

    /// Emits the tasks that have waited behind a stall so far.
    pub(in crate::detect) fn emit_victims(&mut self, id: StallId, counts: &VictimCounts) {
        let group = |(key, count): (&VictimGroupKey, &VictimCount)| {
            let (route, site) = match *key {
                VictimGroupKey::Route(id) => (self.route(Some(id)), None),
                VictimGroupKey::Site(id) => (None, Some(self.meter.sites.get(id))),
            };
            VictimGroup { route, site, tasks: count.tasks, waited: count.waited.to_duration() }
        };
        let mut groups: Vec<VictimGroup> = counts.groups.iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.waited));
        let victims = Victims {
            tasks: counts.total.tasks,
            waited: counts.total.waited.to_duration(),
            longest: counts.longest.to_duration(),
            others: counts.total.tasks - groups.iter().map(|group| group.tasks).sum::<u64>(),
            groups,
        };
        self.emit(Event::VictimsFound { id, victims: Box::new(victims) });
    }

    /// Emits that a runtime is late, and no stall explains it.
    pub(in crate::detect) fn emit_late(&mut self, runtime: &Runtime, late: &Lateness) {
        let Lateness { delay, is_ongoing, usage } = late;
        let site = |(id, PollUsage { polls, busy }): &(SiteId, PollUsage)| SiteUsage {
            site: self.meter.sites.get(*id),
            polls: *polls,
            busy: busy.to_duration(),
            share: usage.share(*busy),
        };
        let route = |(id, PollUsage { polls, busy }): &(RouteId, PollUsage)| RouteUsage {
            route: self.meter.routes.name(*id),
            polls: *polls,
            busy: busy.to_duration(),
            share: usage.share(*busy),
        };
        let late = LateRuntime {
            runtime: runtime.name.clone(),
            reported_at: SystemTime::now(),
            delay: delay.to_duration(),
            is_ongoing: *is_ongoing,
            observed: usage.observed.to_duration(),
            workers: usage.workers,
            reason: usage.reason(),
            polling: usage.polling,
            on_cpu: usage.on_cpu,
            waiting_for_cpu: usage.waiting_for_cpu,
            sites: usage.sites.iter().map(site).collect(),
            routes: usage.routes.iter().map(route).collect(),
        };
        self.emit(Event::RuntimeLate { id: runtime.id, late: Box::new(late) });
    }

    /// Emits that a site has more tasks than `limit`.
    pub(in crate::detect) fn emit_task_growth(&mut self, runtime: RuntimeId, site: SiteId, alive: u64, limit: u64) {
        let group = self.task_group(runtime, site);
        self.emit(Event::Notice(Notice::TasksGrew { group, alive, limit }));
    }

    fn task_group(&self, runtime: RuntimeId, site: SiteId) -> TaskGroup {
        TaskGroup { runtime: self.runtime_name(runtime), site: self.meter.sites.get(site), key: (runtime, site) }
    }
}

//! Threads that were read, grouped by role, state and stack.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollwatch_stack::{Address, RawStack, Stack, Symbolizer};

use super::known::{ClaimKind, KnownThread};
use super::reading::{AllThreads, ReadThread};
use super::{DumpSettings, ThreadEvidence};
use crate::detect::outside::functions::{TokioFunctions, TokioRole};
use crate::detect::procfs::SyscallState;
use crate::detect::stack_coverage;
use crate::model::cause::Syscall;
use crate::model::coverage::StackCoverage;
use crate::model::thread_dump::{ThreadActivity, ThreadDump, ThreadGroup, ThreadInfo, ThreadRole};

/// The most groups of a dump, and the most threads that are listed in each.
const MAX_GROUPS: usize = 256;
const MAX_LISTED: usize = 16;
/// The time after which no further stack is symbolized.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The name of all of pollwatch's threads starts with this.
const OWN_NAME: &str = "pollwatch";

/// The readings, with the stacks that were symbolized so far.
pub(super) struct Grouping<'a> {
    readings: &'a AllThreads,
    settings: &'a DumpSettings,
    functions: &'a TokioFunctions,
    /// The symbolized stacks, by the index of the raw one.
    stacks: Vec<Stack>,
    is_symbolized: bool,
}

impl<'a> Grouping<'a> {
    /// `functions` are those of the process of the threads.
    pub(super) fn new(
        readings: &'a AllThreads,
        settings: &'a DumpSettings,
        functions: &'a TokioFunctions,
    ) -> Grouping<'a> {
        let mut grouping = Grouping::without_symbols(readings, settings, functions);
        if settings.symbols && !grouping.must_load_symbols() {
            grouping.symbolize();
        }
        grouping
    }

    /// Groups the threads by stacks without the names of functions. Waits for nothing.
    pub(super) fn without_symbols(
        readings: &'a AllThreads,
        settings: &'a DumpSettings,
        functions: &'a TokioFunctions,
    ) -> Grouping<'a> {
        let stacks = readings.stacks.iter().map(|raw| raw.without_symbols()).collect();
        Grouping { readings, settings, functions, stacks, is_symbolized: !settings.symbols }
    }

    /// Returns whether debug information has to be loaded, which may take seconds.
    pub(super) fn must_load_symbols(&self) -> bool {
        let is_missing = |raw: &Arc<RawStack>| !Symbolizer::shared().is_loaded_for(raw);
        !self.is_symbolized && self.readings.stacks.iter().any(is_missing)
    }

    /// Symbolizes all stacks. The lock of the symbolizer is free between two stacks.
    pub(super) fn symbolize(&mut self) {
        let deadline = Instant::now() + TIME_LIMIT;
        let symbolize = |raw: &Arc<RawStack>| match Instant::now() < deadline {
            true => Symbolizer::shared().symbolize(raw),
            false => raw.without_symbols(),
        };
        self.stacks = self.readings.stacks.iter().map(symbolize).collect();
        self.is_symbolized = true;
    }

    /// Returns the dump by the stacks as they are.
    pub(super) fn dump(&self) -> ThreadDump {
        let readings = self.readings;
        let with_stack = readings.threads.iter().filter(|thread| thread.stack.is_ok()).count();
        let coverage = stack_coverage::now(self.settings.stacks);
        let stacks_missing = match readings.problem {
            Some(problem) => Some(problem.into()),
            None => (coverage != StackCoverage::Taken).then(|| coverage.to_string().into()),
        };
        let mut groups = self.groups();
        groups.sort_by_cached_key(|group| (rank(group), std::cmp::Reverse(group.count)));
        let omitted = groups.drain(MAX_GROUPS.min(groups.len())..);
        let in_omitted_groups = omitted.map(|group| group.count).sum();
        ThreadDump {
            taken_at: readings.taken_at,
            took: readings.took,
            cpu_window: readings.cpu_window,
            threads: readings.threads.len(),
            with_stack,
            not_reached: readings.not_reached,
            in_omitted_groups,
            stacks_missing,
            symbols_pending: !self.is_symbolized,
            groups,
        }
    }

    fn groups(&self) -> Vec<ThreadGroup> {
        let functions = self.functions;
        let outermost_first = |raw: &RawStack| raw.addresses().rev().collect::<Vec<Address>>();
        let tokio_roles: Vec<Option<TokioRole>> =
            self.readings.stacks.iter().map(|raw| functions.tokio_role(&outermost_first(raw))).collect();
        let mut keys: HashMap<StackKey, usize> = HashMap::new();
        let mut members: HashMap<GroupKey, Vec<(&ReadThread, ThreadRole)>> = HashMap::new();
        for thread in &self.readings.threads {
            let activity = activity(thread.state);
            let by_stack = thread.stack.ok().and_then(|index| tokio_roles[index]);
            let Role { role, is_idle } = role(thread, by_stack);
            let stack = match thread.stack {
                Ok(index) => StackKey::of(&self.stacks[index], activity),
                Err(why) => StackKey::Missing(why),
            };
            let next = keys.len();
            let key = GroupKey {
                role: role.without_index(),
                is_idle,
                activity,
                syscall: thread.syscall.as_ref().map(|syscall| syscall.name.clone()),
                stack: *keys.entry(stack).or_insert(next),
            };
            members.entry(key).or_default().push((thread, role));
        }
        members.into_iter().map(|(key, threads)| self.group(&key, threads)).collect()
    }

    fn group(&self, key: &GroupKey, mut threads: Vec<(&ReadThread, ThreadRole)>) -> ThreadGroup {
        let longest = |thread: &ReadThread| {
            let poll = thread.known.as_ref().and_then(|known| known.poll.as_ref()).map(|poll| poll.elapsed);
            poll.max(thread.waits_at_least)
        };
        threads.sort_by_key(|(thread, _)| (std::cmp::Reverse(longest(thread)), thread.tid));
        let (first, role) = (threads[0].0, threads[0].1.clone());
        let stack = first.stack.ok().map(|index| self.stacks[index].clone());
        let syscall: Option<Syscall> = first.syscall.clone();
        let evidence = ThreadEvidence {
            activity: key.activity,
            syscall: syscall.as_ref(),
            stack: stack.as_ref(),
            is_in_a_task: matches!(role, ThreadRole::Worker { .. }) && !key.is_idle,
        };
        ThreadGroup {
            count: threads.len(),
            reason: (self.settings.explain)(&evidence),
            role,
            is_idle: key.is_idle,
            activity: key.activity,
            syscall,
            stack,
            stack_missing: first.stack.err(),
            cpu_share: threads.iter().filter_map(|(thread, _)| thread.cpu_share).sum(),
            waits_at_least: threads.iter().filter_map(|(thread, _)| thread.waits_at_least).max(),
            threads: threads.into_iter().take(MAX_LISTED).map(|(thread, role)| info(thread, role)).collect(),
        }
    }
}

fn info(thread: &ReadThread, role: ThreadRole) -> ThreadInfo {
    let poll = thread.known.as_ref().and_then(|known| known.poll.as_ref());
    ThreadInfo {
        name: thread.name.clone(),
        tid: thread.tid,
        role,
        syscall: thread.syscall.clone(),
        cpu_time: thread.cpu_time,
        cpu_share: thread.cpu_share,
        waits_at_least: thread.waits_at_least,
        poll: poll.map(|poll| poll.elapsed),
        site: poll.map(|poll| poll.site),
        route: poll.and_then(|poll| poll.route.clone()),
    }
}

fn activity(state: Option<SyscallState>) -> ThreadActivity {
    match state {
        Some(SyscallState::Running) => ThreadActivity::Running,
        Some(SyscallState::Waiting { .. }) => ThreadActivity::Waiting,
        None => ThreadActivity::Unknown,
    }
}

/// Returns the position of a group among the others, before their sizes count.
fn rank(group: &ThreadGroup) -> u8 {
    match (&group.role, group.is_idle) {
        (ThreadRole::Pollwatch, _) => 5,
        (_, true) => 4,
        (ThreadRole::Worker { .. }, false) => 0,
        (ThreadRole::BlockingPool { .. }, false) => 1,
        (ThreadRole::Other, false) if group.stack.is_some() => 2,
        (ThreadRole::Other, false) => 3,
    }
}

/// The role of a thread, and whether it has nothing to do.
struct Role {
    role: ThreadRole,
    is_idle: bool,
}

/// Returns the role of a thread by what is known of it and by its stack. The stack is the newer
/// evidence. Where it shows no function of tokio, a worker is still one: the compiler may have
/// inlined them, or the binary may have no symbols.
fn role(thread: &ReadThread, by_stack: Option<TokioRole>) -> Role {
    let claim = thread.known.as_ref().and_then(|known: &KnownThread| known.claim.as_ref());
    let runtime = claim.map(|claim| claim.runtime.clone()).or_else(|| thread.runtime.clone());
    let waits = matches!(thread.state, Some(SyscallState::Waiting { .. }));
    let index = match claim.map(|claim| claim.kind) {
        Some(ClaimKind::Worker { index, .. }) => Some(index),
        Some(ClaimKind::CurrentThread) => Some(0),
        _ => None,
    };
    let (role, is_idle) = match (by_stack, claim.map(|claim| claim.kind)) {
        (Some(TokioRole::Worker { is_in_task }), _) => (ThreadRole::Worker { runtime, index }, !is_in_task && waits),
        (Some(TokioRole::CurrentThread { is_parked }), _) => (ThreadRole::Worker { runtime, index }, is_parked),
        (Some(TokioRole::HandedOn), _) => (ThreadRole::BlockingPool { runtime }, false),
        (Some(TokioRole::Pool { is_in_task }), _) => (ThreadRole::BlockingPool { runtime }, !is_in_task && waits),
        (None, Some(ClaimKind::Worker { is_parked, .. })) => (ThreadRole::Worker { runtime, index }, is_parked),
        (None, Some(ClaimKind::Pool)) => (ThreadRole::BlockingPool { runtime }, false),
        (None, Some(ClaimKind::CurrentThread)) if is_in_poll(thread) => (ThreadRole::Worker { runtime, index }, false),
        (None, _) if thread.name.starts_with(OWN_NAME) => (ThreadRole::Pollwatch, false),
        (None, _) => (ThreadRole::Other, false),
    };
    // The server of pollwatch is a current-thread runtime.
    let is_own = thread.name.starts_with(OWN_NAME) && claim.is_none();
    Role { role: if is_own { ThreadRole::Pollwatch } else { role }, is_idle }
}

fn is_in_poll(thread: &ReadThread) -> bool {
    thread.known.as_ref().is_some_and(|known| known.poll.is_some())
}

/// The properties that the threads of a group have in common.
#[derive(PartialEq, Eq, Hash)]
struct GroupKey {
    role: ThreadRole,
    is_idle: bool,
    activity: ThreadActivity,
    syscall: Option<Cow<'static, str>>,
    /// The number of the [`StackKey`].
    stack: usize,
}

/// The part of a stack by which threads are grouped.
#[derive(PartialEq, Eq, Hash)]
enum StackKey {
    /// Functions, each with its line.
    Functions(Vec<(Arc<str>, Option<u32>)>),
    /// Modules and offsets.
    Offsets(Vec<(Option<Arc<str>>, u64)>),
    Missing(&'static str),
}

impl StackKey {
    fn of(stack: &Stack, activity: ThreadActivity) -> StackKey {
        let frames = || stack.frames().iter();
        let named = |is_program: bool| {
            let wanted = frames().filter(move |frame| !(is_program && frame.library));
            wanted.filter_map(|frame| Some((frame.function.clone()?, frame.line))).collect::<Vec<_>>()
        };
        let program = named(true);
        let mut functions = if program.is_empty() { named(false) } else { program };
        // The innermost line of a thread that runs changes all the time.
        if activity == ThreadActivity::Running
            && let Some(innermost) = functions.first_mut()
        {
            innermost.1 = None;
        }
        match functions.is_empty() {
            false => StackKey::Functions(functions),
            true => StackKey::Offsets(frames().map(|frame| (frame.module.clone(), frame.offset)).collect()),
        }
    }
}

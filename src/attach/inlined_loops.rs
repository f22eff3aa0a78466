//! Loops of current-thread runtimes and of `LocalSet`s that the compiler has inlined into their
//! callers, with all that they call before they poll a task.
//!
//! Link-time optimization does that where a program has one call of `block_on`. Then no function of
//! tokio is on the stack of a thread in such a loop. The debug information of the program has the
//! calls. Without debug information nothing shows them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pollwatch_stack::{Address, Frame, RawStack, Stack};

use super::runtimes::RuntimeFlavor;
use super::symbol_access::{SymbolAccess, Symbolized};
use super::tokio_source::{self, RuntimeCall};
use crate::detect::outside::functions::{DriverRole, FunctionRole, TokioFunctions};

/// The addresses whose result is kept.
const MAX_KNOWN: usize = 65_536;
/// The shortest time between two moments at which symbols are loaded for a thread that is in no
/// loop as far as it is known. Symbols take memory, which is released while no stall needs them.
const LOAD_INTERVAL: Duration = Duration::from_secs(300);

/// The loop of a current-thread runtime or of a `LocalSet` that a thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DrivenLoop {
    pub(super) flavor: RuntimeFlavor,
    pub(super) role: DriverRole,
    /// The index of its caller among the addresses, the outermost first.
    pub(super) at: usize,
}

/// What a stack shows of inlined loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopFinding {
    Absent,
    Present(DrivenLoop),
    /// The symbols cannot be used at this moment, but may be soon.
    PutOff,
    /// The symbols cannot be used, and it is not known when they can.
    Unavailable,
}

/// The roles of the functions that were inlined at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InlinedRoles {
    /// The outermost loop.
    outermost: Option<RuntimeFlavor>,
    /// True if a current-thread runtime was entered, by a function at an outer address. In
    /// `block_on` that is the outermost loop.
    is_entered: bool,
    /// The innermost call that may enter a current-thread runtime.
    enters: Option<RuntimeCall>,
    /// True if a wait for something to poll was inlined, into the loop if that was as well.
    parks: bool,
}

/// Finds inlined loops in the stacks of one process.
#[derive(Debug, Default)]
pub(super) struct InlinedLoops {
    known: HashMap<Address, InlinedRoles>,
    symbols: SymbolAccess,
    /// The moment at which symbols were last loaded for a thread that was in no loop.
    loaded: Option<Instant>,
    /// The latest stack whose symbols could not be used.
    awaited: Option<RawStack>,
    /// True if a stack has shown that the program has no debug information.
    lacks_lines: bool,
}

impl InlinedLoops {
    /// Returns the loop that a stack is in. `functions` are those that were not inlined.
    /// `is_member` says whether the thread was in such a loop before.
    pub(super) fn find(
        &mut self,
        raw: &RawStack,
        outermost_first: &[Address],
        functions: &TokioFunctions,
        is_member: bool,
    ) -> LoopFinding {
        // Inwards of the poll of a task there is no loop that drives this thread.
        let is_poll = |&address: &Address| functions.role(address) == Some(FunctionRole::TaskPoll);
        let end = outermost_first.iter().position(is_poll).unwrap_or(outermost_first.len());
        let outer = &outermost_first[..end];
        if !outer.iter().all(|address| self.known.contains_key(address)) {
            let finding = match self.symbols.symbolize(raw, || may_load(&mut self.loaded, is_member)) {
                Symbolized::Stack { stack, .. } => {
                    self.add(&stack, outer);
                    None
                }
                Symbolized::PutOff => Some(LoopFinding::PutOff),
                Symbolized::Unavailable => Some(LoopFinding::Unavailable),
            };
            if let Some(finding) = finding {
                self.awaited = Some(raw.clone());
                return finding;
            }
        }
        let is_in_task = end < outermost_first.len();
        self.driven(outer, is_in_task, functions).map_or(LoopFinding::Absent, LoopFinding::Present)
    }

    /// Returns whether the symbols can be used that the latest stack lacked, if there is one.
    pub(super) fn has_symbols(&mut self) -> bool {
        let Some(raw) = &self.awaited else { return true };
        let has_symbols = self.symbols.is_loaded(raw, || may_load(&mut self.loaded, false));
        if has_symbols {
            self.awaited = None;
        }
        has_symbols
    }

    /// Returns the outermost loop of the part of a stack that is outside of the polls of tasks.
    /// `is_in_task` says whether there is such a poll.
    fn driven(&self, outer: &[Address], is_in_task: bool, functions: &TokioFunctions) -> Option<DrivenLoop> {
        let roles_of = |address: &Address| self.known.get(address).copied().unwrap_or_default();
        let mut enters = None;
        let found = outer.iter().enumerate().find_map(|(at, address)| {
            let roles = roles_of(address);
            if roles.is_entered && enters == Some(RuntimeCall::BlockOn) {
                return Some((at, RuntimeFlavor::CurrentThread));
            }
            enters = roles.enters.or(enters);
            Some((at, roles.outermost?))
        });
        let (at, flavor) = found?;
        let inner = &outer[at..];
        let is_parked =
            |address| roles_of(address).parks || functions.role(*address) == Some(FunctionRole::CurrentThreadPark);
        let role = if inner.iter().any(is_parked) {
            DriverRole::Parked
        } else if is_in_task {
            DriverRole::InTask
        } else {
            DriverRole::InLoop
        };
        Some(DrivenLoop { flavor, role, at })
    }

    /// Returns whether the program has no debug information, so that a loop may be missed.
    pub(super) fn lacks_lines(&self) -> bool {
        self.lacks_lines
    }

    /// Keeps what the frames of a stack show of these addresses.
    fn add(&mut self, stack: &Stack, addresses: &[Address]) {
        if self.known.len() + addresses.len() > MAX_KNOWN {
            self.known.clear();
        }
        let wanted: HashSet<Address> = addresses.iter().copied().collect();
        self.lacks_lines |= lack_lines(stack.frames().iter().filter(|frame| wanted.contains(&frame.address)));
        for frames in stack.frames().chunk_by(|inner, outer| inner.address == outer.address) {
            let address = frames[0].address;
            if wanted.contains(&address) {
                self.known.insert(address, roles(frames));
            }
        }
    }
}

/// Returns whether symbols may be loaded now, which then count as loaded. `is_member` says whether
/// the thread was in a loop before.
fn may_load(loaded: &mut Option<Instant>, is_member: bool) -> bool {
    let is_due = is_member || loaded.is_none_or(|at| at.elapsed() >= LOAD_INTERVAL);
    if is_due {
        *loaded = Some(Instant::now());
    }
    is_due
}

/// Returns the roles of the functions at one address, which are given the innermost first.
fn roles(frames: &[Frame]) -> InlinedRoles {
    let mut roles = InlinedRoles::default();
    for frame in frames.iter().rev() {
        let call = tokio_source::runtime_call(frame);
        let found = match (call, roles.enters) {
            (Some(RuntimeCall::Enter), Some(RuntimeCall::BlockOn)) => Some(RuntimeFlavor::CurrentThread),
            _ => tokio_source::is_in_local_set(frame).then_some(RuntimeFlavor::LocalSet),
        };
        roles.outermost = roles.outermost.or(found);
        match call {
            Some(RuntimeCall::Enter) => roles.is_entered |= roles.enters.is_none() && roles.outermost.is_none(),
            Some(RuntimeCall::BlockOn | RuntimeCall::Shutdown) => roles.enters = call,
            None => {}
        }
        roles.parks |= (roles.outermost.is_some() || roles.is_entered) && tokio_source::is_park(frame);
    }
    // A wait alone is inward of a loop at another address.
    roles.parks |= roles.outermost.is_none() && frames.iter().any(tokio_source::is_park);
    roles
}

/// Returns whether the calls of a stack show that the program has no debug information: a function
/// of it has a name and no file, and none has a file. A name without a path is one that the
/// compiler has made, such as `main`, or that of another language.
fn lack_lines<'a>(frames: impl Iterator<Item = &'a Frame> + Clone) -> bool {
    let mut of_program = frames.filter(|frame| !frame.library);
    let is_named = |frame: &Frame| frame.function.as_deref().is_some_and(|name| name.contains("::"));
    of_program.clone().all(|frame| frame.file.is_none()) && of_program.any(is_named)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::tokio_source::tests::frame;
    use super::*;

    #[test]
    fn a_loop_and_its_wait_at_one_address() {
        const FILE: &str = "tokio-1.54.1/src/runtime/scheduler/current_thread/mod.rs";
        let (tick, local) = (frame("tick", "tokio-1.54.1/src/task/local.rs"), Some(RuntimeFlavor::LocalSet));
        let outer = [frame("enter", FILE), frame("block_on", FILE), frame("app::main", "src/main.rs")];
        let roles = |frames: &[Frame]| {
            let InlinedRoles { outermost, parks, .. } = super::roles(frames);
            (outermost, parks)
        };
        let with = |inner: &[Frame]| roles(&[inner, &outer[..]].concat());
        let flavor = Some(RuntimeFlavor::CurrentThread);
        assert_eq!(with(&[]), (flavor, false));
        assert_eq!(with(std::slice::from_ref(&tick)), (flavor, false));
        assert_eq!(with(&[frame("park", FILE)]), (flavor, true));
        assert_eq!(roles(&[tick]), (local, false));
        // Another thread drives the runtime. This one waits for its turn.
        let (park, outer) = (frame("park", "tokio-1.54.1/src/runtime/park.rs"), &outer[1..]);
        assert_eq!(roles(&[&[park], outer].concat()), (None, false));
    }

    #[test]
    fn the_end_of_a_runtime_is_no_loop() {
        const FILE: &str = "tokio-1.54.1/src/runtime/scheduler/current_thread/mod.rs";
        let [enter, block_on, shutdown] = ["enter", "block_on", "shutdown"].map(|name| frame(name, FILE));
        let (main, user) = (frame("app::main", "src/main.rs"), frame("app::drop", "src/main.rs"));
        let at_one = |frames: &[&Frame]| roles(&frames.iter().copied().cloned().collect::<Vec<_>>());
        let ended = at_one(&[&user, &enter, &shutdown, &main]);
        assert_eq!((ended.outermost, ended.is_entered), (None, false));
        assert_eq!(at_one(&[&user, &enter, &block_on, &main]).outermost, Some(RuntimeFlavor::CurrentThread));
        // The caller has an address of its own.
        let (entered, address) = (at_one(&[&user, &enter]), Address::new);
        assert_eq!((entered.outermost, entered.is_entered), (None, true));
        let mut loops = InlinedLoops::default();
        loops.known.insert(address(1), at_one(&[&block_on, &main]));
        loops.known.insert(address(2), at_one(&[&shutdown, &main]));
        loops.known.insert(address(3), entered);
        let flavor = |stack: &[Address]| loops.driven(stack, false, &TokioFunctions::default()).map(|at| at.flavor);
        assert_eq!(flavor(&[address(1), address(3)]), Some(RuntimeFlavor::CurrentThread));
        assert_eq!(flavor(&[address(2), address(3)]), None);
        assert_eq!(flavor(&[address(3)]), None);
        assert_eq!(flavor(&[address(1)]), None, "another thread drives the runtime");
    }

    #[test]
    fn a_program_with_some_functions_without_lines() {
        let (main, mut start) = (frame("app::main", "src/main.rs"), frame("main", ""));
        let mut bare = frame("app::run", "");
        (start.file, bare.file) = (None, None);
        assert!(!lack_lines([&main, &start].into_iter()) && !lack_lines([&start].into_iter()));
        assert!(lack_lines([&bare, &start].into_iter()) && !lack_lines([&bare, &main].into_iter()));
        bare.library = true;
        assert!(!lack_lines([&bare, &start].into_iter()), "libraries are built apart");
    }
}

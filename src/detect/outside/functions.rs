//! The functions of tokio that show what a thread is in, found once by their symbols.
//!
//! What tokio does: a thread that drives a worker of a multi-thread runtime is in `worker::run`,
//! and there in `Context::run` and `Context::run_task` while it polls. None of them is generic, and
//! each is so large that the compiler leaves at least one of them out of line, also with link-time
//! optimization. A thread that is in none of them drives no worker.
//!
//! A call of `block_in_place` is generic and may be inlined. Where its frame is visible, the thread
//! has given its worker away. Where it is not, nothing follows.
//!
//! A binary without symbols has none of these functions. Then stacks are no evidence.

use std::ops::Range;
use std::sync::OnceLock;

use pollwatch_stack::{Address, find_functions};

/// The role of a function of tokio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FunctionRole {
    /// The loop of a worker of a multi-thread runtime.
    WorkerLoop,
    /// `block_in_place`.
    BlockInPlace,
    /// `block_on` of a current-thread runtime, on the thread that drives it.
    CurrentThread,
    /// The call of a poll, or of a wait, in the loop of a current-thread runtime. It is all that is
    /// left of a loop that the compiler has inlined.
    CurrentThreadEnter,
    /// The wait of the thread that drives a current-thread runtime and has nothing to poll.
    CurrentThreadPark,
    /// The loop of a thread of the pool, which runs closures of `spawn_blocking` and workers.
    PoolLoop,
    /// The poll of a task, which is also how a closure of `spawn_blocking` runs.
    TaskPoll,
    /// The loop of a `LocalSet` over its tasks.
    LocalTasks,
}

/// What a complete stack shows of the thread's relation to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackRole {
    /// The thread is in no worker's loop.
    NotInLoop,
    /// The thread is in a worker's loop, and has handed its worker on in `block_in_place`.
    HandedOn,
    /// The thread is in a worker's loop. It drives the worker, unless it has handed it on before.
    InLoop,
}

impl StackRole {
    /// Returns whether a thread with this role drives no worker.
    pub(super) fn is_without_core(self) -> bool {
        matches!(self, StackRole::HandedOn | StackRole::NotInLoop)
    }
}

/// A call of `block_on` of a current-thread runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// The address of the call in its caller.
    pub(crate) call: Address,
    pub(crate) role: DriverRole,
}

/// What the stack of a thread in `block_on` of a current-thread runtime shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverRole {
    /// The thread waits for something to poll.
    Parked,
    /// The thread polls a task, also one of a `LocalSet`.
    InTask,
    /// The thread polls the root, or is in the loop itself.
    InLoop,
}

/// The role of a thread in tokio, by its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::detect) enum TokioRole {
    /// The thread drives a worker of a multi-thread runtime.
    Worker { is_in_task: bool },
    /// The thread has handed its worker on in `block_in_place`.
    HandedOn,
    /// The thread belongs to the pool for blocking work, and drives no worker.
    Pool { is_in_task: bool },
    /// The thread drives a current-thread runtime.
    CurrentThread { is_parked: bool },
}

/// The part that the mangled names of all these functions have in common.
const COMMON: &str = "5tokio";
/// The longest part of a mangled name before [`COMMON`], in either mangling. In a longer one
/// tokio's name is an argument of something else.
const MAX_PREFIX: usize = 40;

const RUNTIME: &str = "7runtime";
const LOCAL: &str = "4task5local";
const MULTI_THREAD: &str = "9scheduler12multi_thread6worker";
/// The multi-thread scheduler before tokio 1.23.
const THREAD_POOL: &str = "11thread_pool6worker";
/// A second multi-thread scheduler of tokio 1.33 to 1.46, with `tokio_unstable`.
const MULTI_THREAD_ALT: &str = "9scheduler16multi_thread_alt6worker";
const CURRENT_THREAD: &str = "9scheduler14current_thread";
const POOL: &str = "8blocking4pool";
const TASK: &str = "4task";
/// The polls of a task, with their modules. The one of `raw` is in the task's vtable and calls the
/// others. In optimized code it may be no more than a jump to one of them, and in no stack.
const TASK_POLLS: [(&str, &str); 4] =
    [("7harness", "4poll"), ("7harness", "10poll_inner"), ("7harness", "11poll_future"), ("4core", "4poll")];

/// The functions of the executable, once its symbol table was read.
static OF_EXECUTABLE: OnceLock<TokioFunctions> = OnceLock::new();

/// The functions of tokio in one process, by address.
#[derive(Debug, Default)]
pub(crate) struct TokioFunctions(Vec<(Range<Address>, FunctionRole)>);

impl TokioFunctions {
    /// The part of the mangled names of all these functions by which they are searched.
    #[cfg(feature = "attach")]
    pub(crate) const PART_OF_NAMES: &str = COMMON;

    /// Returns the functions of the executable. The first call reads its symbol table.
    pub(in crate::detect) fn of_executable() -> &'static TokioFunctions {
        OF_EXECUTABLE.get_or_init(|| TokioFunctions::new(find_functions(COMMON, role_of)))
    }

    /// Returns whether the executable is known to have no symbol of a current-thread runtime's
    /// loop. It is not known before the symbol table was read, and this does not read it.
    pub(crate) fn lacks_current_thread() -> bool {
        OF_EXECUTABLE.get().is_some_and(|functions| !functions.has(FunctionRole::CurrentThread))
    }

    /// Returns whether a function with this role was found.
    fn has(&self, role: FunctionRole) -> bool {
        self.0.iter().any(|(_, other)| *other == role)
    }

    /// Makes the table of functions with these addresses.
    pub(crate) fn new(mut functions: Vec<(Range<Address>, FunctionRole)>) -> TokioFunctions {
        functions.sort_unstable_by_key(|(range, _)| range.start);
        TokioFunctions(functions)
    }

    /// Returns whether any function was found. Without one, stacks show no role.
    #[cfg(feature = "attach")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether any function of the loop of current-thread runtimes was found. The compiler
    /// may have inlined all of them.
    #[cfg(feature = "attach")]
    pub(crate) fn show_current_thread(&self) -> bool {
        let roles = [FunctionRole::CurrentThread, FunctionRole::CurrentThreadEnter, FunctionRole::CurrentThreadPark];
        roles.into_iter().any(|role| self.has(role))
    }

    /// Returns the role of the function that contains an address.
    pub(crate) fn role(&self, address: Address) -> Option<FunctionRole> {
        let next = self.0.partition_point(|(range, _)| range.start <= address);
        let (range, role) = self.0.get(next.checked_sub(1)?)?;
        range.contains(&address).then_some(*role)
    }

    /// Returns whether a stack contains a function with this role.
    pub(super) fn contains(&self, outermost_first: &[Address], role: FunctionRole) -> bool {
        outermost_first.iter().any(|&address| self.role(address) == Some(role))
    }

    /// Returns whether a stack is that of a thread of the pool that is in a closure: the pool's
    /// loop has called a function that is not the loop's wait.
    pub(super) fn is_in_pool_task(&self, outermost_first: &[Address]) -> bool {
        let mut roles = outermost_first.iter().filter_map(|&address| self.role(address));
        roles.any(|role| role == FunctionRole::PoolLoop) && roles.any(|role| role == FunctionRole::TaskPoll)
    }

    /// Returns the call of `block_on` that a thread is in, and what it does there; `None` outside
    /// of `block_on` of a current-thread runtime.
    pub(crate) fn drive(&self, outermost_first: &[Address]) -> Option<Drive> {
        let is_drive = |&address: &Address| self.role(address) == Some(FunctionRole::CurrentThread);
        let at = outermost_first.iter().position(is_drive)?;
        let call = *outermost_first.get(at.checked_sub(1)?)?;
        Some(Drive { call, role: self.driver_role(&outermost_first[at..]) })
    }

    /// Returns what a thread does in the loop of a current-thread runtime, whose own frame is not
    /// visible.
    #[cfg(feature = "attach")]
    pub(crate) fn drives_inlined(&self, outermost_first: &[Address]) -> Option<DriverRole> {
        let is_called = |&address: &Address| {
            matches!(self.role(address), Some(FunctionRole::CurrentThreadEnter | FunctionRole::CurrentThreadPark))
        };
        let at = outermost_first.iter().position(is_called)?;
        Some(self.driver_role(&outermost_first[at..]))
    }

    fn driver_role(&self, inner: &[Address]) -> DriverRole {
        if self.contains(inner, FunctionRole::CurrentThreadPark) {
            DriverRole::Parked
        } else if self.contains(inner, FunctionRole::TaskPoll) {
            DriverRole::InTask
        } else {
            DriverRole::InLoop
        }
    }

    /// Returns the role of a thread in tokio; `None` if the stack shows none.
    pub(in crate::detect) fn tokio_role(&self, outermost_first: &[Address]) -> Option<TokioRole> {
        let is_in_task = |role| {
            let mut roles = outermost_first.iter().filter_map(|&address| self.role(address));
            roles.any(|other| other == role) && roles.any(|other| other == FunctionRole::TaskPoll)
        };
        match self.stack_role(outermost_first) {
            StackRole::InLoop => {
                return Some(TokioRole::Worker { is_in_task: is_in_task(FunctionRole::WorkerLoop) });
            }
            StackRole::HandedOn => return Some(TokioRole::HandedOn),
            StackRole::NotInLoop => {}
        }
        if let Some(drive) = self.drive(outermost_first) {
            return Some(TokioRole::CurrentThread { is_parked: drive.role == DriverRole::Parked });
        }
        self.contains(outermost_first, FunctionRole::PoolLoop)
            .then(|| TokioRole::Pool { is_in_task: is_in_task(FunctionRole::PoolLoop) })
    }

    /// Returns what a complete stack shows.
    pub(crate) fn stack_role(&self, outermost_first: &[Address]) -> StackRole {
        let mut roles = outermost_first.iter().filter_map(|&address| self.role(address));
        if !roles.any(|role| role == FunctionRole::WorkerLoop) {
            StackRole::NotInLoop
        } else if roles.any(|role| role == FunctionRole::BlockInPlace) {
            StackRole::HandedOn
        } else {
            StackRole::InLoop
        }
    }
}

/// Returns the role of the function with this mangled name, of the legacy or the v0 mangling.
pub(crate) fn role_of(name: &str) -> Option<FunctionRole> {
    let (prefix, path) = name.split_once(COMMON)?;
    let is_legacy = prefix == "_ZN";
    if !(is_legacy || prefix.starts_with("_R") && prefix.len() <= MAX_PREFIX) {
        return None;
    }
    // The legacy mangling ends with a hash, the v0 mangling with arguments or nothing. Between a
    // module and its type, v0 has a reference to the path so far.
    let is = |path: &str, function: &str| {
        let Some(rest) = path.strip_prefix(function) else { return false };
        if is_legacy { rest.starts_with("17h") } else { !rest.starts_with(|c: char| c.is_ascii_digit()) }
    };
    let is_method = |path: &str, method: &str| {
        let at = if is_legacy { Some(0) } else { path.find(method) };
        at.is_some_and(|at| is(&path[at..], method))
    };
    if let Some(path) = path.strip_prefix(LOCAL) {
        return is_method(path, "8LocalSet4tick").then_some(FunctionRole::LocalTasks);
    }
    let path = path.strip_prefix(RUNTIME)?;
    if let Some(path) = path.strip_prefix(MULTI_THREAD_ALT) {
        if is(path, "3run") || is_method(path, "6Worker3run") || is_method(path, "6Worker8run_task") {
            return Some(FunctionRole::WorkerLoop);
        }
        return is(path, "14block_in_place").then_some(FunctionRole::BlockInPlace);
    }
    if let Some(path) = path.strip_prefix(MULTI_THREAD).or_else(|| path.strip_prefix(THREAD_POOL)) {
        if is(path, "3run") || is_method(path, "7Context3run") || is_method(path, "7Context8run_task") {
            return Some(FunctionRole::WorkerLoop);
        }
        return is(path, "14block_in_place").then_some(FunctionRole::BlockInPlace);
    }
    if let Some(path) = path.strip_prefix(TASK) {
        // The name of the method follows its type, which may have arguments.
        let is_poll = |(module, method): &(&str, &str)| {
            let path = path.strip_prefix(module);
            path.is_some_and(|path| path.rfind(method).is_some_and(|at| is(&path[at..], method)))
        };
        let is_in_vtable = path.strip_prefix("3raw").is_some_and(|path| is(path, "4poll"));
        return (is_in_vtable || TASK_POLLS.iter().any(is_poll)).then_some(FunctionRole::TaskPoll);
    }
    if let Some(path) = path.strip_prefix(POOL) {
        return is_method(path, "5Inner3run").then_some(FunctionRole::PoolLoop);
    }
    let path = path.strip_prefix(CURRENT_THREAD)?;
    if ["7Context4park", "7Context10park_yield", "7Context13park_internal"].iter().any(|park| is_method(path, park)) {
        return Some(FunctionRole::CurrentThreadPark);
    }
    if is_method(path, "7Context5enter") {
        return Some(FunctionRole::CurrentThreadEnter);
    }
    let drives = is_method(path, "9CoreGuard8block_on") || is_method(path, "7Context8run_task");
    drives.then_some(FunctionRole::CurrentThread)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn roles_by_mangled_names() {
        use FunctionRole::*;
        for (name, role) in [
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker3run17h4c5d5e5b70953e0fE", Some(WorkerLoop)),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker7Context3run17h71f6d37ac869c914E", Some(WorkerLoop)),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker7Context8run_task17ha7e28dd4fac8ff9dE", Some(WorkerLoop)),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker14block_in_place17h0E", Some(BlockInPlace)),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker14block_in_place5Reset17h0E", None),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker6Launch6launch17h0380ea0ed157cb8eE", None),
            ("_ZN5tokio7runtime9scheduler12multi_thread6worker7Context13park_internal17h08E", None),
            ("_ZN5tokio7runtime9scheduler14current_thread9CoreGuard8block_on17h08E", Some(CurrentThread)),
            ("_ZN5tokio7runtime9scheduler14current_thread7Context4park17h08E", Some(CurrentThreadPark)),
            ("_ZN5tokio7runtime9scheduler14current_thread7Context5enter17h21271ce9d7191a70E", Some(CurrentThreadEnter)),
            ("_ZN5tokio7runtime9scheduler16multi_thread_alt6worker6Worker8run_task17h08E", Some(WorkerLoop)),
            ("_ZN5tokio7runtime11thread_pool6worker7Context8run_task17h1cE", Some(WorkerLoop)),
            ("_ZN5tokio4task5local8LocalSet4tick17h34d18e21388ac25cE", Some(LocalTasks)),
            ("_ZN5tokio4task5local8LocalSet3new17h56d6d7915bc5bb86E", None),
            ("_RNvMs_NtNtCsgMjQ0j1UxQ_5tokio4task5localNtB4_8LocalSet4tick", Some(LocalTasks)),
            ("_ZN5tokio7runtime4task3raw4poll17h05c4d112130e2abfE", Some(TaskPoll)),
            ("_ZN5tokio7runtime4task3raw8shutdown17h05c4d112130e2abfE", None),
            ("_ZN5tokio7runtime4task7harness20Harness$LT$T$C$S$GT$4poll17h05c4d112130e2abfE", Some(TaskPoll)),
            ("_ZN5tokio7runtime4task7harness20Harness$LT$T$C$S$GT$8complete17h05c4d112130e2abfE", None),
            ("_ZN5tokio7runtime4task4core17Core$LT$T$C$S$GT$4poll17h05c4d112130e2abfE", Some(TaskPoll)),
            (
                "_RNvMs4_NtNtNtCsgMjQ0j1UxQ_5tokio7runtime4task7harnessINtB5_7HarnessNCNvCs_3app4poll0NtB7_4HandleE4pollB1e_",
                Some(TaskPoll),
            ),
            ("_ZN4core3ptr5tokio7runtime9scheduler12multi_thread6worker3run17h4E", None),
            ("_RNvNtNtNtNtCsgMjQ0j1UxQ_5tokio7runtime9scheduler12multi_thread6worker3run", Some(WorkerLoop)),
            ("_RNvNtNtNtNtCsgMjQ0j1UxQ_5tokio7runtime9scheduler12multi_thread6worker3runB8_", Some(WorkerLoop)),
            (
                "_RNvMs_NtNtNtNtCsgMjQ0j1UxQ_5tokio7runtime9scheduler12multi_thread6workerNtB4_7Context8run_task",
                Some(WorkerLoop),
            ),
            (
                "_RINvNtNtNtNtCsgMjQ0j1UxQ_5tokio7runtime9scheduler12multi_thread6worker14block_in_placeNCNvCs_3app4main0uE",
                Some(BlockInPlace),
            ),
            (
                "_RINvNtCsgMjQ0j1UxQ_4core3ptr13drop_in_placeNCNvNtNtNtNtCsgMjQ0j1UxQ_5tokio7runtime9scheduler12multi_thread6worker3run0E",
                None,
            ),
        ] {
            assert_eq!(role_of(name), role, "{name}");
        }
    }

    #[test]
    fn a_stack_shows_the_loop_and_the_hand_off() {
        let range = |start| Address::new(start)..Address::new(start + 10);
        let functions = TokioFunctions(vec![
            (range(100), FunctionRole::WorkerLoop),
            (range(200), FunctionRole::BlockInPlace),
            (range(300), FunctionRole::CurrentThread),
        ]);
        let role = |stack: &[u64]| {
            functions.stack_role(&stack.iter().map(|&address| Address::new(address)).collect::<Vec<_>>())
        };
        assert_eq!(role(&[1, 105, 400]), StackRole::InLoop);
        assert_eq!(role(&[1, 105, 400, 203, 7]), StackRole::HandedOn);
        assert_eq!(role(&[1, 110, 99, 400]), StackRole::NotInLoop);
        assert_eq!(role(&[1, 203]), StackRole::NotInLoop, "in a root");
    }

    /// The functions are found in this executable, which has symbols.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64", feature = "capture"))]
    fn the_executable_has_them() {
        // The functions are linked, because this test uses them.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(runtime.spawn(async { tokio::task::block_in_place(|| ()) })).unwrap();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {});
        let functions = &TokioFunctions::of_executable().0;
        for role in [FunctionRole::WorkerLoop, FunctionRole::BlockInPlace, FunctionRole::CurrentThread] {
            assert!(functions.iter().any(|(_, other)| *other == role), "{role:?}: {functions:?}");
        }
    }
}

//! The functions that release a lock when a guard is dropped, by their symbols.

use std::ops::Range;
use std::sync::OnceLock;

use super::super::functions::find_functions;
use super::LockKind;

/// Parts of the names of all functions that matter. Each is searched for in the executable.
const PARTS: [&str; 7] = ["drop_in_place", "Guard", "_contended", "_slow", "5futex", "ondvar", "9panicking"];

/// Parts of the names of functions that wait for a condition with a mutex.
const CONDITIONS: [&str; 4] = [
    "std::sys::sync::condvar::",
    "std::sync::poison::condvar::Condvar",
    "std::sync::nonpoison::condvar::Condvar",
    "parking_lot::condvar::Condvar",
];

/// The starts of the names of functions that panic.
const PANICS: [&str; 6] = [
    "core::panicking::panic",
    "core::panicking::assert_",
    "core::panicking::unreachable_",
    "core::panicking::unwrap_",
    "std::panicking::begin_panic",
    "std::panicking::rust_panic",
];

/// Parts of the names of functions that abort the process instead.
const ABORTS: [&str; 3] = ["nounwind", "cannot_unwind", "in_cleanup"];

/// The role of a function in cleanup code, or in waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It drops a guard, which the argument points to or is.
    DropsGuard { kind: LockKind, layout: Layout },
    /// It wakes the threads that wait for a lock, after the lock was released. The argument is the
    /// lock.
    Wakes(LockKind),
    /// It waits for a condition. Until then it has released a mutex whose guard exists.
    WaitsForCondition,
    /// It waits for a lock, so code that calls it does not only release one.
    Waits(LockKind),
    /// It drops a value, whose parts may be guards.
    DropsValue,
    /// It panics, and the panic leaves it.
    Panics,
}

/// Where in a guard the address of its lock may be, in words from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In the first word.
    First,
    /// In the first or the second word.
    FirstOrSecond,
}

/// The functions of the executable that have a role.
pub(super) struct LockFunctions {
    /// In the order of their starts.
    list: Vec<(Range<u64>, Role)>,
    /// The kinds of locks whose release is a function of its own, for those that wait.
    woken: Vec<LockKind>,
}

static FUNCTIONS: OnceLock<LockFunctions> = OnceLock::new();

impl LockFunctions {
    /// Returns the functions, which are searched for at the first call.
    pub(super) fn get() -> &'static LockFunctions {
        FUNCTIONS.get_or_init(|| {
            let of = |part| find_functions(part, |name| role(&addr2line::demangle_auto(name.into(), None)));
            let found = PARTS.into_iter().flat_map(of);
            let mut list: Vec<_> = found.map(|(at, role)| (at.start.get()..at.end.get(), role)).collect();
            list.sort_by_key(|(range, _)| range.start);
            list.dedup_by_key(|(range, _)| range.start);
            let kind_of =
                |(_, role): &(Range<u64>, Role)| if let Role::Wakes(kind) = role { Some(*kind) } else { None };
            let mut woken: Vec<_> = list.iter().filter_map(kind_of).collect();
            woken.dedup();
            LockFunctions { list, woken }
        })
    }

    /// Returns whether the functions have been searched for, and there are none.
    pub(super) fn is_known_to_be_empty() -> bool {
        FUNCTIONS.get().is_some_and(|functions| functions.list.is_empty())
    }

    /// Returns whether each function that releases a lock of this kind refers to one of these
    /// functions. With link-time optimisation they may all be inlined.
    pub(super) fn shows_releases_of(&self, kind: LockKind) -> bool {
        kind == LockKind::Pthread || self.woken.contains(&kind)
    }

    /// Returns whether an address lies in a function that waits for a condition.
    pub(super) fn is_condition(&self, address: u64) -> bool {
        let index = self.list.partition_point(|(range, _)| range.start <= address);
        let found = index.checked_sub(1).map(|index| &self.list[index]);
        found.is_some_and(|(range, role)| *role == Role::WaitsForCondition && range.contains(&address))
    }

    /// Returns the starts of the functions with a role.
    pub(super) fn starts(&self, is_wanted: impl Fn(&Role) -> bool) -> impl Iterator<Item = u64> {
        self.list.iter().filter(move |(_, role)| is_wanted(role)).map(|(range, _)| range.start)
    }

    /// Returns the role of the function that starts at an address.
    pub(super) fn role(&self, start: u64) -> Option<Role> {
        let index = self.list.binary_search_by_key(&start, |(range, _)| range.start).ok()?;
        Some(self.list[index].1)
    }
}

/// The name of the trait's method, after the type.
const DROP: &str = " as core::ops::drop::Drop>::drop";

/// Returns the role of a function by its demangled name.
fn role(name: &str) -> Option<Role> {
    let drops = name.strip_prefix("core::ptr::drop_in_place<").or_else(|| name.strip_prefix("core::ptr::drop_glue<"));
    if let Some(value) = drops {
        if let Some(role) = guard(value) {
            return Some(role);
        }
        // The future of an async function keeps its guards while it is not polled. It drops them,
        // but they are not held by the function that drops it.
        if value.contains("{{closure}}") || value.contains("{closure") || value.contains("async_fn_env") {
            return None;
        }
        return Some(Role::DropsValue);
    }
    if let Some((dropped, _)) = name.strip_prefix('<').and_then(|name| name.split_once(DROP)) {
        return guard(dropped);
    }
    if CONDITIONS.iter().any(|path| name.contains(path)) {
        return Some(Role::WaitsForCondition);
    }
    let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if PANICS.iter().any(|start| name.starts_with(start)) {
        return (!is(&ABORTS)).then_some(Role::Panics);
    }
    let kind = lock_of_slow_path(name)?;
    if is(&["::wake", "unlock_"]) {
        return Some(Role::Wakes(kind));
    }
    is(&["_contended", "lock_slow", "_slow"]).then_some(Role::Waits(kind))
}

/// Returns the role of the function that drops a type, if that is a guard. A value that contains
/// one is dropped by a function that calls that of the guard.
fn guard(type_name: &str) -> Option<Role> {
    const GUARDS: [(&str, LockKind); 4] = [
        ("std::sync::poison::mutex::", LockKind::StdMutex),
        ("std::sync::poison::rwlock::", LockKind::StdRwLock),
        ("lock_api::mutex::", LockKind::LockApiMutex),
        ("lock_api::rwlock::", LockKind::LockApiRwLock),
    ];
    let of_poison = type_name.replace("std::sync::nonpoison::", "std::sync::poison::");
    let (path, kind) = GUARDS.iter().find(|(path, _)| of_poison.starts_with(path))?;
    let layout = match of_poison[path.len()..].split('<').next()? {
        "MutexGuard" | "RwLockWriteGuard" | "RwLockUpgradableReadGuard" => Layout::First,
        "ArcMutexGuard" | "ArcRwLockReadGuard" | "ArcRwLockWriteGuard" => return None,
        "RwLockReadGuard" => Layout::FirstOrSecond,
        mapped if mapped.starts_with("Mapped") => Layout::FirstOrSecond,
        _ => return None,
    };
    Some(Role::DropsGuard { kind: *kind, layout })
}

fn lock_of_slow_path(name: &str) -> Option<LockKind> {
    const LOCKS: [(&str, LockKind); 6] = [
        ("std::sys::sync::mutex::futex::", LockKind::StdMutex),
        ("std::sys::sync::rwlock::futex::", LockKind::StdRwLock),
        ("parking_lot::raw_mutex::", LockKind::LockApiMutex),
        ("parking_lot::raw_rwlock::", LockKind::LockApiRwLock),
        ("dashmap::lock::", LockKind::LockApiRwLock),
        ("lock_api::rwlock::", LockKind::LockApiRwLock),
    ];
    LOCKS.iter().find(|(path, _)| name.contains(path)).map(|(_, kind)| *kind)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_from_names() {
        let drops = |kind, layout| Some(Role::DropsGuard { kind, layout });
        let guard = "std::sync::poison::mutex::MutexGuard<alloc::vec::Vec<u8>>";
        assert_eq!(role(&format!("core::ptr::drop_in_place<{guard}>")), drops(LockKind::StdMutex, Layout::First));
        let result = format!("core::ptr::drop_in_place<core::result::Result<{guard},std::sync::PoisonError<{guard}>>>");
        assert_eq!(role(&result), Some(Role::DropsValue), "it calls the one of the guard");
        assert_eq!(
            role("core::ptr::drop_in_place<lock_api::rwlock::RwLockWriteGuard<parking_lot::raw_rwlock::RawRwLock,u8>>"),
            drops(LockKind::LockApiRwLock, Layout::First)
        );
        assert_eq!(
            role("<lock_api::mutex::MutexGuard<R,T> as core::ops::drop::Drop>::drop"),
            drops(LockKind::LockApiMutex, Layout::First)
        );
        assert_eq!(role("core::ptr::drop_in_place<app::Session>"), Some(Role::DropsValue));
        assert_eq!(role("core::ptr::drop_in_place<app::serve::{{closure}}>"), None);
        assert_eq!(
            role("core::ptr::drop_in_place<tokio::sync::mutex::MutexGuard<u8>>"),
            Some(Role::DropsValue),
            "a lock that blocks no thread"
        );
        assert_eq!(role("<std::sys::sync::mutex::futex::Mutex>::wake"), Some(Role::Wakes(LockKind::StdMutex)));
        assert_eq!(
            role("std::sys::sync::rwlock::futex::RwLock::wake_writer_or_readers"),
            Some(Role::Wakes(LockKind::StdRwLock))
        );
        assert_eq!(role("std::sys::sync::mutex::futex::Mutex::lock_contended"), Some(Role::Waits(LockKind::StdMutex)));
        assert_eq!(role("parking_lot::raw_mutex::RawMutex::unlock_slow"), Some(Role::Wakes(LockKind::LockApiMutex)));
        assert_eq!(
            role("parking_lot::raw_rwlock::RawRwLock::lock_shared_slow"),
            Some(Role::Waits(LockKind::LockApiRwLock))
        );
        assert_eq!(role("app::main"), None);
        assert_eq!(role("core::panicking::panic_fmt"), Some(Role::Panics));
        assert_eq!(role("core::panicking::panic_nounwind_fmt"), None, "it aborts");
    }

    #[test]
    fn functions_of_this_program_are_found() {
        let functions = LockFunctions::get();
        assert!(!LockFunctions::is_known_to_be_empty());
        let has = |wanted| functions.list.iter().any(|(_, role)| *role == wanted);
        assert!(has(Role::DropsGuard { kind: LockKind::StdMutex, layout: Layout::First }));
        assert!(has(Role::Wakes(LockKind::StdMutex)) && has(Role::Waits(LockKind::StdMutex)));
        assert!(functions.list.is_sorted_by_key(|(range, _)| range.start));
    }
}

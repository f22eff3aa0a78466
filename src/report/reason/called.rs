//! The part of a stack that decides a reason.

use pollwatch_stack::{Frame, Stack};

/// The largest number of functions that are compared with the tables.
const MAX_FUNCTIONS: usize = 64;

/// The functions that the program's innermost own function called, innermost first.
///
/// Functions further outwards do not count. A `Mutex` that a request handler locks is a `Mutex`,
/// whichever layers of libraries called the handler.
///
/// Without debug information, functions of dependencies look like the program's own. They count if
/// their name starts with a pattern.
#[derive(Clone, Debug, Default)]
pub(super) struct Called<'a> {
    functions: Vec<CalledFunction<'a>>,
    /// All functions of the thread, innermost first.
    all: &'a [Frame],
}

#[derive(Clone, Copy, Debug)]
struct CalledFunction<'a> {
    name: &'a str,
    /// True if the function certainly is no function of the program.
    is_foreign: bool,
}

impl<'a> Called<'a> {
    /// Returns the functions of a stack.
    pub(super) fn of(stack: &'a Stack) -> Called<'a> {
        let is_foreign = |frame: &Frame| frame.library || frame.dependency;
        let is_own = |frame: &Frame| !is_foreign(frame) && frame.file.is_some();
        let called = stack.inner_frames().iter().take_while(|frame| !is_own(frame)).take(MAX_FUNCTIONS);
        let functions =
            called.filter_map(|f| Some(CalledFunction { name: f.function.as_deref()?, is_foreign: is_foreign(f) }));
        Called { functions: functions.collect(), all: stack.frames() }
    }

    /// Returns whether one of the functions matches one of the patterns.
    ///
    /// A pattern is a part of a name. One that has a path (`rayon_core::latch::`) matches only from
    /// the start of a name in that path: `postgres::` does not match `tokio_postgres::`.
    pub(super) fn any(&self, patterns: &[&str]) -> bool {
        self.functions.iter().any(|function| {
            patterns.iter().any(|pattern| match function.is_foreign {
                true => contains(function.name, pattern),
                false => function.name.starts_with(pattern),
            })
        })
    }

    /// Returns the innermost function.
    pub(super) fn innermost(&self) -> Option<&'a str> {
        self.functions.first().map(|function| function.name)
    }

    /// Returns the names of the functions, innermost first.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.functions.iter().map(|function| function.name)
    }

    /// Returns the name of the innermost function of the thread, its callers included, that starts
    /// with one of the prefixes.
    pub(super) fn innermost_of_thread(&self, prefixes: &[&str]) -> Option<&'a str> {
        let mut names = self.all.iter().filter_map(|frame| frame.function.as_deref());
        names.find(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }
}

fn contains(name: &str, pattern: &str) -> bool {
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let is_path = pattern.contains("::") && pattern.starts_with(is_part_of_name);
    name.match_indices(pattern).any(|(at, _)| !is_path || !name[..at].ends_with(is_part_of_name))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod unit_tests {
    use super::*;

    #[test]
    fn patterns_with_a_path_match_whole_names() {
        assert!(contains("std::sys::sync::mutex::futex::Mutex::lock_contended", "Mutex"));
        assert!(contains("lock_api::RawFairMutex::lock", "Mutex"));
        assert!(contains("postgres::client::Client::query", "postgres::"));
        assert!(!contains("tokio_postgres::client::Client::query", "postgres::"));
        assert!(contains("tokio_postgres::x<postgres::y>", "postgres::"));
        assert!(contains("tokio::runtime::Runtime::block_on", "::block_on"));
    }
}

//! Calls of `block_in_place` that the compiler has inlined into their callers.
//!
//! Such a call has no frame, so that the stack is that of a task which blocks its worker, while
//! another thread drives it. The debug information of the program has the call.
//!
//! Where there is none, or none can be used at the moment, a program whose symbols have
//! `block_in_place` anywhere may call it here. One without such a symbol is taken for a program
//! that never calls it. That is wrong if the compiler has inlined all of its calls and all that
//! they need, as `lto = "fat"` may do, until a stack has shown a call.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use pollwatch_stack::{Address, Frame, RawStack, Stack};

use super::symbol_access::{SymbolAccess, Symbolized};
use super::tokio_source::is_of_tokio;

/// The stacks whose result is kept.
const MAX_KNOWN: usize = 4_096;
/// The name of the function of tokio. It is also part of the names of what only its calls need.
pub(super) const BLOCK_IN_PLACE: &str = "block_in_place";

/// Whether the code between a poll and the innermost function calls `block_in_place`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InlinedHandOff {
    Absent,
    Present,
    Unknown,
}

/// Finds inlined calls of `block_in_place` in the stacks of one process.
#[derive(Debug, Default)]
pub(super) struct InlinedHandOffs {
    /// True if the symbols of the program have the function, or a stack has shown a call of it.
    /// `None` if the symbols could not be read.
    is_called: Option<bool>,
    known: HashMap<u64, InlinedHandOff>,
    symbols: SymbolAccess,
}

impl InlinedHandOffs {
    pub(super) fn new(is_called: Option<bool>) -> InlinedHandOffs {
        InlinedHandOffs { is_called, ..InlinedHandOffs::default() }
    }

    /// Returns whether there is such a call between the poll and the innermost function. `inner`
    /// has the addresses of a stack from the poll inwards. `None` if that cannot be known at this
    /// moment, but may be soon: symbols are loaded by another thread, and never waited for.
    pub(super) fn find(&mut self, raw: &RawStack, inner: &[Address]) -> Option<InlinedHandOff> {
        let Some(&poll) = inner.first() else { return Some(InlinedHandOff::Unknown) };
        let mut hasher = DefaultHasher::new();
        inner.hash(&mut hasher);
        let digest = hasher.finish();
        if let Some(&known) = self.known.get(&digest) {
            return Some(known);
        }
        let is_called = self.is_called;
        let (stack, lacks_split_units) = match self.symbols.symbolize(raw, || true) {
            Symbolized::Stack { stack, lacks_split_units } => (stack, lacks_split_units),
            Symbolized::PutOff | Symbolized::Unavailable if is_called == Some(false) => {
                return Some(InlinedHandOff::Absent);
            }
            Symbolized::PutOff => return None,
            // A wait that has lasted for so long is suspected.
            Symbolized::Unavailable => return Some(InlinedHandOff::Unknown),
        };
        let mut found = find_in(&stack, poll);
        if found == InlinedHandOff::Absent && lacks_split_units {
            found = InlinedHandOff::Unknown;
        }
        match found {
            InlinedHandOff::Present => self.is_called = Some(true),
            InlinedHandOff::Unknown if self.is_called == Some(false) => found = InlinedHandOff::Absent,
            InlinedHandOff::Unknown | InlinedHandOff::Absent => {}
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(digest, found);
        Some(found)
    }
}

fn find_in(stack: &Stack, poll: Address) -> InlinedHandOff {
    let frames = stack.frames();
    let Some(at) = frames.iter().rposition(|frame| frame.address == poll) else { return InlinedHandOff::Unknown };
    if frames[..=at].iter().any(|frame| is_of_tokio(frame, BLOCK_IN_PLACE)) {
        return InlinedHandOff::Present;
    }
    // A function without lines has no debug information, and so no inlined calls.
    let shows_inlined = |index: usize| {
        let frame = &frames[index];
        frame.module != frames[at].module || frame.line.is_some() || is_plain_try(frames, index)
    };
    if (0..=at).all(shows_inlined) { InlinedHandOff::Absent } else { InlinedHandOff::Unknown }
}

/// Returns whether a frame is that of `__rust_try`, which the compiler makes without debug
/// information, and nothing was inlined into it: the function that it calls has its own frame.
fn is_plain_try(frames: &[Frame], index: usize) -> bool {
    let function = |frame: &Frame, is: fn(&str) -> bool| frame.function.as_deref().is_some_and(is);
    function(&frames[index], |name| name == "__rust_try")
        && index > 0
        && function(&frames[index - 1], |name| name.ends_with("::do_call"))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const POLL: Address = Address::new(100);

    fn frame(address: u64, function: &str, line: Option<u32>) -> Frame {
        let mut frame = Frame::default();
        (frame.function, frame.module) = (Some(function.into()), Some("service".into()));
        (frame.line, frame.address) = (line, Address::new(address));
        frame
    }

    fn find(frames: Vec<Frame>) -> InlinedHandOff {
        find_in(&Stack::new(frames, true, |_| false), POLL)
    }

    #[test]
    fn a_call_is_found_between_the_poll_and_the_innermost_function() {
        let call = "tokio::runtime::scheduler::multi_thread::worker::block_in_place";
        let sleep = || frame(300, "std::thread::sleep", Some(1));
        let poll = || frame(100, "tokio::runtime::task::harness::poll", Some(2));
        assert_eq!(find(vec![sleep(), frame(200, "app::f", Some(3)), poll()]), InlinedHandOff::Absent);
        // Inlined into a function of the program, and into the poll itself.
        for at in [200, 100] {
            let stack = vec![sleep(), frame(at, call, Some(4)), frame(at, "app::f", Some(3)), poll()];
            assert_eq!(find(stack), InlinedHandOff::Present);
        }
        // Line tables have the last part of the name.
        let mut short = frame(200, "block_in_place", Some(4));
        short.file = Some("tokio-1.54.1/src/task/blocking.rs".into());
        assert_eq!(find(vec![sleep(), short, frame(200, "app::f", Some(3)), poll()]), InlinedHandOff::Present);
        // A worker that was started by one is no call of it.
        assert_eq!(find(vec![sleep(), poll(), frame(50, call, Some(4))]), InlinedHandOff::Absent);
        assert_eq!(find(vec![sleep(), frame(200, "app::block_in_place", Some(3)), poll()]), InlinedHandOff::Absent);
    }

    #[test]
    fn without_debug_information_nothing_is_known() {
        let poll = || frame(100, "tokio::runtime::task::harness::poll", None);
        assert_eq!(find(vec![frame(200, "app::f", None), poll()]), InlinedHandOff::Unknown);
        assert_eq!(find(vec![frame(200, "app::f", Some(1))]), InlinedHandOff::Unknown);
        let mut libc = frame(200, "nanosleep", None);
        libc.module = Some("libc.so.6".into());
        let poll = frame(100, "tokio::runtime::task::harness::poll", Some(2));
        assert_eq!(find(vec![libc, poll]), InlinedHandOff::Absent);
    }

    #[test]
    fn the_function_that_catches_panics_needs_no_debug_information() {
        let poll = || frame(100, "tokio::runtime::task::harness::poll", Some(2));
        let plain = frame(200, "__rust_try", None);
        let called = frame(300, "std::panicking::catch_unwind::do_call", Some(1));
        assert_eq!(find(vec![called, plain.clone(), poll()]), InlinedHandOff::Absent);
        // What it calls was inlined, and so may be more.
        assert_eq!(find(vec![frame(300, "app::f", Some(1)), plain, poll()]), InlinedHandOff::Unknown);
    }
}

//! No stacks: the feature is off, or the platform has none. The twin of `capture/`.

use super::outcome::Outcome;
use super::procfs::Syscall;
use crate::model::coverage::StackCoverage;
use crate::model::stack::Stack;

/// The thread to look at.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)]
pub(crate) struct Target {
    pub(crate) tid: i32,
    pub(crate) stack: (usize, usize),
}

/// There are none.
#[derive(Clone)]
pub(crate) enum RawStack {}

impl RawStack {
    pub(crate) fn addresses(&self) -> Option<Vec<u64>> {
        match *self {}
    }
}

/// Which stacks can be taken here.
pub(crate) fn coverage() -> StackCoverage {
    StackCoverage::Unavailable("only on Linux with glibc, on x86_64 and aarch64")
}

/// See `coverage`.
pub(crate) fn hindered() -> Option<StackCoverage> {
    None
}

/// There is nothing to prepare.
pub(crate) fn warm() {}

/// Nor will there be.
pub(crate) fn is_warm() -> bool {
    false
}

#[derive(Default)]
pub(crate) struct Capturer {}

impl Capturer {
    pub(crate) fn capture(
        &mut self,
        _target: Target,
        _at: Option<Syscall>,
        _still: impl Fn() -> bool,
    ) -> (Outcome, Option<RawStack>) {
        (Outcome::Unavailable, None)
    }
}

pub(crate) fn symbols() -> Symbols {
    Symbols
}

pub(crate) struct Symbols;

impl Symbols {
    pub(crate) fn is_ready(&self, raw: &RawStack) -> bool {
        match *raw {}
    }

    pub(crate) fn stack(&mut self, raw: &RawStack) -> Stack {
        match *raw {}
    }

    pub(crate) fn tidy(&mut self) {}

    pub(crate) fn holds_loaders(&self) -> bool {
        false
    }
}

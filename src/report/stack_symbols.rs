//! The symbols of one watchdog's stacks: on, or switched off.

use std::time::Duration;

use pollwatch_stack::{RawStack, Stack, Symbolizer};

use super::queues::{FIRST_WAIT, LATER_WAIT};

/// The source of functions and lines for captured stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackSymbols {
    /// No debug information is ever read: stacks are modules and offsets.
    Off,
    /// Debug information is loaded when a stack needs it. The first report of a stall does not
    /// wait for that.
    OnDemand,
    /// The same, and all reports wait for it, for a limited time. This is for stalls of another
    /// process, which are mostly over before a person reads of them.
    #[allow(dead_code, reason = "other processes are observed on some platforms only")]
    Awaited,
}

impl StackSymbols {
    /// Returns the time for which the first report of a stall waits for symbols.
    pub(super) fn first_wait(self) -> Duration {
        match self {
            StackSymbols::Off | StackSymbols::OnDemand => FIRST_WAIT,
            StackSymbols::Awaited => LATER_WAIT,
        }
    }

    /// Returns a stack as functions and lines, or as modules and offsets.
    pub(super) fn resolve(self, raw: &RawStack) -> Stack {
        if self == StackSymbols::Off { raw.without_symbols() } else { Symbolizer::shared().symbolize(raw) }
    }

    /// Returns whether a report is not to wait for this stack: debug information has to be loaded
    /// for it, which may take some 100 ms.
    pub(super) fn must_not_wait(self, raw: &RawStack) -> bool {
        self == StackSymbols::OnDemand && !Symbolizer::shared().is_loaded_for(raw)
    }

    /// Returns what was found since the last call and could not be used.
    pub(super) fn take_problems(self) -> Vec<String> {
        if self == StackSymbols::Off { Vec::new() } else { Symbolizer::shared().take_problems() }
    }
}

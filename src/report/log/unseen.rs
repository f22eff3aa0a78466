//! Notices that nobody takes the log line of a stall, and says so once on the standard error.
//!
//! What tracing does: an event that no subscriber is interested in is dropped silently. That is so
//! in a program that has no subscriber, and in one whose filter names its own crates only. With
//! tracing's feature `log`, an event that has no subscriber goes to the logger of the crate `log`.
//!
//! What follows from it: a line was taken if its message was read, which also a logger does, or if
//! a subscriber is enabled for it.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// The line for a person who waits for the lines of stalls.
const HINT: &str = "pollwatch has found a stall, and nothing takes its log line (a tracing event, target pollwatch::stall, \
level WARN). Let your subscriber's filter pass it, for example with RUST_LOG=warn or with `pollwatch=warn` beside your \
own crates. A program without a subscriber needs one, such as tracing_subscriber::fmt::init(); one that uses the crate \
`log` needs tracing's feature `log`. WatchdogBuilder::log(false) turns the log off, and this hint, which is printed once";

/// A message that records that it was read.
pub(super) struct Message<'a> {
    text: &'a str,
    was_read: Cell<bool>,
}

impl Message<'_> {
    pub(super) fn new(text: &str) -> Message<'_> {
        Message { text, was_read: Cell::new(false) }
    }

    pub(super) fn was_read(&self) -> bool {
        self.was_read.get()
    }
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.was_read.set(true);
        f.write_str(self.text)
    }
}

/// Prints the hint, once in a process. It is printed by the thread of the log, which may block.
#[cold]
pub(super) fn print_hint() {
    static PRINTED: AtomicBool = AtomicBool::new(false);
    if !PRINTED.swap(true, Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "{HINT}");
    }
}

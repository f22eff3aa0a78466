//! The log lines about panics of tasks.

use std::time::Duration;

use tokio::task::Id;

use super::log;
use super::throttle::Throttle;
use crate::model::event::TaskGroup;
use crate::model::id::{RuntimeId, SiteId};

/// Logs the panics of tasks. The rate limit is by site, and separate from that of the site's
/// stalls.
pub(super) struct PanicLog {
    throttle: Throttle<(RuntimeId, SiteId)>,
}

impl PanicLog {
    pub(super) fn new() -> PanicLog {
        PanicLog { throttle: Throttle::new() }
    }

    /// Logs a panic. Returns `false` if the rate limit of its site suppressed it.
    pub(super) fn log(&mut self, group: &TaskGroup, task: Option<Id>, message: &str, now: Duration) -> bool {
        let Some(suppressed) = self.throttle.admit(group.key, now, true) else { return false };
        log::task_panic(group, task, &one_line(message), suppressed);
        true
    }
}

/// Joins a text of several lines (such as the one of `assert_eq`) into one line, without control
/// characters.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(one_line("assertion `left == right` failed\n  left: 1\n right: 2"), {
            "assertion `left == right` failed left: 1 right: 2"
        });
        assert_eq!(one_line("a\r\nb\u{1b}[31mc\t"), "a b [31mc");
        assert_eq!(one_line(""), "");
    }
}

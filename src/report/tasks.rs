//! What is told of tasks: panics, and places where they only get more.

use std::sync::Arc;

use tokio::task::Id;

use super::log;
use super::throttle::Throttle;
use crate::measure::site::{Site, SiteId};

/// A place, by name and by key.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) runtime: Arc<str>,
    pub(crate) site: Site,
    pub(crate) key: (u16, SiteId),
}

/// Something about the tasks of a place.
#[derive(Debug)]
pub(crate) enum TaskNews {
    Panicked { place: Place, task: Option<Id>, text: String },
    Grown { place: Place, alive: u64, limit: u64 },
}

/// Tells them. Panics are limited by place, apart from its stalls; growth is told rarely by itself.
pub(crate) struct TaskTeller {
    panics: Throttle<(u16, SiteId)>,
}

impl TaskTeller {
    pub(crate) fn new() -> TaskTeller {
        TaskTeller { panics: Throttle::new() }
    }

    /// Logs it; whether it was told, and not left out because its place is told too often. `now` in nanoseconds.
    pub(crate) fn tell(&mut self, news: &TaskNews, now: u64) -> bool {
        match news {
            TaskNews::Panicked { place, task, text } => {
                let Some(untold) = self.panics.admit(place.key, now, true) else { return false };
                log::task_panic(place, *task, &one_line(text), untold);
            }
            TaskNews::Grown { place, alive, limit } => log::task_growth(place, *alive, *limit),
        }
        true
    }
}

/// A text of several lines (that of `assert_eq`) as one, without anything that moves a terminal's cursor.
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

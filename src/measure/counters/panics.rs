//! The queue of panics of spawned tasks. The worker that polled the task pushes, and the watchdog
//! takes.

use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::RuntimeId;
use crate::util::lock;

/// The number of panics that the queue holds. Further ones are dropped and counted.
const CAPACITY: usize = 256;
/// The number of bytes that are kept of a message.
const MAX_TEXT: usize = 300;

/// One panic of a task.
#[derive(Debug)]
pub(crate) struct TaskPanic {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    pub(crate) task: TaskBits,
    /// The message, cut to its first bytes.
    pub(crate) text: String,
}

/// The panics that the watchdog has not taken yet. A panic takes the lock; other polls do not.
#[derive(Debug, Default)]
pub(crate) struct Panics {
    waiting: Mutex<Vec<TaskPanic>>,
    /// `true` if `waiting` may have an entry.
    has_any: AtomicBool,
    /// The number of panics that were dropped.
    lost: AtomicU64,
}

impl Panics {
    /// Adds a panic. The caller has to wake the watchdog afterwards; any thread.
    pub(crate) fn push(&self, panic: TaskPanic) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < CAPACITY {
            waiting.push(panic);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        drop(waiting);
        // This store comes before the caller's load of the flag of the sleeping watchdog. The
        // watchdog raises that flag before it reads this one. So one of them finds the other.
        self.has_any.store(true, Ordering::SeqCst);
    }

    /// Returns whether a panic may be taken.
    pub(crate) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::SeqCst)
    }

    /// Takes all panics, the oldest first; the watchdog only.
    pub(crate) fn take(&self) -> Vec<TaskPanic> {
        if !self.has_any() {
            return Vec::new();
        }
        self.has_any.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.waiting))
    }

    /// Returns how many panics were dropped because the queue was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Returns the message of a panic, cut to its first bytes. A payload that is no text gets a
/// placeholder.
pub(crate) fn text(payload: &(dyn Any + Send)) -> String {
    let text = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => return "(a payload that is no text)".into(),
    };
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn panic(task: u64) -> TaskPanic {
        TaskPanic { runtime: RuntimeId(1), site: SiteId(1), task: TaskBits(task), text: String::new() }
    }

    #[test]
    fn panics_are_taken_in_order_and_counted_where_they_do_not_fit() {
        let panics = Panics::default();
        assert!(!panics.has_any() && panics.take().is_empty());
        for task in 0..CAPACITY as u64 + 3 {
            panics.push(panic(task));
        }
        assert!(panics.has_any());
        assert!(panics.take().iter().map(|p| p.task.0).eq(0..CAPACITY as u64));
        assert!(!panics.has_any() && panics.take().is_empty());
        assert_eq!(panics.lost(), 3);
        panics.push(panic(9));
        assert_eq!(panics.take().len(), 1, "there is room again");
    }

    #[test]
    fn messages_are_cut() {
        assert_eq!(text(&"literal"), "literal");
        assert_eq!(text(&String::from("made")), "made");
        assert_eq!(text(&7_u8), "(a payload that is no text)");
        let long = text(&"ä".repeat(MAX_TEXT));
        assert!(long.starts_with("ää") && long.ends_with("ä…") && long.len() <= MAX_TEXT + "…".len(), "{long}");
        // A character across the bound is left out.
        let across = text(&format!("{}ä", "x".repeat(MAX_TEXT - 1)));
        assert_eq!(across, format!("{}…", "x".repeat(MAX_TEXT - 1)));
    }
}

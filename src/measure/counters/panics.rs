//! Panics of spawned tasks, on their way from the worker that met one to the watchdog.

use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::measure::primitives::site::SiteId;
use crate::measure::primitives::task_id::TaskBits;
use crate::model::id::RuntimeId;
use crate::util::lock;

/// Panics that may wait to be taken; further ones are counted, no more.
const WAITING: usize = 256;
/// Bytes kept of a message.
const TEXT: usize = 300;

/// One panic of a task.
#[derive(Debug)]
pub(crate) struct TaskPanic {
    pub(crate) runtime: RuntimeId,
    pub(crate) site: SiteId,
    pub(crate) task: TaskBits,
    pub(crate) text: String,
}

/// Those that the watchdog has not taken yet. A lock, but only where a task panics.
#[derive(Debug, Default)]
pub(crate) struct Panics {
    waiting: Mutex<Vec<TaskPanic>>,
    any: AtomicBool,
    lost: AtomicU64,
}

impl Panics {
    /// Leaves one for the watchdog, which has then to be woken; any thread.
    pub(crate) fn leave(&self, panic: TaskPanic) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < WAITING {
            waiting.push(panic);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        drop(waiting);
        // Before the flag that tells whether the watchdog sleeps is read; the watchdog asks here
        // after it has raised that one.
        self.any.store(true, Ordering::SeqCst);
    }

    /// Whether there is something to take.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> Vec<TaskPanic> {
        if !self.any() {
            return Vec::new();
        }
        self.any.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.waiting))
    }

    /// How many came while too many waited.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The text of a panic, as far as it has one: its first bytes.
pub(crate) fn text(payload: &(dyn Any + Send)) -> String {
    let text = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => return "(a payload that is no text)".into(),
    };
    if text.len() <= TEXT {
        return text.to_owned();
    }
    let end = (0..=TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn panic(task: u64) -> TaskPanic {
        TaskPanic { runtime: RuntimeId(1), site: SiteId(1), task: TaskBits(task), text: String::new() }
    }

    #[test]
    fn waits_in_order_and_counts_what_does_not_fit() {
        let panics = Panics::default();
        assert!(!panics.any() && panics.take().is_empty());
        for task in 0..WAITING as u64 + 3 {
            panics.leave(panic(task));
        }
        assert!(panics.any());
        assert!(panics.take().iter().map(|p| p.task.0).eq(0..WAITING as u64));
        assert!(!panics.any() && panics.take().is_empty());
        assert_eq!(panics.lost(), 3);
        panics.leave(panic(9));
        assert_eq!(panics.take().len(), 1, "there is room again");
    }

    #[test]
    fn texts_are_kept_in_part() {
        assert_eq!(text(&"literal"), "literal");
        assert_eq!(text(&String::from("made")), "made");
        assert_eq!(text(&7_u8), "(a payload that is no text)");
        let long = text(&"ä".repeat(TEXT));
        assert!(long.starts_with("ää") && long.ends_with("ä…") && long.len() <= TEXT + "…".len(), "{long}");
        // A character that lies across the bound is left out whole.
        let across = text(&format!("{}ä", "x".repeat(TEXT - 1)));
        assert_eq!(across, format!("{}…", "x".repeat(TEXT - 1)));
    }
}

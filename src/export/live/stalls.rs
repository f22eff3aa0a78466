//! The latest stalls, with each different stack once.

use std::sync::Arc;

use pollwatch_stack::{Frame, Stack};
use serde::Serialize;
use serde_json::Value;

use super::runtimes::LiveWorker;
use crate::{Holder, Stall};

/// The largest number of stalls.
pub(super) const MAX_STALLS: usize = 100;
/// The number of functions of a stack: the innermost ones.
const MAX_DEPTH: usize = 64;

#[derive(Default, Serialize)]
pub(super) struct LiveStalls {
    /// The stalls as `/stalls` has them, except for the stack, which is an index into `stacks`.
    /// The most recent one is last.
    stalls: Vec<Value>,
    stacks: Vec<LiveStack>,
}

/// A stack from the innermost function to the outermost one of the application.
#[derive(PartialEq, Eq, Serialize)]
struct LiveStack {
    /// The application's own functions in one line.
    summary: String,
    frames: Vec<LiveFrame>,
    frames_left_out: usize,
}

#[derive(PartialEq, Eq, Serialize)]
struct LiveFrame {
    name: String,
    file: Option<Arc<str>>,
    line: Option<u32>,
    /// `program`, `dependency`, or `library` for the standard library, the system's and tokio.
    of: &'static str,
}

impl LiveStalls {
    pub(super) fn new<'a>(recent: Vec<Stall>, workers: impl Iterator<Item = &'a LiveWorker> + Clone) -> LiveStalls {
        let mut live = LiveStalls::default();
        for mut stall in recent {
            // The page shows where the holder or the pool is, and not its whole stack.
            if let Some(Holder::Thread(holder)) = stall.lock.as_mut().map(|lock| &mut lock.holder) {
                holder.stack = None;
            }
            let stack = stall.stack.take().map(|stack| live.index_of(LiveStack::new(&stack)));
            let Ok(mut value) = serde_json::to_value(&stall) else { continue };
            value["stack"] = stack.into();
            if let Some(victims) = &stall.victims {
                value["victims"]["text"] = victims.to_string().into();
            }
            if let Some(pool) = value["pool"].as_object_mut() {
                pool.remove("stack");
            }
            // A stall is as old as the watchdog's latest scan; the worker's slot is current.
            let worker = workers.clone().find(|worker| worker.stall == Some(stall.id));
            if let Some(elapsed) = worker.and_then(|worker| worker.elapsed_seconds) {
                value["elapsed_seconds"] = elapsed.into();
            }
            live.stalls.push(value);
        }
        live
    }

    /// Returns the index of a stack, which is added if it is new.
    fn index_of(&mut self, stack: LiveStack) -> usize {
        self.stacks.iter().position(|known| *known == stack).unwrap_or_else(|| {
            self.stacks.push(stack);
            self.stacks.len() - 1
        })
    }
}

impl LiveStack {
    fn new(stack: &Stack) -> LiveStack {
        let frames = stack.inner_frames();
        let frame = |frame: &Frame| LiveFrame {
            name: frame.name(),
            file: frame.file.clone(),
            line: frame.line,
            of: match () {
                () if frame.library => "library",
                () if frame.dependency => "dependency",
                () => "program",
            },
        };
        LiveStack {
            summary: stack.to_string(),
            frames: frames.iter().take(MAX_DEPTH).map(frame).collect(),
            frames_left_out: stack.frames().len().saturating_sub(frames.len().min(MAX_DEPTH)),
        }
    }
}

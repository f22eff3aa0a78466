//! The latest stalls, their stacks each once.

use std::sync::Arc;

use pollwatch_stack::{Frame, Stack};
use serde::Serialize;
use serde_json::Value;

use super::Worker;
use crate::model::stall::{Phase, Stall};

/// Stalls told that are over; those that go on are told all.
const MOST: usize = 100;
/// Functions of a stack: the innermost.
const MAX_DEPTH: usize = 64;

#[derive(Default, Serialize)]
pub(super) struct Stalls {
    /// As `/stalls` has them, but for the stack, which is an index of `stacks`. Most recent last.
    stalls: Vec<Value>,
    stacks: Vec<Told>,
}

/// A stack from the innermost function to the outermost of the user's.
#[derive(PartialEq, Eq, Serialize)]
struct Told {
    /// In one line: the program's own functions.
    summary: String,
    frames: Vec<Function>,
    frames_left_out: usize,
}

#[derive(PartialEq, Eq, Serialize)]
struct Function {
    name: String,
    file: Option<Arc<str>>,
    line: Option<u32>,
    /// Of the program's own, of a dependency's, or of the language's, the system's and tokio's libraries.
    of: &'static str,
}

impl Stalls {
    pub(super) fn of<'a>(mut recent: Vec<Stall>, workers: impl Iterator<Item = &'a Worker> + Clone) -> Stalls {
        let over = recent.iter().filter(|stall| stall.phase == Phase::Resolved).count();
        let mut skip = over.saturating_sub(MOST);
        recent.retain(|stall| {
            let is_old = stall.phase == Phase::Resolved && skip > 0;
            skip -= usize::from(is_old);
            !is_old
        });
        let mut told = Stalls::default();
        for mut stall in recent {
            let stack = stall.stack.take().map(|stack| told.index_of(Told::of(&stack)));
            let Ok(mut value) = serde_json::to_value(&stall) else { continue };
            value["stack"] = stack.into();
            // The book is told at each look; the slot knows it by now.
            let now = workers.clone().find(|w| w.stall == Some(stall.id)).and_then(|w| w.elapsed_seconds);
            if let Some(now) = now {
                value["elapsed_seconds"] = now.into();
            }
            told.stalls.push(value);
        }
        told
    }

    /// Of a stack, which is kept once.
    fn index_of(&mut self, stack: Told) -> usize {
        self.stacks.iter().position(|known| *known == stack).unwrap_or_else(|| {
            self.stacks.push(stack);
            self.stacks.len() - 1
        })
    }
}

impl Told {
    fn of(stack: &Stack) -> Told {
        let frames = stack.inner_frames();
        let function = |frame: &Frame| Function {
            name: frame.name(),
            file: frame.file.clone(),
            line: frame.line,
            of: match () {
                () if frame.library => "library",
                () if frame.dependency => "dependency",
                () => "program",
            },
        };
        Told {
            summary: stack.to_string(),
            frames: frames.iter().take(MAX_DEPTH).map(function).collect(),
            frames_left_out: stack.frames().len().saturating_sub(frames.len().min(MAX_DEPTH)),
        }
    }
}

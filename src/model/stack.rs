//! A stack as it is told: functions and lines, the user's part of it by default.

use std::fmt;
use std::sync::Arc;

/// One function of a [`Stack`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Frame {
    /// Its name as a person would say it: `app::report::handler` for an async function, too.
    pub function: Option<Arc<str>>,
    /// The source file, shortened.
    pub file: Option<Arc<str>>,
    /// The line in it.
    pub line: Option<u32>,
    /// The file name of the binary or library that the code is in.
    pub module: Option<Arc<str>>,
    /// The address in that file.
    pub offset: u64,
    /// Of the language's libraries, the system's, or tokio's.
    pub library: bool,
    /// Of a crate that is not the program's own, as far as the file's path tells.
    pub dependency: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) address: u64,
}

impl Frame {
    /// The function's name; where it is not known, module and offset.
    pub(crate) fn name(&self) -> String {
        match (&self.function, &self.module) {
            (Some(function), _) => function.to_string(),
            (None, Some(module)) => format!("{module}+{:#x}", self.offset),
            (None, None) => format!("{:#x}", self.address),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            (Some(file), None) => write!(f, " ({file})"),
            _ => Ok(()),
        }
    }
}

/// What a thread was doing: its functions, innermost first.
///
/// `{}` is the part between the poll's entry and the libraries' innermost functions, in one line; `{:#}` all of it, a line each.
///
/// Serialized (feature `serde`) it is a struct of three fields: `frames`, all [`Frame`]s, innermost first; `user_frames`, the
/// indices in it of [`user_frames`](Self::user_frames); and `complete`, see [`is_complete`](Self::is_complete).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stack {
    frames: Arc<[Frame]>,
    /// The user's part.
    user: (usize, usize),
    /// It reaches the thread's first function.
    complete: bool,
}

#[cfg(feature = "serde")]
impl serde::Serialize for Stack {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut stack = serializer.serialize_struct("Stack", 3)?;
        stack.serialize_field("frames", self.frames())?;
        stack.serialize_field("user_frames", &(self.user.0..self.user.1).collect::<Vec<_>>())?;
        stack.serialize_field("complete", &self.complete)?;
        stack.end()
    }
}

/// Functions told in one line.
const SHOWN: usize = 8;

impl Stack {
    #[cfg_attr(not(feature = "capture"), allow(dead_code))]
    pub(crate) fn new(frames: Vec<Frame>, complete: bool, is_poll_entry: impl Fn(&Frame) -> bool) -> Stack {
        // The first function of the user's, then outwards to the poll that it is part of: a runtime that was entered once more
        // (`block_on` within a task) lies further in than both.
        let begin = frames.iter().position(|frame| !frame.library);
        let from = begin.unwrap_or(0);
        let end = frames[from..].iter().position(is_poll_entry).map_or(frames.len(), |at| from + at);
        let begin = begin.unwrap_or(0).min(end);
        // Between the user's outermost function and that entry are functions of the libraries only.
        let end = frames[begin..end].iter().rposition(|frame| !frame.library).map_or(end, |at| begin + at + 1);
        Stack { frames: frames.into(), user: (begin, end), complete }
    }

    /// All functions, innermost first.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Those between the poll's entry and the libraries' innermost functions: the code to look at, innermost first.
    pub fn user_frames(&self) -> &[Frame] {
        &self.frames[self.user.0..self.user.1]
    }

    /// From the innermost to the outermost of the user's: those, and what they called.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn inner_frames(&self) -> &[Frame] {
        &self.frames[..self.user.1]
    }

    /// Whether it reaches the thread's first function; else its outer part is missing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the innermost of the user's functions is the same, at the same line.
    pub(crate) fn same_place(&self, other: &Stack) -> bool {
        let place = |stack: &Stack| {
            let frame = stack.user_frames().first().or(stack.frames.first()).cloned();
            frame.map(|f| (f.function, f.file, f.line, f.module.filter(|_| f.line.is_none()).map(|m| (m, f.offset))))
        };
        place(self) == place(other)
    }

    /// What one line tells: the program's own functions, and the one of a dependency that the innermost of them called. Where there
    /// are none: the dependencies', else all.
    fn shown(&self) -> Vec<&Frame> {
        let user = self.user_frames();
        let is_own = |frame: &&Frame| !frame.dependency && !frame.library;
        let Some(own) = user.iter().position(|frame| is_own(&frame)) else {
            let all = user.iter().all(|frame| frame.library);
            return user.iter().filter(|frame| all || !frame.library).collect();
        };
        let called = user[..own].iter().rfind(|frame| !frame.library);
        called.into_iter().chain(user[own..].iter().filter(is_own)).collect()
    }

    /// The innermost functions that are not the user's: what the user's code called.
    pub(crate) fn leaf_frames(&self) -> &[Frame] {
        &self.frames[..self.user.0]
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            for (i, frame) in self.frames.iter().enumerate() {
                writeln!(f, "{i:4}: {frame}")?;
            }
            return if self.complete { Ok(()) } else { writeln!(f, "      (incomplete)") };
        }
        let mut shown = self.shown();
        // A closure that was inlined stands at its function's own line.
        shown.dedup_by(|a, b| (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line) && a.line.is_some());
        for (i, frame) in shown.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str(" ← ")?;
            }
            write!(f, "{frame}")?;
        }
        match shown.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " ← {more} more"),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn frame(function: &str, library: bool, dependency: bool) -> Frame {
        Frame { function: Some(function.into()), library, dependency, ..Frame::default() }
    }

    fn is_entry(frame: &Frame) -> bool {
        frame.function.as_deref() == Some("poll")
    }

    #[test]
    fn the_users_part() {
        let frames = vec![
            frame("read", true, false),
            frame("std::io", true, false),
            frame("db::inner", false, true),
            frame("db::query", false, true),
            frame("core::FnOnce::call_once", true, false),
            frame("app::load", false, false),
            frame("axum::call", false, true),
            frame("core::Fn::call", true, false),
            frame("app::main_future", false, false),
            frame("core::panic::catch_unwind", true, false),
            frame("poll", true, false),
            frame("start", true, false),
        ];
        let stack = Stack::new(frames, true, is_entry);
        assert_eq!(stack.user_frames().len(), 7);
        assert_eq!(stack.leaf_frames().len(), 2);
        assert_eq!(stack.to_string(), "db::query ← app::load ← app::main_future");
        assert_eq!(format!("{stack:#}").lines().count(), 12);
    }

    #[test]
    fn a_runtime_within_a_task() {
        let frames = vec![
            frame("park", true, false),
            frame("poll", true, false),
            frame("app::blocks", false, false),
            frame("poll", true, false),
        ];
        assert_eq!(Stack::new(frames, true, is_entry).to_string(), "app::blocks");
    }

    #[test]
    fn nothing_of_the_users() {
        let stack = Stack::new(vec![frame("read", true, false), frame("poll", true, false)], false, is_entry);
        assert_eq!(stack.to_string(), "read");
        assert!(format!("{stack:#}").ends_with("(incomplete)\n"));
        assert_eq!(Stack::new(Vec::new(), false, is_entry).to_string(), "");
        let dependencies = vec![frame("a", false, true), frame("b", false, true)];
        assert_eq!(Stack::new(dependencies, true, is_entry).to_string(), "a ← b");
    }

    #[cfg(feature = "server")]
    #[test]
    fn as_json() {
        let frames = vec![frame("read", true, false), frame("app::load", false, false), frame("poll", true, false)];
        let json = serde_json::to_value(Stack::new(frames, true, is_entry)).unwrap();
        assert_eq!(json["frames"][1]["function"], "app::load");
        assert_eq!((&json["user_frames"], &json["complete"]), (&serde_json::json!([1]), &true.into()));
        assert_eq!(json.as_object().unwrap().len(), 3);
    }
}

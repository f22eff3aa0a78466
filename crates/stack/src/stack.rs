use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Frame;

/// The functions that a thread was executing, innermost first.
///
/// `{}` shows the user's part in one line: the functions from the innermost one that belongs to no
/// library out to the boundary. `{:#}` shows all functions, one a line.
///
/// The feature `serde` serializes it as a struct of three fields. `frames` holds all [`Frame`]s,
/// innermost first. `user_frames` holds the indices of [`user_frames`](Self::user_frames) in it.
/// `complete` is [`is_complete`](Self::is_complete).
///
/// ```
/// use pollwatch_stack::{Frame, Stack};
///
/// let frame = |name: &str, library| {
///     let mut frame = Frame::default();
///     (frame.function, frame.library) = (Some(name.into()), library);
///     frame
/// };
/// let frames = vec![
///     frame("std::fs::read", true),
///     frame("app::load", false),
///     frame("runtime::poll", true),
///     frame("main", true),
/// ];
/// let stack = Stack::new(frames, true, |frame| frame.name() == "runtime::poll");
/// assert_eq!(stack.frames().len(), 4);
/// assert_eq!(stack.leaf_frames()[0].name(), "std::fs::read");
/// assert_eq!(stack.user_frames()[0].name(), "app::load");
/// assert_eq!(stack.inner_frames().len(), 2);
/// assert!(stack.is_complete() && stack.is_same_location(&stack.clone()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stack {
    frames: Arc<[Frame]>,
    /// The indices of the user's part.
    user: Range<usize>,
    complete: bool,
}

#[cfg(feature = "serde")]
impl serde::Serialize for Stack {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut stack = serializer.serialize_struct("Stack", 3)?;
        stack.serialize_field("frames", self.frames())?;
        stack.serialize_field("user_frames", &self.user.clone().collect::<Vec<_>>())?;
        stack.serialize_field("complete", &self.complete)?;
        stack.end()
    }
}

/// The most functions that are shown in one line.
const SHOWN: usize = 8;

impl Stack {
    /// Makes a stack of frames, innermost first. `complete` says whether they reach the thread's
    /// first function.
    ///
    /// `is_boundary` recognises functions by which a runtime calls the user's code, such as the
    /// poll of a task. The user's part starts at the innermost function that belongs to no library
    /// and ends at the first boundary outwards from there.
    ///
    /// ```
    /// use pollwatch_stack::{Frame, Stack};
    ///
    /// let frame = |name: &str, library| {
    ///     let mut frame = Frame::default();
    ///     (frame.function, frame.library) = (Some(name.into()), library);
    ///     frame
    /// };
    /// let frames = [("std::thread::sleep", true), ("app::load", false), ("main", true)];
    /// let frames = frames.map(|(name, library)| frame(name, library));
    /// let stack = Stack::new(frames.into(), true, |_| false);
    /// assert_eq!(stack.to_string(), "app::load");
    /// ```
    pub fn new(frames: Vec<Frame>, complete: bool, is_boundary: impl Fn(&Frame) -> bool) -> Stack {
        // A runtime that was entered within a task (`block_on`) has its boundary further inwards
        // than the user's innermost function, so the search for the boundary starts there.
        let start = frames.iter().position(|frame| !frame.library);
        let from = start.unwrap_or(0);
        let end = frames[from..].iter().position(is_boundary).map_or(frames.len(), |at| from + at);
        let start = start.unwrap_or(0).min(end);
        // Between the user's outermost function and the boundary there are only library functions.
        let end = frames[start..end].iter().rposition(|frame| !frame.library).map_or(end, |at| start + at + 1);
        Stack { frames: frames.into(), user: start..end, complete }
    }

    /// Returns all functions, innermost first.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Returns the functions from the innermost one that belongs to no library out to the boundary,
    /// innermost first. They are the code to inspect.
    pub fn user_frames(&self) -> &[Frame] {
        &self.frames[self.user.clone()]
    }

    /// Returns the functions from the innermost one out to the user's outermost one: the user's
    /// functions, and all that they called.
    pub fn inner_frames(&self) -> &[Frame] {
        &self.frames[..self.user.end]
    }

    /// Returns the library functions that the user's innermost function called.
    pub fn leaf_frames(&self) -> &[Frame] {
        &self.frames[..self.user.start]
    }

    /// Returns whether the stack reaches the thread's first function. If not, its outer part is
    /// missing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns whether the user's innermost function is the same in both stacks, at the same line.
    pub fn is_same_location(&self, other: &Stack) -> bool {
        let location = |stack: &Stack| {
            let frame = stack.user_frames().first().or(stack.frames.first()).cloned();
            frame.map(|f| (f.function, f.file, f.line, f.module.filter(|_| f.line.is_none()).map(|m| (m, f.offset))))
        };
        location(self) == location(other)
    }

    /// Returns the functions that the one-line form shows: the program's own ones, and the function
    /// of a dependency that the innermost of them called. Where the program has none, it shows
    /// those of dependencies, and where these are missing too, all.
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
        // A closure that was inlined has the line of its function.
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

    fn is_boundary(frame: &Frame) -> bool {
        frame.function.as_deref() == Some("poll")
    }

    #[test]
    fn user_part_lies_between_libraries_and_boundary() {
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
        let stack = Stack::new(frames, true, is_boundary);
        assert_eq!(stack.user_frames().len(), 7);
        assert_eq!(stack.leaf_frames().len(), 2);
        assert_eq!(stack.to_string(), "db::query ← app::load ← app::main_future");
        assert_eq!(format!("{stack:#}").lines().count(), 12);
    }

    #[test]
    fn nested_runtime_within_a_task() {
        let frames = vec![
            frame("park", true, false),
            frame("poll", true, false),
            frame("app::blocks", false, false),
            frame("poll", true, false),
        ];
        assert_eq!(Stack::new(frames, true, is_boundary).to_string(), "app::blocks");
    }

    #[test]
    fn stack_without_user_functions() {
        let stack = Stack::new(vec![frame("read", true, false), frame("poll", true, false)], false, is_boundary);
        assert_eq!(stack.to_string(), "read");
        assert!(format!("{stack:#}").ends_with("(incomplete)\n"));
        assert_eq!(Stack::new(Vec::new(), false, is_boundary).to_string(), "");
        let dependencies = vec![frame("a", false, true), frame("b", false, true)];
        assert_eq!(Stack::new(dependencies, true, is_boundary).to_string(), "a ← b");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn as_json() {
        let frames = vec![frame("read", true, false), frame("app::load", false, false), frame("poll", true, false)];
        let json = serde_json::to_value(Stack::new(frames, true, is_boundary)).unwrap();
        assert_eq!(json["frames"][1]["function"], "app::load");
        assert_eq!((&json["user_frames"], &json["complete"]), (&serde_json::json!([1]), &true.into()));
        assert_eq!(json.as_object().unwrap().len(), 3);
    }
}

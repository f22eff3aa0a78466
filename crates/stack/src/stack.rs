use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{Frame, Module};

mod one_line;

/// The functions that a thread was executing, innermost first.
///
/// `{}` shows the user's part in one line: the program's functions, innermost first, or those of
/// dependencies where it has none. Of more than eight, the innermost and the outermost ones are
/// shown, and of each dependency the function by which it was entered:
/// `a ← b ← 9 more ← app::handler`. `{:#}` shows all functions, one a line, and the build ids of
/// modules without symbols.
///
/// The feature `serde` serializes it as a struct of four fields. `frames` holds all [`Frame`]s,
/// innermost first. `user_frames` holds the indices of [`user_frames`](Self::user_frames) in it.
/// `complete` is [`is_complete`](Self::is_complete). `modules` holds `name`, `path` and `build_id`
/// of each module, and `module_index` of a frame is an index in it.
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

impl Stack {
    /// Makes a stack of frames, innermost first. `complete` says whether they reach the thread's
    /// first function.
    ///
    /// `is_boundary` recognises functions by which a runtime calls the user's code, such as the
    /// poll of a task. The user's part starts at the innermost function that belongs to no library
    /// and ends at the first boundary outwards from there.
    ///
    /// A statically linked program contains the C library and other code without debug information.
    /// A function without a source file does not start the user's part if it has the name of a C
    /// function and was called by a library, or if a function of another crate further outwards in
    /// that part has a file.
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
        let start = innermost_of_user(&frames, &is_boundary);
        let from = start.unwrap_or(0);
        let end = frames[from..].iter().position(is_boundary).map_or(frames.len(), |at| from + at);
        let start = start.unwrap_or(0).min(end);
        let start = start + without_foreign_code(&frames[start..end]);
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

    /// Returns the frame that says where the thread is: the innermost function of the program
    /// itself, else that of a dependency, else the innermost function of all. `None` for a stack
    /// without frames.
    ///
    /// ```
    /// use pollwatch_stack::{Frame, Stack};
    ///
    /// let frame = |name: &str, dependency| {
    ///     let mut frame = Frame::default();
    ///     (frame.function, frame.dependency) = (Some(name.into()), dependency);
    ///     frame
    /// };
    /// let frames = vec![frame("brotli::compress", true), frame("app::handler", false)];
    /// let stack = Stack::new(frames, true, |_| false);
    /// assert_eq!(stack.location().unwrap().name(), "app::handler");
    /// ```
    pub fn location(&self) -> Option<&Frame> {
        let user = self.user_frames();
        let own = user.iter().find(|frame| !frame.library && !frame.dependency);
        own.or_else(|| user.iter().find(|frame| !frame.library)).or(user.first()).or(self.frames.first())
    }

    /// Returns the modules of the frames, each once, in the order of the frames.
    ///
    /// ```
    /// use pollwatch_stack::{BuildId, Stack};
    ///
    /// /// Prints what is needed to symbolize a stack on another machine.
    /// fn print_builds(stack: &Stack) {
    ///     for module in stack.modules() {
    ///         let id = module.build_id.as_ref().map_or("none".into(), BuildId::to_string);
    ///         println!("{}: build id {id}", module.path.display());
    ///     }
    /// }
    /// ```
    pub fn modules(&self) -> Vec<&Module> {
        let mut modules: Vec<&Module> = Vec::new();
        for module in self.frames.iter().filter_map(|frame| frame.module_info.as_deref()) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        modules
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return one_line::write(f, self.user_frames());
        }
        for (i, frame) in self.frames.iter().enumerate() {
            writeln!(f, "{i:4}: {frame}")?;
        }
        if !self.complete {
            writeln!(f, "      (incomplete)")?;
        }
        // These are what `pollwatch symbolize` needs.
        let lacks_symbols = |module: &&Module| {
            let is_of_it = |frame: &&Frame| frame.function.is_none() && frame.module_info.as_deref() == Some(*module);
            self.frames.iter().any(|frame| is_of_it(&frame))
        };
        for module in self.modules().into_iter().filter(lacks_symbols) {
            if let Some(id) = &module.build_id {
                writeln!(f, "      {} has build id {id}", module.name())?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Stack {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        /// A frame with the index of its module.
        #[derive(serde::Serialize)]
        struct IndexedFrame<'a> {
            #[serde(flatten)]
            frame: &'a Frame,
            module_index: Option<usize>,
        }

        #[derive(serde::Serialize)]
        struct ModuleOfStack<'a> {
            name: Arc<str>,
            path: std::borrow::Cow<'a, str>,
            build_id: Option<&'a crate::BuildId>,
        }

        let modules = self.modules();
        let index_of = |module: &Module| modules.iter().position(|known| *known == module);
        let frames = self.frames.iter().map(|frame| {
            let module_index = frame.module_info.as_deref().and_then(index_of);
            IndexedFrame { frame, module_index }
        });
        let listed = modules.iter().map(|module| ModuleOfStack {
            name: module.name(),
            path: module.path.to_string_lossy(),
            build_id: module.build_id.as_ref(),
        });
        let mut stack = serializer.serialize_struct("Stack", 4)?;
        stack.serialize_field("frames", &frames.collect::<Vec<_>>())?;
        stack.serialize_field("user_frames", &self.user.clone().collect::<Vec<_>>())?;
        stack.serialize_field("complete", &self.complete)?;
        stack.serialize_field("modules", &listed.collect::<Vec<_>>())?;
        stack.end()
    }
}

/// Returns the index of the innermost frame that belongs to no library. A C function without a file
/// that a library has called is one of the C library, which is part of a static program.
fn innermost_of_user(frames: &[Frame], is_boundary: impl Fn(&Frame) -> bool) -> Option<usize> {
    let is_c = |frame: &Frame| {
        frame.file.is_none() && frame.function.as_deref().is_some_and(|function| !function.contains("::"))
    };
    let mut at = 0;
    loop {
        at += frames[at..].iter().position(|frame| !frame.library)?;
        if !is_c(&frames[at]) {
            return Some(at);
        }
        let caller = frames[at..].iter().position(|frame| !is_c(frame)).map(|calls| at + calls);
        match caller.filter(|&caller| frames[caller].library && !is_boundary(&frames[caller])) {
            Some(caller) => at = caller,
            None => return Some(at),
        }
    }
}

/// Returns the number of innermost frames of the user's part that are code without debug
/// information, called by code that has it. A function of the same crate is not such code: only its
/// own debug information is missing.
fn without_foreign_code(user: &[Frame]) -> usize {
    let has_file = |frame: &&Frame| !frame.library && frame.file.is_some();
    let root = |frame: &Frame| frame.function.as_deref().and_then(|name| Some(name.split_once("::")?.0.to_owned()));
    let Some(first) = user.iter().position(|frame| has_file(&frame)) else { return 0 };
    let roots: Vec<String> = user.iter().filter(has_file).filter_map(root).collect();
    let is_known = |frame: &Frame| !frame.library && root(frame).is_some_and(|root| roots.contains(&root));
    user[..first].iter().position(is_known).unwrap_or(first)
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
    fn code_without_debug_information_in_a_static_program() {
        let own = |name: &str| Frame { file: Some("src/main.rs".into()), ..frame(name, false, false) };
        let location = |frames: &[Frame]| {
            let stack = Stack::new(frames.to_vec(), true, is_boundary);
            assert_eq!(stack.location(), stack.user_frames().first());
            stack.location().map(Frame::name)
        };
        let c = |name: &str| frame(name, false, false);
        let (sleep, poll) = (frame("std::thread::sleep", true, false), frame("poll", true, false));
        let libc = [c("clock_nanosleep"), frame("__nanosleep", true, false), c("nanosleep")];
        // With and without lines of the program.
        let stack = |user: Frame| [&libc[..], &[sleep.clone(), user, poll.clone(), own("app::main")]].concat();
        assert_eq!(location(&stack(own("app::load"))).as_deref(), Some("app::load"));
        assert_eq!(location(&stack(c("app::load"))).as_deref(), Some("app::load"));
        // A runtime within a task, whose boundary is further inwards.
        let nested = [c("epoll_wait"), frame("mio::poll", true, false), poll.clone(), own("app::blocks"), poll.clone()];
        assert_eq!(location(&nested).as_deref(), Some("app::blocks"));
        // The program's own C code, of which nothing else is known.
        assert_eq!(location(&[c("compress"), poll.clone(), own("app::main")]).as_deref(), Some("compress"));
        assert_eq!(location(&[c("compress"), c("app::load"), poll.clone()]).as_deref(), Some("compress"));
        // Code without lines that code with lines has called.
        assert_eq!(location(&[c("compress"), own("app::load"), poll.clone()]).as_deref(), Some("app::load"));
        assert_eq!(location(&[c("db::query"), own("app::load"), poll.clone()]).as_deref(), Some("app::load"));
        // The lines of one function alone are missing.
        let inner = [c("compress"), c("app::inner"), own("app::load"), poll];
        assert_eq!(location(&inner).as_deref(), Some("app::inner"));
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

    #[test]
    fn all_functions_and_the_build_id_of_a_module_without_symbols() {
        let module = |path: &str, id: &str| Some(Arc::new(Module { path: path.into(), build_id: id.parse().ok() }));
        let mut named = frame("app::load", false, false);
        named.module_info = module("/srv/app", "01");
        let mut unnamed = Frame { module: Some("plugin.so".into()), offset: 16, ..Frame::default() };
        unnamed.module_info = module("/srv/plugin.so", "02");
        let stack = Stack::new(vec![named, unnamed], true, is_boundary);
        let text = format!("{stack:#}");
        assert_eq!(text, "   0: app::load\n   1: plugin.so+0x10\n      plugin.so has build id 02\n");
        assert_eq!(stack.modules().len(), 2);
    }

    #[test]
    fn location_is_of_the_program_then_of_a_dependency() {
        let location = |frames| Stack::new(frames, true, is_boundary).location().map(Frame::name);
        let (library, dependency) = (|| frame("read", true, false), || frame("db::query", false, true));
        let own = frame("app::load", false, false);
        assert_eq!(location(vec![library(), dependency(), own]).as_deref(), Some("app::load"));
        assert_eq!(location(vec![library(), dependency(), frame("poll", true, false)]).as_deref(), Some("db::query"));
        assert_eq!(location(vec![library(), frame("poll", true, false)]).as_deref(), Some("read"));
        assert_eq!(location(Vec::new()), None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn as_json() {
        let mut frames = vec![frame("read", true, false), frame("app::load", false, false), frame("poll", true, false)];
        let app = Arc::new(Module { path: "/srv/app".into(), build_id: "ab01".parse().ok() });
        frames[0].module_info = Some(Arc::new(Module { path: "/lib/libc.so".into(), build_id: None }));
        frames[1..].iter_mut().for_each(|frame| frame.module_info = Some(app.clone()));
        let json = serde_json::to_value(Stack::new(frames, true, is_boundary)).unwrap();
        assert_eq!(json["frames"][1]["function"], "app::load");
        assert_eq!((&json["user_frames"], &json["complete"]), (&serde_json::json!([1]), &true.into()));
        assert_eq!(json["modules"][1], serde_json::json!({"name": "app", "path": "/srv/app", "build_id": "ab01"}));
        assert_eq!(json["modules"][0]["build_id"], serde_json::Value::Null);
        let indices = json["frames"].as_array().unwrap().iter().map(|frame| frame["module_index"].as_u64());
        assert_eq!(indices.collect::<Vec<_>>(), [Some(0), Some(1), Some(1)]);
        assert_eq!(json.as_object().unwrap().len(), 4);
    }
}

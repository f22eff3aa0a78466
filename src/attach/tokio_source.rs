//! Functions of tokio by the debug information of the program.
//!
//! Line tables alone have only the last part of the path of an inlined function: `block_on`. The
//! path of the source file says which one it is. Cargo keeps it in a folder with the name of the
//! package.

use pollwatch_stack::Frame;

/// The source file of current-thread runtimes, whose module has been either kind of file.
const CURRENT_THREAD: [&str; 2] = ["runtime/scheduler/current_thread.rs", "runtime/scheduler/current_thread/mod.rs"];
const LOCAL_SET: &str = "task/local.rs";

/// Returns the path of a frame's file within tokio's sources, such as `task/local.rs`. The package
/// is known by the file's whole path, also where that was shortened: `src/task/local.rs`.
fn file_in_tokio(frame: &Frame) -> Option<&str> {
    let file = frame.file.as_deref()?;
    if frame.package.as_deref() == Some("tokio") {
        return file.strip_prefix("src/").or_else(|| Some(file.rsplit_once("/src/")?.1));
    }
    let (folder, path) = file.rsplit_once("/src/")?;
    let package = folder.rsplit('/').next()?;
    let version = package.strip_prefix("tokio")?;
    let is_version = version.is_empty() || version.strip_prefix('-')?.starts_with(|c: char| c.is_ascii_digit());
    is_version.then_some(path)
}

/// Returns the last part of a function's path.
fn last_part(frame: &Frame) -> &str {
    frame.function.as_deref().and_then(|name| name.rsplit("::").next()).unwrap_or_default()
}

/// Returns whether a frame is that of a function of tokio with this name. It may be a part of the
/// name.
pub(super) fn is_of_tokio(frame: &Frame, part_of_name: &str) -> bool {
    let is_path = || frame.function.as_deref().is_some_and(|name| name.starts_with("tokio::"));
    let has_name = frame.function.as_deref().is_some_and(|name| name.contains(part_of_name));
    has_name && (is_path() || file_in_tokio(frame).is_some())
}

fn is_of_current_thread(frame: &Frame, names: &[&str]) -> bool {
    names.contains(&last_part(frame)) && file_in_tokio(frame).is_some_and(|path| CURRENT_THREAD.contains(&path))
}

/// What a frame is in a call of a current-thread runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuntimeCall {
    /// `block_on`. Another thread may drive the runtime.
    BlockOn,
    /// The end of the runtime, which drops its tasks and polls none.
    Shutdown,
    /// `CoreGuard::enter`, on the thread that has the runtime for itself: in `block_on`, its loop.
    Enter,
}

/// Returns which call of a current-thread runtime a frame is.
pub(super) fn runtime_call(frame: &Frame) -> Option<RuntimeCall> {
    let calls =
        [("enter", RuntimeCall::Enter), ("block_on", RuntimeCall::BlockOn), ("shutdown", RuntimeCall::Shutdown)];
    calls.into_iter().find_map(|(name, call)| is_of_current_thread(frame, &[name]).then_some(call))
}

/// Returns whether a frame is that of the wait of such a thread that has nothing to poll.
pub(super) fn is_park(frame: &Frame) -> bool {
    is_of_current_thread(frame, &["park", "park_yield", "park_internal"])
}

/// Returns whether a frame is that of the loop of a `LocalSet` over its tasks.
pub(super) fn is_in_local_set(frame: &Frame) -> bool {
    last_part(frame) == "tick" && file_in_tokio(frame) == Some(LOCAL_SET)
}

#[cfg(all(test, not(pollwatch_loom)))]
pub(super) mod tests {
    use super::*;

    /// Returns a frame of this function and file.
    pub(in crate::attach) fn frame(function: &str, file: &str) -> Frame {
        let mut frame = Frame::default();
        (frame.function, frame.file) = (Some(function.into()), Some(file.into()));
        frame
    }

    #[test]
    fn functions_by_their_files() {
        let file = "tokio-1.54.1/src/runtime/scheduler/current_thread/mod.rs";
        // The names of line tables and of full debug information.
        let enter = Some(RuntimeCall::Enter);
        assert_eq!(runtime_call(&frame("enter", file)), enter);
        assert_eq!(runtime_call(&frame("tokio::runtime::scheduler::current_thread::CoreGuard::enter", file)), enter);
        assert_eq!(runtime_call(&frame("enter", "tokio/src/runtime/scheduler/current_thread.rs")), enter);
        assert_eq!(runtime_call(&frame("block_on", file)), Some(RuntimeCall::BlockOn));
        assert_eq!(runtime_call(&frame("shutdown", file)), Some(RuntimeCall::Shutdown));
        assert_eq!(runtime_call(&frame("enter", "tokio-1.54.1/src/runtime/handle.rs")), None);
        let of_util = "tokio-util-0.7.1/src/runtime/scheduler/current_thread/mod.rs";
        assert_eq!(runtime_call(&frame("enter", of_util)), None);
        assert!(is_park(&frame("park_internal", file)) && !is_park(&frame("park", "tokio-1.54.1/src/runtime/park.rs")));
        assert!(is_in_local_set(&frame("tick", "tokio-1.54.1/src/task/local.rs")));
        assert!(!is_in_local_set(&frame("tick", "src/task/local.rs")));
        let worker = "tokio-1.54.1/src/runtime/scheduler/multi_thread/worker.rs";
        assert!(is_of_tokio(&frame("block_in_place", worker), "block_in_place"));
        assert!(!is_of_tokio(&frame("block_in_place", "src/main.rs"), "block_in_place"));
    }
    #[test]
    fn a_file_whose_path_was_shortened() {
        for file in ["src/task/local.rs", "vendor/tokio/src/task/local.rs", "tokio-1.54.1/src/task/local.rs"] {
            let mut tick = frame("tick", file);
            for (package, is_found) in [("tokio", true), ("tokio-util", file != "src/task/local.rs")] {
                tick.package = Some(package.into());
                assert_eq!(is_in_local_set(&tick), is_found, "{file} of {package}");
            }
        }
    }
}

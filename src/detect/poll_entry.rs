//! Poll entries: the functions by which tokio and pollwatch call the user's code.

use pollwatch_stack::Frame;
use pollwatch_stack::paths::short_path;

use crate::measure::entry;

/// Prefixes of the functions of tokio and pollwatch that poll the user's futures.
const POLLERS: [&str; 9] = [
    "tokio::runtime::task::",
    "tokio::runtime::park::",
    "tokio::task::local::",
    "pollwatch::measure::entry::future::",
    "pollwatch::measure::entry::current_future::",
    "pollwatch::measure::layer::",
    "pollwatch::measure::entry::task::",
    "pollwatch::measure::entry::watched_request::",
    "pollwatch_actix::",
];
/// The files of tokio that contain such functions.
const TOKIO_FILES: [&str; 3] = ["src/runtime/task/", "src/runtime/park.rs", "src/task/local.rs"];

/// Returns whether a function is one by which a runtime polls the user's code: functions outwards
/// from it are not the task's.
///
/// The symbol decides. An inlined function may have no name but its last part; then its package and
/// file do.
pub(crate) fn is_poll_entry(frame: &Frame) -> bool {
    let name = frame.function.as_deref().unwrap_or("");
    let by_name = POLLERS.iter().any(|poller| name.starts_with(poller))
        || name.starts_with("tokio::runtime::") && name.ends_with("::block_on");
    let in_file = |file: &str| {
        let is_tokio = frame.package.as_deref() == Some("tokio");
        let below = file.find("src/").map_or("", |at| &file[at..]);
        let of_tokio = TOKIO_FILES.iter().any(|entry| below.starts_with(entry))
            || below.starts_with("src/runtime/") && name == "block_on";
        is_tokio && of_tokio || own_files().any(|entry| file == short_path(entry))
    };
    by_name || frame.file.as_deref().is_some_and(in_file)
}

/// Returns the files of pollwatch whose functions poll the user's futures.
fn own_files() -> impl Iterator<Item = &'static str> {
    let files = [entry::future::FILE, entry::current_future::FILE, entry::task::FILE].into_iter();
    #[cfg(feature = "tower")]
    let files = files.chain(crate::measure::layer::FILES).chain([crate::measure::entry::watched_request::FILE]);
    files
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn is_entry(name: &str, package: Option<&str>, file: Option<&str>) -> bool {
        let mut frame = Frame::default();
        frame.function = Some(name.into());
        frame.package = package.map(Into::into);
        frame.file = file.map(Into::into);
        is_poll_entry(&frame)
    }

    #[test]
    fn entries_by_name() {
        assert!(is_entry("tokio::runtime::task::core::Core::poll", None, None));
        assert!(is_entry("tokio::runtime::scheduler::current_thread::CoreGuard::block_on", None, None));
        assert!(!is_entry("tokio::runtime::scheduler::multi_thread::worker::block_in_place", None, None));
        assert!(!is_entry("app::block_on", None, None));
    }

    #[test]
    fn entries_by_file() {
        let tokio = Some("tokio");
        assert!(is_entry("with_mut", tokio, Some("tokio-1.54.1/src/runtime/task/core.rs")));
        assert!(is_entry("with_mut", tokio, Some("src/runtime/task/core.rs")), "from a git checkout");
        assert!(is_entry("block_on", tokio, Some("tokio-1.54.1/src/runtime/runtime.rs")));
        assert!(is_entry("poll", None, Some("src/measure/entry/future.rs")));
        assert!(!is_entry("poll", tokio, Some("tokio-1.54.1/src/time/timeout.rs")));
        assert!(!is_entry("block_on", None, Some("src/runtime/mine.rs")));
    }
}

//! The one-line form of a stack.

use std::fmt;

use crate::Frame;

/// The most functions that are shown.
const SHOWN: usize = 8;
/// The number of outermost functions that are shown where not all are.
const OUTERMOST: usize = 3;
const SEPARATOR: &str = " ← ";

/// Writes the user's part of a stack in one line.
pub(super) fn write(f: &mut fmt::Formatter<'_>, user: &[Frame]) -> fmt::Result {
    let frames = relevant(user);
    let mut next = 0;
    for at in selected(&frames) {
        if at > 0 {
            f.write_str(SEPARATOR)?;
        }
        if at > next {
            write!(f, "{} more{SEPARATOR}", at - next)?;
        }
        write!(f, "{}", frames[at])?;
        next = at + 1;
    }
    Ok(())
}

/// Returns the program's own functions, and the function of a dependency that the innermost of them
/// called. Where the program has none, these are the functions of dependencies, and where there are
/// none of them either, all.
fn relevant(user: &[Frame]) -> Vec<&Frame> {
    let is_own = |frame: &&Frame| !frame.dependency && !frame.library;
    let mut frames: Vec<&Frame> = match user.iter().position(|frame| is_own(&frame)) {
        None => {
            let all = user.iter().all(|frame| frame.library);
            user.iter().filter(|frame| all || !frame.library).collect()
        }
        Some(own) => {
            let called = user[..own].iter().rfind(|frame| !frame.library);
            called.into_iter().chain(user[own..].iter().filter(is_own)).collect()
        }
    };
    // A closure that was inlined has the line of its function.
    frames.dedup_by(|a, b| (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line) && a.line.is_some());
    frames
}

/// Returns the indices of the functions that are shown.
///
/// A crate may be many functions deep, and none of them says who called it. So the innermost
/// function, the outermost ones, and the function by which each crate was entered come first. The
/// rest is filled up from the innermost function outwards.
fn selected(frames: &[&Frame]) -> Vec<usize> {
    if frames.len() <= SHOWN {
        return (0..frames.len()).collect();
    }
    let outermost = frames.len() - OUTERMOST..frames.len();
    let entries = (1..outermost.start).filter(|&at| package(frames[at]) != package(frames[at + 1]));
    let mut selected: Vec<usize> = [0].into_iter().chain(outermost.clone()).collect();
    for at in entries.chain(0..outermost.start) {
        if selected.len() == SHOWN {
            break;
        }
        if !selected.contains(&at) {
            selected.push(at);
        }
    }
    selected.sort_unstable();
    selected
}

/// Returns the name of the package that a function belongs to, or of its crate.
fn package(frame: &Frame) -> &str {
    let root = || frame.function.as_deref().and_then(|name| name.split("::").next());
    frame.package.as_deref().or_else(root).unwrap_or_default()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::Stack;

    fn frame(function: &str, dependency: bool) -> Frame {
        let package = function.split("::").next().filter(|_| dependency).map(Into::into);
        Frame { function: Some(function.into()), dependency, package, ..Frame::default() }
    }

    fn one_line(frames: impl IntoIterator<Item = Frame>) -> String {
        Stack::new(frames.into_iter().collect(), true, |_| false).to_string()
    }

    #[test]
    fn deep_dependency_does_not_hide_who_called_it() {
        let brotli = (0..12).map(|n| frame(&format!("brotli::f{n}"), true));
        let callers =
            ["async_compression::encode", "async_compression::poll", "tower_http::poll_frame", "hyper::write"];
        let callers = callers.map(|name| frame(name, true)).into_iter();
        let outer = (0..9).map(|n| frame(&format!("hyper::g{n}"), true));
        assert_eq!(
            one_line(brotli.chain(callers).chain(outer)),
            "brotli::f0 ← brotli::f1 ← 9 more ← brotli::f11 ← 1 more ← async_compression::poll ← \
             tower_http::poll_frame ← 7 more ← hyper::g6 ← hyper::g7 ← hyper::g8"
        );
    }

    #[test]
    fn deep_program_keeps_both_ends() {
        let frames = (0..20).map(|n| frame(&format!("app::f{n}"), false));
        assert_eq!(
            one_line(frames),
            "app::f0 ← app::f1 ← app::f2 ← app::f3 ← app::f4 ← 12 more ← app::f17 ← app::f18 ← app::f19"
        );
        let unnamed = (1..21).map(|n| Frame { module: Some("app".into()), offset: n, ..Frame::default() });
        let text = one_line(unnamed);
        assert!(
            text.starts_with("app+0x1 ← app+0x2 ←") && text.ends_with(" ← 12 more ← app+0x12 ← app+0x13 ← app+0x14")
        );
    }

    #[test]
    fn handler_is_shown_below_a_deep_dependency() {
        let inner = (0..12).map(|n| frame(&format!("brotli::f{n}"), true));
        assert_eq!(one_line(inner.chain([frame("app::handler", false)])), "brotli::f11 ← app::handler");
    }

    #[test]
    fn eight_functions_are_shown_whole() {
        let frames = (0..8).map(|n| frame(&format!("app::f{n}"), false));
        assert!(!one_line(frames).contains("more"));
        assert_eq!(one_line([]), "");
    }
}

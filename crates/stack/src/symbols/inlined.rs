//! The functions at one address. There are several where some were inlined.

use super::names;
use super::ownership::{is_dependency, is_library, package};
use super::tables::Tables;
use crate::Frame;
use crate::paths::short_path;

/// The number of bytes before and behind an instruction without a line in which a line is searched
/// for.
const LINE_REACH: u64 = 64;

/// Returns the functions at an offset of a binary, the innermost first; none where the binary has
/// no symbol for it. `unknown` is the frame of the address without any symbol.
pub(crate) fn frames(tables: &Tables, offset: u64, in_program: bool, unknown: &Frame) -> Vec<Frame> {
    let symbol = tables.find_symbol(offset).map(|name| names::readable(&demangled(&name)));
    let (mut frames, mut names) = (Vec::new(), Vec::new());
    if let Some(mut found) = tables.find_calls(offset) {
        while let Ok(Some(frame)) = found.next() {
            let function = frame.function.as_ref().and_then(|f| Some(f.demangle().ok()?.into_owned()));
            let (file, line) = frame.location.map_or((None, None), |l| (l.file.map(str::to_owned), l.line));
            let file = file.as_deref();
            let readable = function.as_deref().map(names::readable);
            frames.push(Frame {
                library: is_library(readable.as_deref().unwrap_or(""), file, in_program),
                dependency: file.is_some_and(is_dependency),
                package: file.and_then(package).map(Into::into),
                function: readable.map(Into::into),
                file: file.map(|f| short_path(f).into()),
                line,
                ..unknown.clone()
            });
            names.push(function.unwrap_or_default());
        }
    }
    if frames.iter().any(|frame| frame.line.is_none() && frame.function.is_some()) {
        add_lines(tables, offset, &mut frames, &names);
    }
    add_names(&mut frames, &names);
    match (symbol, frames.last_mut()) {
        // Line tables alone give names without their modules. The symbol table has the full path of
        // the function that was not inlined.
        (Some(symbol), Some(outermost)) => {
            outermost.library |= is_library(&symbol, None, in_program);
            outermost.function = Some(symbol.into());
        }
        (Some(symbol), None) => {
            let library = is_library(&symbol, None, in_program);
            frames.push(Frame { library, function: Some(symbol.into()), ..unknown.clone() });
        }
        (None, _) => {}
    }
    frames
}

/// Replaces names like `{async_fn#0}` by the full paths that their callers' names contain.
fn add_names(frames: &mut [Frame], names: &[String]) {
    for at in 0..frames.len().saturating_sub(1) {
        let last = frames[at + 1..].iter().position(|frame| !frame.library).map_or(frames.len() - 1, |n| at + 1 + n);
        if let Some(name) = names::name_from_callers(&names[at], names[at + 1..=last].iter().map(String::as_str)) {
            frames[at].function = Some(name.into());
        }
    }
}

/// Adds lines to frames that have none, because the compiler made one instruction from several
/// lines (DWARF's line 0).
///
/// Such a frame takes the line of the nearest instruction of the same function, preferably one
/// before it.
fn add_lines(tables: &Tables, offset: u64, frames: &mut [Frame], names: &[String]) {
    let before = (1..=LINE_REACH).map_while(|distance| offset.checked_sub(distance));
    let behind = (1..=LINE_REACH).map_while(|distance| offset.checked_add(distance));
    for near in before.chain(behind) {
        let Some(mut found) = tables.find_calls(near) else { continue };
        let mut others = Vec::new();
        while let Ok(Some(frame)) = found.next() {
            let name = frame.function.as_ref().and_then(|f| Some(f.demangle().ok()?.into_owned()));
            others.push((name.unwrap_or_default(), frame.location.and_then(|location| location.line)));
        }
        // Frames are compared from the outermost inwards, as long as the calls are the same.
        let same = frames.iter_mut().zip(names).rev().zip(others.iter().rev()).take_while(|((_, a), (b, _))| *a == b);
        same.filter(|((frame, _), _)| frame.line.is_none()).for_each(|((frame, _), (_, line))| frame.line = *line);
        if frames.iter().all(|frame| frame.line.is_some()) {
            return;
        }
    }
}

fn demangled(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into_owned()
}

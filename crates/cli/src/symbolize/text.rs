//! Stacks in text: `service+0x1f3a0`, in a log line or one a line.

use std::collections::BTreeMap;

use pollwatch_stack::Frame;

use super::binaries::{Binaries, InputModule};

/// The text between a module's name and its build id, as `Stack` prints it.
const BUILD_ID: &str = " has build id ";

/// Returns a text in which frames have functions and lines.
pub(super) fn symbolize(text: &str, binaries: &mut Binaries) -> String {
    let build_ids: BTreeMap<&str, &str> = text.lines().filter_map(build_id).collect();
    text.split_inclusive('\n').map(|line| symbolized(line, &build_ids, binaries)).collect()
}

/// Returns the module and the build id that a line states.
fn build_id(line: &str) -> Option<(&str, &str)> {
    let (name, id) = line.trim().split_once(BUILD_ID)?;
    id.parse::<pollwatch_stack::BuildId>().is_ok().then_some((name, id))
}

fn symbolized(line: &str, build_ids: &BTreeMap<&str, &str>, binaries: &mut Binaries) -> String {
    // `   4: service+0x1f3a0`: one function a line.
    let number = line.trim_start().split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok());
    let start = line.len() - number.map_or(line.trim_start(), |(_, rest)| rest).len();
    let (mut output, mut rest) = (String::new(), line);
    while let Some(offset) = next_offset(rest) {
        let (before, name) = (&rest[..offset.name.start], &rest[offset.name.clone()]);
        output.push_str(before);
        let module = InputModule { name: name.into(), build_id: build_ids.get(name).map(|&id| id.into()) };
        let frames = binaries.frames(&module, offset.value);
        match (&frames[..], number) {
            ([], _) => output.push_str(&rest[offset.name.start..offset.end]),
            (all, Some(_)) => {
                let separator = format!("\n{}", " ".repeat(start));
                output.push_str(&join(all.iter(), &separator));
            }
            (all, None) => {
                // As in a line of the library: without functions of the standard library, unless
                // there is no other.
                let own = || all.iter().filter(|frame| !frame.library);
                let outermost = all.iter().rev().take(1);
                output.push_str(&if own().count() > 0 { join(own(), " ← ") } else { join(outermost, " ← ") });
            }
        }
        rest = &rest[offset.end..];
    }
    output + rest
}

fn join<'a>(frames: impl Iterator<Item = &'a Frame>, separator: &str) -> String {
    frames.map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

/// A module and an offset in a text.
struct Offset {
    name: std::ops::Range<usize>,
    value: u64,
    end: usize,
}

/// Finds the next `name+0xoffset`.
fn next_offset(text: &str) -> Option<Offset> {
    const MARK: &str = "+0x";
    text.match_indices(MARK).find_map(|(at, _)| {
        // What a file may be called, as far as a log can show where its name ends.
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@');
        let start = text[..at].rfind(|c| !is_name(c)).map_or(0, |before| before + char_len(&text[before..]));
        let digits = &text[at + MARK.len()..];
        let len = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..len], 16).ok()?;
        (start < at).then(|| Offset { name: start..at, value, end: at + MARK.len() + len })
    })
}

fn char_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_in_a_line() {
        let find = |text: &'static str| next_offset(text).map(|offset| (&text[offset.name], offset.value));
        assert_eq!(find("  at my-app+0x1f ← my-app+0x20"), Some(("my-app", 0x1f)));
        assert_eq!(find("at=lib_x.so.1+0xABCDEF, more"), Some(("lib_x.so.1", 0xab_cdef)));
        assert_eq!(find("←app+0x1"), Some(("app", 1)));
        for none in ["+0x1f", "a + 0x1f", "app+0xzz", "app+0x", "0x1f", "app+0x11112222333344445"] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    #[test]
    fn build_ids_in_a_text() {
        assert_eq!(build_id("      app has build id 01ff\n"), Some(("app", "01ff")));
        assert_eq!(build_id("it has build id none"), None);
    }
}

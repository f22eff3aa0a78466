//! Text and numbers for the terminal.
//!
//! Names of routes, spans, threads and files come from the application, and may contain input from
//! its clients. An escape sequence in a name must not move the cursor, and a bidirectional control
//! character must not reorder the line.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Prints a line on standard error. When nobody reads that, the line is lost, and nothing else is.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Replaces control characters and invisible characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

fn is_printable(c: char) -> bool {
    let is_invisible = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !is_invisible
}

/// Returns the number of terminal columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Cuts a text at its end to at most `width` columns, with an ellipsis where it is cut.
pub(crate) fn clip(text: &str, width: usize) -> String {
    cut(text.chars(), text, width).map_or(text.into(), |kept| kept.into_iter().chain(['…']).take(width).collect())
}

/// Cuts a text at its start to at most `width` columns, with an ellipsis where it is cut.
pub(crate) fn clip_start(text: &str, width: usize) -> String {
    cut(text.chars().rev(), text, width).map_or(text.into(), |mut kept| {
        kept.reverse();
        ['…'].into_iter().chain(kept).take(width).collect()
    })
}

/// Returns the characters that fit next to an ellipsis, or `None` when the whole text fits.
fn cut(chars: impl Iterator<Item = char>, whole: &str, limit: usize) -> Option<Vec<char>> {
    if whole.width() <= limit {
        return None;
    }
    let mut left = limit.saturating_sub(1);
    let kept = chars.take_while(|c| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    });
    Some(kept.collect())
}

/// Formats a duration with about three digits.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v <= 0.0 => "0".into(),
        v if v < 1e-3 => format!("{:.0} µs", v * 1e6),
        v if v < 9.95e-3 => format!("{:.1} ms", v * 1e3),
        v if v < 0.9995 => format!("{:.0} ms", v * 1e3),
        v if v < 99.95 => format!("{v:.1} s"),
        v if v < 7200.0 => format!("{:.0} min", v / 60.0),
        v if v < 48.0 * 3600.0 => format!("{:.0} h", v / 3600.0),
        v => format!("{:.0} d", v / 86400.0),
    }
}

/// Formats a number with about three digits: 1234567 is `1.23M`.
pub(crate) fn count(value: f64) -> String {
    match value {
        v if v < 1e5 => format!("{v:.0}"),
        v if v < 1e6 => format!("{:.0}k", v / 1e3),
        v if v < 1e9 => format!("{:.2}M", v / 1e6),
        v => format!("{:.2}G", v / 1e9),
    }
}

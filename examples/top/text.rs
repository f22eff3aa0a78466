//! Words and numbers for the terminal. What the application named (routes, spans, threads, places) comes from anywhere: a name with
//! an escape sequence in it must not move the cursor, nor one with a mark that turns the writing round.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Without what a terminal would obey or not show.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_shown(c) { c } else { '\u{fffd}' }).collect()
}

fn is_shown(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !turns
}

pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// At most `width` columns of it, with an ellipsis where it is cut.
pub(crate) fn clip(text: &str, width: usize) -> String {
    cut(text.chars(), text, width).map_or(text.into(), |kept| kept.into_iter().chain(['…']).take(width).collect())
}

/// The same from its end: the end of a path says more than its begin.
pub(crate) fn clip_front(text: &str, width: usize) -> String {
    cut(text.chars().rev(), text, width).map_or(text.into(), |mut kept| {
        kept.reverse();
        ['…'].into_iter().chain(kept).take(width).collect()
    })
}

/// What fits next to an ellipsis; `None` when all of it fits.
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

/// In three digits or so.
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

/// 1234567 as 1.23M.
pub(crate) fn count(value: f64) -> String {
    match value {
        v if v < 1e5 => format!("{v:.0}"),
        v if v < 1e6 => format!("{:.0}k", v / 1e3),
        v if v < 1e9 => format!("{:.2}M", v / 1e6),
        v => format!("{:.2}G", v / 1e9),
    }
}

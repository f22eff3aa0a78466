//! The profile as a self-contained SVG flame graph: width is blocked time, colour is its cause.

use std::fmt::{self, Write};

use super::tree::Node;
use crate::model::time::Millis;
use crate::{Cause, Profile};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 12.0;
const HEAD: f64 = 84.0;
const ROW: f64 = 22.0;
/// The width of a monospace character of 12 px, rounded up.
const CHAR: f64 = 7.4;
/// Narrower boxes are not drawn.
const NARROWEST: f64 = 0.5;

const STYLE: &str = "\
svg { background: #fff; color: #1d2127; font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace }
text { fill: currentColor; white-space: pre }
.h { font-size: 18px; font-weight: bold }
.s { opacity: .75 }
g text { fill: #16181c; pointer-events: none }
g:hover rect { stroke: #16181c; stroke-width: 1.5 }
.group { fill: #d5d9df }
.cpu { fill: #f2a65e }
.syscall { fill: #7fbcec }
.lock { fill: #d9a0d6 }
.starved { fill: #9fd3b4 }
.paused { fill: #b9c08f }
.unknown { fill: #ead98b }
@media (prefers-color-scheme: dark) {
svg { background: #16181c; color: #e4e7eb }
.group { fill: #a9afb8 }
g:hover rect { stroke: #fff }
}";

/// Returns the picture, outermost functions on top.
pub(in crate::export) fn svg(profile: &Profile) -> String {
    let root = Node::root(profile);
    let width = WIDTH - 2.0 * MARGIN;
    let scale = if root.nanos() > 0 { width / root.nanos() as f64 } else { 0.0 };
    let mut picture = Picture { rows: String::new(), depth: 0, scale, total: root.nanos() };
    picture.children(&root, MARGIN, 0);
    let height = HEAD + ROW * picture.depth as f64 + MARGIN;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut svg, &root, height);
    svg + &picture.rows + "</svg>\n"
}

/// The number of finished stalls, displayed after a prefix. An ongoing stall has time, but is not
/// counted yet.
struct Stalls {
    count: u64,
    prefix: &'static str,
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stalls { count, prefix } = self;
        match count {
            0 => f.write_str(", ongoing"),
            1 => write!(f, "{prefix}1 stall"),
            _ => write!(f, "{prefix}{count} stalls"),
        }
    }
}

fn head(svg: &mut String, root: &Node<'_>, height: f64) -> fmt::Result {
    let total = Time(root.nanos());
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Flame graph of blocked time\">\n<style>{STYLE}</style>"
    )?;
    if root.nanos() == 0 {
        writeln!(svg, "<text class=\"h\" x=\"{MARGIN}\" y=\"30\">No stalls so far</text>")?;
        return writeln!(
            svg,
            "<text class=\"s\" x=\"{MARGIN}\" y=\"52\">No poll has blocked a worker for the threshold or longer.</text>"
        );
    }
    let stalls = Stalls { count: root.count, prefix: " in " };
    writeln!(svg, "<text class=\"h\" x=\"{MARGIN}\" y=\"30\">Blocked time: {total}{stalls}</text>")?;
    writeln!(
        svg,
        "<text class=\"s\" x=\"{MARGIN}\" y=\"49\">runtime, route or site, then functions, outermost on top · width: blocked time · \
         hover for details</text>"
    )?;
    let mut x = MARGIN;
    for (cause, nanos) in root.causes() {
        let label = format!("{cause} {}", Time(nanos));
        writeln!(
            svg,
            "<rect class=\"{cause}\" x=\"{x:.1}\" y=\"60\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"{:.1}\" y=\"70\">{label}</text>",
            x + 17.0
        )?;
        x += 17.0 + CHAR * label.chars().count() as f64 + 16.0;
    }
    Ok(())
}

struct Picture {
    rows: String,
    /// The number of rows.
    depth: usize,
    /// Pixels per nanosecond.
    scale: f64,
    total: u64,
}

impl Picture {
    fn children(&mut self, parent: &Node<'_>, mut x: f64, depth: usize) {
        for node in &parent.children {
            let width = node.nanos() as f64 * self.scale;
            if width >= NARROWEST {
                self.depth = self.depth.max(depth + 1);
                let _ = self.draw(node, x, width, HEAD + ROW * depth as f64);
                self.children(node, x, depth + 1);
            }
            x += width;
        }
    }

    fn draw(&mut self, node: &Node<'_>, x: f64, width: f64, y: f64) -> fmt::Result {
        let out = &mut self.rows;
        let class = if node.group { "group" } else { node.main_cause().map_or("group", Cause::as_str) };
        write!(out, "<g><title>{}", Escaped(&node.name))?;
        if let Some(file) = node.file {
            write!(out, "\n{}", Escaped(file))?;
            for (i, line) in node.lines.iter().enumerate() {
                write!(out, "{}{line}", if i == 0 { ":" } else { ", " })?;
            }
        }
        let share = node.nanos() as f64 / self.total as f64 * 100.0;
        let stalls = Stalls { count: node.count, prefix: ", " };
        write!(out, "\n{} blocked ({share:.1} %){stalls}\n", Time(node.nanos()))?;
        for (i, (cause, nanos)) in node.causes().enumerate() {
            write!(out, "{}{cause} {}", if i == 0 { "" } else { ", " }, Time(nanos))?;
        }
        // A gap between neighbours, unless the box is too narrow.
        let (shown, tall) = (if width > 3.0 { width - 1.0 } else { width }, ROW - 1.0);
        write!(
            out,
            "</title><rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{shown:.1}\" height=\"{tall}\" rx=\"2\"/>"
        )?;
        let text = fit(&node.name, ((width - 8.0) / CHAR) as usize);
        if !text.is_empty() {
            write!(out, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x + 4.0, y + 15.0, Escaped(&text))?;
        }
        out.write_str("</g>\n")
    }
}

/// Shortens a path of modules or files to `width` characters: to its last parts, or to the start of
/// its last part.
fn fit(name: &str, width: usize) -> String {
    // A character that is not ASCII may be twice as wide.
    let wide = |text: &str| text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>();
    if wide(name) <= width {
        return name.to_owned();
    }
    let after = |(at, _)| name[at..].strip_prefix("::").or_else(|| name[at..].strip_prefix('/'));
    let mut tails = name.char_indices().filter_map(after);
    if let Some(tail) = tails.clone().find(|tail| wide(tail) <= width) {
        return tail.to_owned();
    }
    if width < 3 {
        return String::new();
    }
    let mut left = width - 1;
    let fits = |c: &char| {
        let needs = if c.is_ascii() { 1 } else { 2 };
        let fits = needs <= left;
        left = left.saturating_sub(needs);
        fits
    };
    tails.next_back().unwrap_or(name).chars().take_while(fits).chain(['…']).collect()
}

/// Nanoseconds for display.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Millis(std::time::Duration::from_nanos(self.0)).fmt(f)
    }
}

/// Text for XML: markup is escaped, and characters that XML cannot represent are replaced.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples;
    use super::*;

    /// Returns the texts of all elements with a name.
    fn texts<'a>(svg: &'a str, element: &str) -> Vec<&'a str> {
        let inner = |part: &'a str| part.split_once('>').unwrap().1.split_once("</").unwrap().0;
        svg.split(&format!("<{element}")).skip(1).map(inner).collect()
    }

    #[test]
    fn shows_the_recorded_stalls() {
        let svg = svg(&samples::stalls());
        let text = texts(&svg, "text");
        assert_eq!(text[0], "Blocked time: 4015 ms in 7 stalls");
        assert_eq!(text[2..6], ["cpu 3000 ms", "lock 1000 ms", "starved 5.0 ms", "unknown 10 ms"], "the legend");
        assert_eq!(text[6..9], ["main", "src/main.rs:8:9", "app::handler"]);
        let title = |name| texts(&svg, "title").into_iter().find(|t| t.starts_with(name)).unwrap();
        assert_eq!(title("app::render"), "app::render\nsrc/app.rs:41\n3000 ms blocked (74.7 %), 3 stalls\ncpu 3000 ms");
        assert!(title("app::handler").ends_with("4000 ms blocked (99.6 %), 5 stalls\ncpu 3000 ms, lock 1000 ms"));
        assert!(title("[no stack: unknown]").contains("1 stall\n"));
    }

    #[test]
    fn boxes_are_within_their_callers() {
        let svg = svg(&samples::stalls());
        let number = |part: &str, name: &str| -> f64 {
            part.split_once(&format!(" {name}=\"")).unwrap().1.split_once('"').unwrap().0.parse().unwrap()
        };
        let of = |name: &str| {
            let part = svg.split("<g>").find(|part| part.starts_with(&format!("<title>{name}\n"))).unwrap();
            let rect = part.split_once("<rect").unwrap().1;
            (number(rect, "x"), number(rect, "y"), number(rect, "width"))
        };
        let (main, handler, render, lock) = (of("main"), of("app::handler"), of("app::render"), of("app::lock"));
        assert_eq!((main.0, main.2), (MARGIN, WIDTH - 2.0 * MARGIN - 1.0), "the whole width");
        assert_eq!((handler.1, render.1, lock.1), (HEAD + 2.0 * ROW, HEAD + 3.0 * ROW, HEAD + 3.0 * ROW));
        assert!((render.2 / lock.2 - 3.0).abs() < 0.02, "width is proportional to blocked time");
        assert!(render.0 + render.2 < lock.0 && lock.0 + lock.2 <= handler.0 + handler.2 + 0.2);
    }

    #[test]
    fn names_stay_text() {
        let svg = svg(&samples::hostile_names());
        for markup in ["<img", "<script", "<b>", "\u{1b}", "\0"] {
            assert!(!svg.contains(markup), "{markup:?} in {svg}");
        }
        assert!(svg.contains("a;b\u{fffd}&lt;img onerror=alert(1)&gt;"));
        assert!(svg.contains("&lt;/title&gt;&lt;script&gt;&quot;&#39;&amp;\u{fffd}\u{fffd}"));
        assert_eq!(svg.matches("<title>").count(), svg.matches("</title>").count());
    }

    #[test]
    fn an_empty_profile_is_a_picture() {
        let svg = svg(&Profile::default());
        assert_eq!(texts(&svg, "text")[0], "No stalls so far");
        assert!(!svg.contains("<g>") && !svg.contains("NaN") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn an_ongoing_stall_has_time_and_no_count() {
        let mut profile = samples::stalls();
        profile.entries.iter_mut().for_each(|entry| entry.stalls.count = 0);
        let svg = svg(&profile);
        assert_eq!(texts(&svg, "text")[0], "Blocked time: 4015 ms, ongoing");
        assert!(!svg.contains("0 stalls"));
    }

    #[test]
    fn narrow_boxes_are_not_drawn() {
        let of = |site: &str, nanos| samples::entry(site, Cause::Cpu, Vec::new(), 1, nanos);
        let svg = svg(&samples::profile([of("wide", 10_000_000_000), of("narrow", 100_000)]));
        assert!(svg.contains("wide") && !svg.contains("narrow"));
    }

    #[test]
    fn names_fit_their_boxes() {
        let fit = |width| fit("app::report::load", width);
        assert_eq!(fit(17), "app::report::load");
        assert_eq!(fit(16), "report::load");
        assert_eq!(fit(4), "load");
        assert_eq!(fit(3), "lo…");
        assert_eq!(fit(2), "");
        let site = |width| super::fit("src/bin/main.rs:88:9", width);
        assert_eq!((&*site(16), &*site(13)), ("bin/main.rs:88:9", "main.rs:88:9"));
        assert_eq!((&*site(11), &*site(4)), ("main.rs:88…", "mai…"));
        assert_eq!(super::fit("日本語の関数", 7), "日本語…");
    }
}

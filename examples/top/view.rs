//! What is shown of `/live`, line by line: to the screen, and to `--once`.

use serde_json::Value;

use crate::recent::Recent;
use crate::rows::{all, known, num, routes, sites, stalls, text, workers};
use crate::table::{number, place, render, word};
use crate::text::{clean, clip, count, seconds};

/// The most rows of a table.
const ROWS: usize = 20;
/// Fewer rows are not worth a table.
const FEW: usize = 2;
/// Lines of a table that are no rows.
const TITLE: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Look {
    Plain,
    Title,
    Faint,
    Alarm,
    Trouble,
}

pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) look: Look,
}

fn line(text: impl Into<String>, look: Look, width: usize) -> Line {
    Line { text: clip(&text.into(), width), look }
}

/// Above what was seen last, if anything was.
pub(crate) fn trouble(text: &str, stale: bool, width: usize) -> Line {
    let ending = if stale { "; what follows is old. Trying again, q quits" } else { ". Trying again, q quits" };
    line(clean(text) + if text.ends_with("...") { "" } else { ending }, Look::Trouble, width)
}

/// What is told of the last minute needs a past.
pub(crate) fn lines(live: &Value, past: Option<&Recent>, width: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![line(headline(live), Look::Title, width)];
    lines.extend(all(live, "runtimes").iter().map(|runtime| line(about(runtime), Look::Plain, width)));
    let (rows, stalled) = workers(live);
    let shown = rows.len().min((height / 3).max(1));
    let columns =
        [word("worker", 0), word("state", 0), number("for", 0), word("route", 2), place("where"), word("reason", 3)];
    lines.push(line("", Look::Plain, width));
    for (i, text) in render(&columns, &rows[..shown], width).into_iter().enumerate() {
        let look = match i.checked_sub(1) {
            None => Look::Faint,
            Some(row) if stalled[row] => Look::Alarm,
            Some(_) => Look::Plain,
        };
        lines.push(line(text, look, width));
    }
    if shown < rows.len() {
        lines.push(line(format!("… {} more workers", rows.len() - shown), Look::Faint, width));
    }
    let left = height.saturating_sub(lines.len());
    // Those that have no room for a few rows are not begun.
    let tables: Vec<_> =
        [stalls(live), routes(live, past), sites(live, past)].into_iter().take((left / (TITLE + FEW)).min(3)).collect();
    let wanted: Vec<usize> = tables.iter().map(|(_, rows)| rows.len().min(ROWS)).collect();
    for ((columns, rows), shown) in tables.iter().zip(shares(&wanted, left)) {
        lines.push(line("", Look::Plain, width));
        let look = |i| if i == 0 { Look::Faint } else { Look::Plain };
        let table = render(columns, &rows[..shown], width);
        lines.extend(table.into_iter().enumerate().map(|(i, text)| line(text, look(i), width)));
    }
    lines
}

/// Rows for each table, of the lines that are left: first an even share, then what others do not want.
fn shares(wanted: &[usize], lines: usize) -> Vec<usize> {
    let mut left = lines.saturating_sub(TITLE * wanted.len());
    let even = left.checked_div(wanted.len()).unwrap_or(0);
    let mut shares: Vec<usize> = wanted.iter().map(|&rows| rows.min(even)).collect();
    left -= shares.iter().sum::<usize>();
    for (share, rows) in shares.iter_mut().zip(wanted) {
        let more = left.min(rows - *share);
        *share += more;
        left -= more;
    }
    shares
}

fn headline(live: &Value) -> String {
    let stopped = if live["watching"] == false { " · STOPPED: no stall is looked for" } else { "" };
    format!(
        "pollwatch {} · {} (pid {}) up {} · stalls from {} on{stopped}",
        text(&live["version"]),
        text(&live["program"]),
        num(&live["pid"]),
        seconds(num(&live["uptime_seconds"])),
        seconds(num(&live["threshold_seconds"])),
    )
}

fn about(runtime: &Value) -> String {
    if runtime["alive"] == false {
        return format!("{}: ended", text(&runtime["name"]));
    }
    let (blocked, workers) = (num(&runtime["blocked_workers"]), all(runtime, "workers").len());
    let state = if blocked > 0.0 {
        // A blocked worker's share stands still: it would say nothing now.
        let longest = seconds(num(&runtime["oldest_stall_seconds"]));
        format!("{blocked} of {workers} workers blocked, the longest for {longest}")
    } else {
        format!("none of {workers} workers blocked · {:.0} % busy", num(&runtime["busy_ratio"]) * 100.0)
    };
    format!(
        "{}: {state} · {} tasks alive, {} waiting · blocking threads: {}",
        text(&runtime["name"]),
        known(&runtime["alive_tasks"], count),
        known(&runtime["global_queue_depth"], count),
        known(&runtime["blocking_threads"], count),
    )
}

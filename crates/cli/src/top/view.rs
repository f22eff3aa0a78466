//! The lines that show the JSON of `/live`, on the screen and with `--once`.

use serde_json::Value;

use super::history::History;
use super::rows::{known, list, number, routes, sites, stalls, text, workers};
use crate::client::FetchError;
use crate::table::{Column, render};
use crate::text::{clean, clip, count, seconds};

/// The most rows of a table below the workers.
const MAX_ROWS: usize = 20;
/// The fewest rows for which a table is shown.
const MIN_ROWS: usize = 2;
/// The time for which a report of a late runtime is shown, in seconds.
const LATE_SHOWN: f64 = 60.0;
/// The number of lines of a table that are not rows: an empty one and the titles.
const HEAD: usize = 2;

#[derive(Clone, Copy)]
pub(crate) enum Style {
    Plain,
    Title,
    Faint,
    /// A blocked worker.
    Alarm,
    /// A problem with the server or the connection.
    Notice,
}

pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) style: Style,
}

fn line(text: impl Into<String>, style: Style, width: usize) -> Line {
    Line { text: clip(&text.into(), width), style }
}

/// Returns the notice before the first answer.
pub(crate) fn connecting(url: &str) -> String {
    format!("connecting to {url} ...")
}

/// Returns the notice after a failed request. The latest answer is shown below it.
pub(crate) fn retrying(error: &FetchError, has_answer: bool) -> String {
    let outdated = if has_answer { " The figures below are outdated." } else { "" };
    format!("Retrying; q quits.{outdated} {error}")
}

/// Returns the line of a notice.
pub(crate) fn notice(text: &str, width: usize) -> Line {
    line(clean(text), Style::Notice, width)
}

/// Returns at most `height` lines of `width` columns. Without a history, the tables have no column
/// of the last minute.
pub(crate) fn lines(live: &Value, history: Option<&History>, width: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![line(headline(live), Style::Title, width)];
    lines.extend(list(live, "incidents").iter().map(|incident| line(incident_line(incident), Style::Alarm, width)));
    lines.extend(condition_lines(live).map(|text| line(text, Style::Alarm, width)));
    lines.extend(list(live, "runtimes").iter().map(|runtime| line(runtime_line(runtime), Style::Plain, width)));
    lines.extend(late_lines(live).map(|text| line(text, Style::Notice, width)));
    let rows = workers(live);
    let shown = rows.len().min((height / 3).max(1));
    let columns = [
        Column::text("worker", 0),
        Column::text("state", 0),
        Column::number("for", 0),
        Column::text("route", 2),
        Column::location("where"),
        Column::text("reason", 3),
    ];
    let cells: Vec<_> = rows[..shown].iter().map(|row| row.cells.clone()).collect();
    lines.push(line("", Style::Plain, width));
    for (i, text) in render(&columns, &cells, width).into_iter().enumerate() {
        let style = match i.checked_sub(1) {
            None => Style::Faint,
            Some(row) if rows[row].is_blocked => Style::Alarm,
            Some(_) => Style::Plain,
        };
        lines.push(line(text, style, width));
    }
    if shown < rows.len() {
        lines.push(line(format!("… {} more workers", rows.len() - shown), Style::Faint, width));
    }
    let left = height.saturating_sub(lines.len());
    // A table that does not fit is omitted.
    let fitting = (left / (HEAD + MIN_ROWS)).min(3);
    let tables = [stalls(live), routes(live, history), sites(live, history)];
    let tables = &tables[..fitting];
    let wanted: Vec<usize> = tables.iter().map(|table| table.rows.len().min(MAX_ROWS)).collect();
    for (table, shown) in tables.iter().zip(shares(&wanted, left)) {
        lines.push(line("", Style::Plain, width));
        let style = |i| if i == 0 { Style::Faint } else { Style::Plain };
        let table = render(&table.columns, &table.rows[..shown], width);
        lines.extend(table.into_iter().enumerate().map(|(i, text)| line(text, style(i), width)));
    }
    lines
}

/// Returns the number of rows of each table. The remaining lines are divided evenly, and the lines
/// that one table does not need go to the others.
fn shares(wanted: &[usize], lines: usize) -> Vec<usize> {
    let mut left = lines.saturating_sub(HEAD * wanted.len());
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
    let stopped = if live["watching"] == false {
        " · STOPPED: the watchdog has been shut down and detects no stalls"
    } else {
        ""
    };
    format!(
        "pollwatch {} · {} (pid {}) up {} · stalls from {} on{stopped}",
        text(&live["version"]),
        text(&live["program"]),
        number(&live["pid"]),
        seconds(number(&live["uptime_seconds"])),
        seconds(number(&live["threshold_seconds"])),
    )
}

fn incident_line(incident: &Value) -> String {
    format!("incident #{}: {}", number(&incident["id"]), text(&incident["reason"]))
}

/// Returns the conditions of whole runtimes that are in no incident.
fn condition_lines(live: &Value) -> impl Iterator<Item = String> {
    let is_in = |condition: &Value, incident: &Value| {
        incident["kind"] == condition["kind"] && incident["runtime"] == condition["runtime"]
    };
    let incidents = list(live, "incidents");
    let others = list(live, "conditions").iter().filter(move |c| !incidents.iter().any(|incident| is_in(c, incident)));
    others.map(|condition| text(&condition["reason"]))
}

/// Returns the latest report of each runtime that was late within the last minute.
fn late_lines(live: &Value) -> impl Iterator<Item = String> {
    let (now, reports) = (number(&live["now_unix_seconds"]), list(live, "late_runtimes"));
    list(live, "runtimes").iter().filter_map(move |runtime| {
        let latest = reports.iter().rfind(|report| report["runtime"] == runtime["name"])?;
        let age = (now - number(&latest["reported_at_unix_seconds"])).max(1e-3);
        (age < LATE_SHOWN).then(|| late_line(latest, age))
    })
}

/// Returns a report of a late runtime in one line, which is shorter than its text.
fn late_line(report: &Value, age: f64) -> String {
    let percent = |share: &Value| format!("{:.0} %", number(share) * 100.0);
    let reason = match report["reason"].as_str() {
        Some("busy_workers") => {
            format!("its workers were busy {:.0} %", number(&report["polling"]).max(number(&report["on_cpu"])) * 100.0)
        }
        Some("no_cpu") => format!("its workers waited for a CPU {}", percent(&report["waiting_for_cpu"])),
        _ => "the reason is not known".into(),
    };
    let mut line = format!(
        "{}: late {} ago, a woken task waited {} without a stall; {reason}",
        text(&report["runtime"]),
        seconds(age),
        seconds(number(&report["delay_seconds"])),
    );
    let sites = list(report, "sites").iter().map(|usage| (&usage["site"], usage));
    let routes = list(report, "routes").iter().map(|usage| (&usage["route"], usage));
    let users = sites.take(2).chain(routes.take(2)).filter(|(_, usage)| number(&usage["share"]) >= 0.005);
    for (index, (name, usage)) in users.enumerate() {
        line += if index == 0 { ": " } else { ", " };
        line += &format!("{} ({})", text(name), percent(&usage["share"]));
    }
    line
}

fn runtime_line(runtime: &Value) -> String {
    if runtime["alive"] == false {
        return format!("{}: ended", text(&runtime["name"]));
    }
    let (blocked, workers) = (number(&runtime["blocked_workers"]), list(runtime, "workers").len());
    let state = if blocked > 0.0 {
        // The busy ratio is updated when a poll ends, and would be outdated.
        let longest = seconds(number(&runtime["oldest_stall_seconds"]));
        format!("{blocked} of {workers} workers blocked, the longest for {longest}")
    } else {
        format!("none of {workers} workers blocked · {:.0} % busy", number(&runtime["busy_ratio"]) * 100.0)
    };
    let rescues = match number(&runtime["driver_rescues"]) {
        0.0 => String::new(),
        rescues => format!(" · driver rescues: {}", count(rescues)),
    };
    format!(
        "{}: {state} · {} tasks alive, {} waiting · blocking threads: {}{rescues}",
        text(&runtime["name"]),
        known(&runtime["alive_tasks"], count),
        known(&runtime["global_queue_depth"], count),
        known(&runtime["blocking_threads"], count),
    )
}

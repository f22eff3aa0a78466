//! The rows of the tables, from the JSON of `/live`. Every text of the JSON goes through [`text`],
//! which replaces control characters.

use serde_json::Value;

use super::history::{History, route_blocked_seconds, site_blocked_seconds};
use crate::table::Column;
use crate::text::{clean, count, seconds};

/// Returns the elements of an array; none where the field is missing.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Returns a string without control characters; empty where the field is missing.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map(clean).unwrap_or_default()
}

/// Returns a number; 0 where the field is missing.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// Formats a number, or a dash where it is missing. Some figures exist only in programs built with
/// `tokio_unstable`.
pub(crate) fn known(value: &Value, show: fn(f64) -> String) -> String {
    value.as_f64().map_or("-".into(), show)
}

/// Returns the location where a worker is blocked.
///
/// It is the innermost function of the program. Without one it is the innermost function of all,
/// and without a stack the site where the task was spawned.
fn location(live: &Value, stall: Option<&Value>, site: &Value) -> String {
    let stack = stall.and_then(|s| s["stack"].as_u64()).and_then(|i| list(live, "stacks").get(i as usize));
    let frames = stack.map_or(&[][..], |stack| list(stack, "frames"));
    let Some(frame) = frames.iter().find(|f| f["of"] == "program").or(frames.first()) else { return text(site) };
    match (text(&frame["file"]), frame["line"].as_u64()) {
        (file, Some(line)) if !file.is_empty() => format!("{} ({file}:{line})", text(&frame["name"])),
        _ => text(&frame["name"]),
    }
}

fn route(item: &Value) -> String {
    match (text(&item["route"]), text(&item["parent_route"])) {
        (route, _) if !route.is_empty() => route,
        (_, parent) if !parent.is_empty() => format!("{parent} (spawned)"),
        _ => String::new(),
    }
}

/// Returns the reason of a stall, marked if the stall is inferred and not measured. If the thread
/// has done something else before, it says how long it has done what it does now.
fn reason(stall: &Value) -> String {
    let mut reason = text(&stall["reason"]);
    let from = list(stall, "segments").last().map_or(0.0, |segment| number(&segment["from_seconds"]));
    if stall["phase"] == "ongoing" && from > 0.0 && !reason.is_empty() {
        reason += &format!(" for {}", seconds((number(&stall["elapsed_seconds"]) - from).max(0.0)));
    }
    if stall["certainty"] == "suspected" { format!("suspected: {reason}") } else { reason }
}

/// Returns the cause and the reason of a stall.
fn cause_and_reason(stall: &Value) -> String {
    let (cause, reason) = (text(&stall["cause"]), reason(stall));
    if reason.is_empty() { cause } else { format!("{cause}: {reason}") }
}

/// One row of the table of workers.
pub(crate) struct WorkerRow {
    pub(crate) is_blocked: bool,
    pub(crate) cells: Vec<String>,
}

/// Returns the workers of all runtimes. The blocked ones come first, since there may be more
/// workers than lines.
pub(crate) fn workers(live: &Value) -> Vec<WorkerRow> {
    let mut rows = Vec::new();
    for runtime in list(live, "runtimes") {
        for worker in list(runtime, "workers") {
            let stall = worker["stall"].as_u64();
            let stall = stall.and_then(|id| list(live, "stalls").iter().find(|s| s["id"].as_u64() == Some(id)));
            let is_blocked = worker["state"] == "stalled";
            let cells = vec![
                format!("{}/{}", text(&runtime["name"]), number(&worker["index"])),
                if is_blocked { "BLOCKED".into() } else { text(&worker["state"]) },
                worker["elapsed_seconds"].as_f64().map(seconds).unwrap_or_default(),
                route(worker),
                location(live, stall, &worker["site"]),
                stall.map(cause_and_reason).unwrap_or_default(),
            ];
            rows.push(WorkerRow { is_blocked, cells });
        }
    }
    rows.sort_by_key(|row| !row.is_blocked);
    rows
}

/// The columns of a table, and a cell for each of them in every row.
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Removes a column if none of its cells has a text. Some figures exist only where an option is
    /// set.
    fn without_empty(mut self, title: &str) -> Table {
        if let Some(i) = self.columns.iter().position(|column| column.title() == title)
            && self.rows.iter().all(|row| row[i].is_empty())
        {
            self.columns.remove(i);
            self.rows.iter_mut().for_each(|row| drop(row.remove(i)));
        }
        self
    }
}

/// Returns how many tasks waited behind a stall and how long in total; empty where none is known.
fn victims(victims: &Value) -> String {
    match number(&victims["tasks"]) {
        0.0 => String::new(),
        tasks => {
            let unit = if tasks == 1.0 { "task" } else { "tasks" };
            format!("{} {unit}, {}", count(tasks), seconds(number(&victims["waited_seconds"])))
        }
    }
}

/// Returns the table of the latest stalls, the newest first.
pub(crate) fn stalls(live: &Value) -> Table {
    let columns = vec![
        Column::number("stall", 0),
        Column::number("ago", 5),
        Column::number("blocked", 0),
        Column::text("cause", 3),
        Column::text("route", 2),
        Column::location("at"),
        Column::text("reason", 4),
        Column::text("waited behind it", 6),
    ];
    let row = |stall: &Value| {
        let ongoing = stall["phase"] == "ongoing";
        let end = number(&stall["started_at_unix_seconds"]) + number(&stall["elapsed_seconds"]);
        vec![
            format!("#{}", number(&stall["id"])),
            if ongoing { String::new() } else { seconds((number(&live["now_unix_seconds"]) - end).max(1e-3)) },
            seconds(number(&stall["elapsed_seconds"])) + if ongoing { " so far" } else { "" },
            text(&stall["cause"]),
            route(stall),
            location(live, Some(stall), &stall["site"]),
            reason(stall),
            victims(&stall["victims"]),
        ]
    };
    Table { columns, rows: list(live, "stalls").iter().rev().map(row).collect() }.without_empty("waited behind it")
}

/// The index of the column that needs a history.
const LAST_MINUTE: usize = 2;

/// Makes a table sorted by blocked time, the longest first. Without a history, it has no column
/// [`LAST_MINUTE`].
fn sorted(mut columns: Vec<Column>, mut rows: Vec<(f64, Vec<String>)>, has_history: bool) -> Table {
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    if !has_history {
        columns.remove(LAST_MINUTE);
        rows.iter_mut().for_each(|row| drop(row.remove(LAST_MINUTE)));
    }
    Table { columns, rows }
}

/// Returns the table of the routes with the most blocked time.
pub(crate) fn routes(live: &Value, history: Option<&History>) -> Table {
    let columns = vec![
        Column::location("worst routes"),
        Column::number("blocked", 0),
        Column::number("last minute", 1),
        Column::number("stalls", 2),
        Column::number("longest poll", 5),
        Column::number("busy", 4),
        Column::number("requests", 3),
    ];
    let row = |r: &Value| {
        let blocked = route_blocked_seconds(r);
        let cells = vec![
            text(&r["route"]),
            seconds(blocked),
            history.map(|history| seconds(history.last_minute(r, blocked))).unwrap_or_default(),
            count(number(&r["stalls"]) + number(&r["spawned_stalls"])),
            seconds(number(&r["max_seconds"])),
            seconds(number(&r["busy_seconds"])),
            count(number(&r["requests"])),
        ];
        (blocked, cells)
    };
    sorted(columns, list(live, "routes").iter().map(row).collect(), history.is_some())
}

/// Returns the table of the spawn sites with the most blocked time.
pub(crate) fn sites(live: &Value, history: Option<&History>) -> Table {
    let columns = vec![
        Column::location("worst spawn sites"),
        Column::number("blocked", 0),
        Column::number("last minute", 1),
        Column::number("stalls", 2),
        Column::number("longest poll", 4),
        Column::number("busy", 3),
        Column::number("polls", 5),
        Column::number("tasks", 6),
        Column::number("not polled for", 8),
        Column::text("runtime", 7),
    ];
    let row = |s: &Value| {
        let blocked = site_blocked_seconds(s);
        let cells = vec![
            text(&s["site"]),
            seconds(blocked),
            history.map(|history| seconds(history.last_minute(s, blocked))).unwrap_or_default(),
            count(number(&s["stalls"])),
            seconds(number(&s["max_seconds"])),
            seconds(number(&s["busy_seconds"])),
            count(number(&s["polls"])),
            known(&s["alive_tasks"], count),
            s["unpolled_seconds"].as_f64().map(seconds).unwrap_or_default(),
            text(&s["runtime"]),
        ];
        (blocked, cells)
    };
    sorted(columns, list(live, "sites").iter().map(row).collect(), history.is_some()).without_empty("not polled for")
}

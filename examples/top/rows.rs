//! The tables' rows, from the JSON. Every text in it goes through `text`, which cleans it.

use serde_json::Value;

use crate::recent::{Recent, of_route, of_site};
use crate::table::{Column, number, place, word};
use crate::text::{clean, count, seconds};

pub(crate) fn all<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().map(clean).unwrap_or_default()
}

pub(crate) fn num(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// A number, or a dash where it is not known in this mode.
pub(crate) fn known(value: &Value, show: fn(f64) -> String) -> String {
    value.as_f64().map_or("-".into(), show)
}

/// Where it blocks: the innermost function of the program's own, else of all, else where the task was spawned.
fn at(live: &Value, stall: Option<&Value>, site: &Value) -> String {
    let stack = stall.and_then(|s| s["stack"].as_u64()).and_then(|i| all(live, "stacks").get(i as usize));
    let frames = stack.map_or(&[][..], |stack| all(stack, "frames"));
    let Some(frame) = frames.iter().find(|f| f["of"] == "program").or(frames.first()) else { return text(site) };
    match (text(&frame["file"]), frame["line"].as_u64()) {
        (file, Some(line)) if !file.is_empty() => format!("{} ({file}:{line})", text(&frame["name"])),
        _ => text(&frame["name"]),
    }
}

fn route(of: &Value) -> String {
    match (text(&of["route"]), text(&of["parent_route"])) {
        (route, _) if !route.is_empty() => route,
        (_, under) if !under.is_empty() => format!("{under} (spawned)"),
        _ => String::new(),
    }
}

/// What stable mode only concludes from outside is told as that.
fn reason(stall: &Value) -> String {
    let reason = text(&stall["reason"]);
    if stall["certainty"] == "suspected" { format!("suspected: {reason}") } else { reason }
}

/// With the cause in front.
fn cause_and_reason(stall: &Value) -> String {
    let (cause, reason) = (text(&stall["cause"]), reason(stall));
    if reason.is_empty() { cause } else { format!("{cause}: {reason}") }
}

/// A row each, and whether it is blocked.
pub(crate) fn workers(live: &Value) -> (Vec<Vec<String>>, Vec<bool>) {
    let mut rows = Vec::new();
    for runtime in all(live, "runtimes") {
        for worker in all(runtime, "workers") {
            let stall = worker["stall"].as_u64();
            let stall = stall.and_then(|id| all(live, "stalls").iter().find(|s| s["id"].as_u64() == Some(id)));
            let stalled = worker["state"] == "stalled";
            let row = vec![
                format!("{}/{}", text(&runtime["name"]), num(&worker["index"])),
                if stalled { "BLOCKED".into() } else { text(&worker["state"]) },
                worker["elapsed_seconds"].as_f64().map(seconds).unwrap_or_default(),
                route(worker),
                at(live, stall, &worker["site"]),
                stall.map(cause_and_reason).unwrap_or_default(),
            ];
            rows.push((stalled, row));
        }
    }
    // Those that are blocked first: there may be more workers than lines.
    rows.sort_by_key(|&(stalled, _)| !stalled);
    rows.into_iter().map(|(stalled, row)| (row, stalled)).unzip()
}

pub(crate) type Table = (Vec<Column>, Vec<Vec<String>>);

pub(crate) fn stalls(live: &Value) -> Table {
    let columns = vec![
        number("stall", 0),
        number("ago", 5),
        number("blocked", 0),
        word("", 6),
        word("cause", 3),
        word("route", 2),
        place("at"),
        word("reason", 4),
    ];
    let row = |stall: &Value| {
        let ongoing = stall["phase"] == "ongoing";
        let over = num(&stall["started_at_unix_seconds"]) + num(&stall["elapsed_seconds"]);
        vec![
            format!("#{}", num(&stall["id"])),
            if ongoing { String::new() } else { seconds((num(&live["now_unix_seconds"]) - over).max(1e-3)) },
            seconds(num(&stall["elapsed_seconds"])),
            if ongoing { "so far".into() } else { String::new() },
            text(&stall["cause"]),
            route(stall),
            at(live, Some(stall), &stall["site"]),
            reason(stall),
        ]
    };
    (columns, all(live, "stalls").iter().rev().map(row).collect())
}

/// Those that blocked longest first. Without a past there is no last minute.
fn worst(mut columns: Vec<Column>, mut rows: Vec<(f64, Vec<String>)>, with_past: bool) -> Table {
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    if !with_past {
        columns.remove(2);
        rows.iter_mut().for_each(|row| drop(row.remove(2)));
    }
    (columns, rows)
}

pub(crate) fn routes(live: &Value, past: Option<&Recent>) -> Table {
    let columns = vec![
        place("worst routes"),
        number("blocked", 0),
        number("last minute", 1),
        number("stalls", 2),
        number("longest poll", 5),
        number("busy", 4),
        number("requests", 3),
        number("shed", 6),
    ];
    let row = |r: &Value| {
        let blocked = of_route(r);
        let cells = vec![
            text(&r["route"]),
            seconds(blocked),
            past.map(|past| seconds(past.share(r, blocked))).unwrap_or_default(),
            count(num(&r["stalls"]) + num(&r["spawned_stalls"])),
            seconds(num(&r["max_seconds"])),
            seconds(num(&r["busy_seconds"])),
            count(num(&r["requests"])),
            count(num(&r["shed"])),
        ];
        (blocked, cells)
    };
    worst(columns, all(live, "routes").iter().map(row).collect(), past.is_some())
}

pub(crate) fn sites(live: &Value, past: Option<&Recent>) -> Table {
    let columns = vec![
        place("worst places: spawned at"),
        number("blocked", 0),
        number("last minute", 1),
        number("stalls", 2),
        number("longest poll", 4),
        number("busy", 3),
        number("polls", 5),
        number("tasks", 6),
        word("runtime", 7),
    ];
    let row = |s: &Value| {
        let blocked = of_site(s);
        let cells = vec![
            text(&s["site"]),
            seconds(blocked),
            past.map(|past| seconds(past.share(s, blocked))).unwrap_or_default(),
            count(num(&s["stalls"])),
            seconds(num(&s["max_seconds"])),
            seconds(num(&s["busy_seconds"])),
            count(num(&s["polls"])),
            known(&s["alive_tasks"], count),
            text(&s["runtime"]),
        ];
        (blocked, cells)
    };
    worst(columns, all(live, "sites").iter().map(row).collect(), past.is_some())
}

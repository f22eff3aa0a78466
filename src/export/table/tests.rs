//! The table of `docs/metrics.md` is generated from the code's: `POLLWATCH_BLESS=1 cargo test`
//! rewrites it.

use std::collections::HashSet;
use std::path::Path;

use super::*;

const START: &str = "<!-- Generated from src/export/table.rs: POLLWATCH_BLESS=1 cargo test. -->\n";
const END: &str = "<!-- End of the generated table. -->";

fn kind(def: &MetricDef) -> &'static str {
    match def.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

fn unit(def: &MetricDef) -> &'static str {
    match def.name {
        name if name.trim_end_matches("_total").ends_with("_seconds") => "seconds",
        name if name.ends_with("_ratio") => "0 to 1",
        name if name.ends_with("_info") => "1",
        "coverage" => "0 or 1",
        _ => "count",
    }
}

fn row(def: &MetricDef) -> String {
    let labels: Vec<_> = def.labels.iter().map(|label| format!("`{label}`")).collect();
    let mode = match def.mode {
        Mode::Both => "both",
        Mode::Unstable => "`tokio_unstable`",
        Mode::Delays => "`tokio_unstable`, feature `delays`",
    };
    let (kind, unit, labels) = (kind(def), unit(def), labels.join(", "));
    format!("| `{PREFIX}{}` | {kind} | {unit} | {labels} | {mode} | {} |\n", def.name, def.help)
}

fn table<'a>(defs: impl IntoIterator<Item = &'a MetricDef>) -> String {
    let head = "| name | type | unit | labels | mode | definition |\n|---|---|---|---|---|---|\n";
    head.to_owned() + &defs.into_iter().map(row).collect::<String>()
}

/// Compares a document's table with the code's, or rewrites it.
fn check<'a>(document: &str, defs: impl IntoIterator<Item = &'a MetricDef>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap_or_else(|| panic!("no {START:?} in {document}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("no {END:?} in {document}"));
    let wanted = table(defs);
    if found.trim() == wanted.trim() {
        return;
    }
    assert!(
        std::env::var_os("POLLWATCH_BLESS").is_some(),
        "the table of {document} differs from src/export/table.rs; POLLWATCH_BLESS=1 cargo test rewrites it. \
         Expected:\n{wanted}"
    );
    std::fs::write(&path, format!("{before}{START}\n{wanted}\n{END}{after}")).unwrap();
}

#[test]
fn the_reference_has_the_table() {
    check("docs/metrics.md", all());
}

#[test]
fn names_and_definitions_are_well_formed() {
    let mut names = HashSet::new();
    for def in all() {
        assert!(names.insert(def.name), "{} is defined twice", def.name);
        assert_eq!(def.kind == MetricKind::Counter, def.name.ends_with("_total"), "{}", def.name);
        assert!(def.help.ends_with('.') && !def.help.contains(['|', '\n']), "{}: {}", def.name, def.help);
    }
}

//! The tables of `README.md` and `docs/metrics.md` are made from the code's: `POLLWATCH_BLESS=1 cargo test` writes them.

use std::collections::HashSet;
use std::path::Path;

use super::*;

const BEGIN: &str = "<!-- Made from src/export/table.rs: POLLWATCH_BLESS=1 cargo test. -->\n";
const END: &str = "<!-- End of what was made. -->";
const UNSTABLE: &str = " Needs tokio_unstable.";

fn kind(def: &Def) -> &'static str {
    match def.kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    }
}

fn unit(def: &Def) -> &'static str {
    match def.name {
        name if name.trim_end_matches("_total").ends_with("_seconds") => "seconds",
        name if name.ends_with("_ratio") => "0 to 1",
        name if name.ends_with("_info") => "1",
        "coverage" => "0 or 1",
        _ => "count",
    }
}

fn row(def: &Def) -> String {
    let labels: Vec<_> = def.labels.iter().map(|label| format!("`{label}`")).collect();
    let (help, mode) = match def.help.strip_suffix(UNSTABLE) {
        Some(help) => (help, "`tokio_unstable`"),
        None => (def.help, "both"),
    };
    format!("| `{PREFIX}{}` | {} | {} | {} | {mode} | {help} |\n", def.name, kind(def), unit(def), labels.join(", "))
}

fn table(defs: &[Def]) -> String {
    let head = "| name | type | unit | labels | mode | what it is |\n|---|---|---|---|---|---|\n";
    head.to_owned() + &defs.iter().map(row).collect::<String>()
}

/// Compares a document's table with the code's, or rewrites it.
fn check(document: &str, defs: &[Def]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("no {BEGIN:?} in {document}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("no {END:?} in {document}"));
    let wanted = table(defs);
    // In stable mode the code has no figures that need tokio_unstable; the documents always have them.
    let is_known = |line: &&str| cfg!(tokio_unstable) || !line.contains("| `tokio_unstable` |");
    if found.trim().lines().filter(is_known).eq(wanted.lines()) {
        return;
    }
    assert!(
        cfg!(tokio_unstable) && std::env::var_os("POLLWATCH_BLESS").is_some(),
        "the table of {document} is not that of src/export/table.rs; with tokio_unstable, POLLWATCH_BLESS=1 cargo test \
         rewrites it. Wanted:\n{wanted}"
    );
    std::fs::write(&path, format!("{before}{BEGIN}\n{wanted}\n{END}{after}")).unwrap();
}

#[test]
fn the_readme_has_the_table() {
    check("README.md", FIXED);
}

#[test]
fn the_reference_has_the_table() {
    check("docs/metrics.md", &all());
}

#[test]
fn names_and_words_are_in_order() {
    let mut names = HashSet::new();
    for def in all() {
        assert!(names.insert(def.name), "{} is there twice", def.name);
        assert_eq!(def.kind == Type::Counter, def.name.ends_with("_total"), "{}", def.name);
        assert!(def.help.ends_with('.') && !def.help.contains(['|', '\n']), "{}: {}", def.name, def.help);
    }
}

//! The direction of imports: each layer imports only from the layers below it, and no two modules
//! of a layer import each other.
//!
//! The tables below are the architecture. `EXCEPTIONS` lists the imports that do not follow it yet,
//! with a reason. The test also fails when an exception is no longer needed, so that the list can
//! only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, and the other layers that each may import.
const LAYERS: &[(&str, &[&str])] = &[
    ("util", &[]),
    ("sync", &[]),
    ("sys", &["util"]),
    ("error", &[]),
    ("random", &[]),
    ("properties", &[]),
    ("model", &["util"]),
    ("measure", &["model", "util", "sync", "sys", "error"]),
    ("detect", &["measure", "model", "util", "sync", "sys"]),
    ("report", &["model", "util", "sys"]),
    ("export", &["model", "util", "error"]),
    ("watchdog", &["model", "measure", "detect", "report", "export", "util", "sys", "error"]),
    ("attach", &["model", "detect", "report", "export", "util", "error"]),
    ("testing", &["watchdog", "model", "measure", "error"]),
    ("macros", &["watchdog", "testing", "measure", "util", "error"]),
];

/// The order of modules within a layer. A module imports only those before it. Modules that are not
/// listed may import any, but no two may import each other.
const INNER_ORDER: &[(&str, &[&str])] = &[
    ("measure", &["primitives", "counters", "thread", "runtime", "entry", "layer"]),
    (
        "detect",
        &[
            "status",
            "time_account",
            "procfs",
            "stack_coverage",
            "syscalls",
            "classify",
            "poll_entry",
            "pause",
            "panic_budget",
            "thread_times",
            "runtime_liveness",
            "task_growth",
            "track",
            "lag",
            "identity",
            "examine",
            "ongoing",
            "scan",
            "locks",
            "outside",
            "conditions",
            "emit",
            "threads",
            "watcher",
        ],
    ),
    (
        "report",
        &[
            "counters",
            "stage_thread",
            "deadlocks",
            "conditions",
            "throttle",
            "totals",
            "kernel_share",
            "reason",
            "log",
            "findings",
            "main_cause",
            "segments",
            "requests",
            "profile",
            "ongoing",
            "recent",
            "store",
            "queue",
            "queues",
            "log_stage",
            "call_stage",
            "incidents",
            "symbols",
            "recorder",
            "dispatch",
        ],
    ),
];

/// Imports that violate the architecture: from, to, reason. A path includes all modules below it.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("measure::thread", "measure::runtime", "a thread finds its meter; a meter lists its threads"),
    ("measure::thread", "measure::entry", "a thread that is registered gets the span slot that it has filled before"),
];

type Module = Vec<String>;

/// All modules with the code of each, without comments and tests.
fn modules() -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    collect(&root, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().with_extension("");
        let mut path: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let is_test = path.iter().any(|part| matches!(&**part, "tests" | "properties" | "models"));
        if is_test || path == ["lib"] {
            continue;
        }
        if path.last().is_some_and(|name| name == "mod") {
            path.pop();
        }
        // A module that a feature switches off has a replacement of the same name.
        let last = path.last_mut().unwrap();
        *last = last.trim_end_matches("_off").to_owned();
        modules.entry(path).or_insert_with(String::new).push_str(&code_of(&fs::read_to_string(&file).unwrap()));
    }
    modules
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file up to its test modules, which come last, without comments.
fn code_of(text: &str) -> String {
    let end = text.find("\n#[cfg(all(test").unwrap_or(text.len());
    without_comments(&text[..end])
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// The names that `lib.rs` exports, with the module of each.
fn public_names() -> BTreeMap<String, Module> {
    let lib = without_comments(include_str!("../src/lib.rs"));
    let mut names = BTreeMap::new();
    for statement in lib.split(';').filter_map(|statement| statement.split("pub use ").nth(1)) {
        let path = statement.trim().trim_start_matches("crate::");
        let (module, exported) = match path.split_once('{') {
            Some((module, list)) => (module.trim_end_matches("::"), list.trim_end_matches('}')),
            None => path.rsplit_once("::").unwrap_or(("", path)),
        };
        let module: Module = module.split("::").map(str::to_owned).collect();
        for name in exported.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            names.insert(name.to_owned(), module.clone());
        }
    }
    for public_module in lib.split("pub mod ").skip(1).filter_map(|rest| rest.split_once(" {")) {
        names.insert(public_module.0.to_owned(), vec!["measure".to_owned(), public_module.0.to_owned()]);
    }
    names
}

/// The paths that follow `keyword` in the code, up to three segments each. Lists in braces are
/// expanded.
fn paths_after(code: &str, keyword: &str) -> Vec<Module> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(keyword) {
        if code[..at].ends_with(|c: char| is_word(c) || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + keyword.len()..];
        let first: String = rest.chars().take_while(|c| is_word(*c) || *c == ':').collect();
        let prefix: Module = first.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        match rest[first.len()..].strip_prefix('{').filter(|_| first.is_empty() || first.ends_with("::")) {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                for item in list.split(',') {
                    let segments = item.trim().split("::").take_while(|part| part.chars().all(is_word));
                    paths.push(prefix.iter().cloned().chain(segments.map(str::to_owned)).collect());
                }
            }
            None => paths.push(prefix),
        }
    }
    paths
}

/// All imports of one module: `crate::` paths, and resolved `super::` paths.
fn imports(module: &Module, code: &str, public: &BTreeMap<String, Module>) -> Vec<Module> {
    let mut imports = Vec::new();
    for path in paths_after(code, "crate::") {
        match path.first().and_then(|first| public.get(first)) {
            Some(of) => imports.push(of.clone()),
            None => imports.push(path),
        }
    }
    for path in paths_after(code, "super::") {
        let levels = 1 + path.iter().take_while(|part| *part == "super").count();
        let parents = &module[..module.len().saturating_sub(levels)];
        imports.push(parents.iter().chain(&path[levels - 1..]).cloned().collect());
    }
    imports
}

fn join(module: &[String]) -> String {
    module.join("::")
}

fn is_within(module: &str, folder: &str) -> bool {
    module == folder || module.strip_prefix(folder).is_some_and(|rest| rest.starts_with("::"))
}

/// All imports between modules of the first two levels, as pairs of paths.
fn edges() -> BTreeSet<(String, String)> {
    let (modules, public) = (modules(), public_names());
    let known: BTreeSet<String> = modules.keys().map(|module| join(&module[..module.len().min(2)])).collect();
    let mut edges = BTreeSet::new();
    for (module, code) in &modules {
        for import in imports(module, code, &public) {
            let from = join(&module[..module.len().min(2)]);
            let to = join(&import[..import.len().min(2)]);
            let layer = import.first().cloned().unwrap_or_default();
            let to = if known.contains(&to) { to } else { layer };
            let is_parent = is_within(&from, &to);
            if !to.is_empty() && from != to && !is_parent {
                edges.insert((from, to));
            }
        }
    }
    edges
}

fn layer_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// Returns the rule that an import violates, if any.
fn violation(from: &str, to: &str, edges: &BTreeSet<(String, String)>) -> Option<String> {
    let (from_layer, to_layer) = (layer_of(from), layer_of(to));
    if from_layer != to_layer {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == from_layer) else {
            return Some(format!("{from_layer} is no layer: add it to the table"));
        };
        return (!allowed.contains(&to_layer)).then(|| format!("{from_layer} must not import {to_layer}"));
    }
    if edges.contains(&(to.to_owned(), from.to_owned())) {
        return Some("the two modules import each other".into());
    }
    let (_, order) = INNER_ORDER.iter().find(|(layer, _)| *layer == from_layer)?;
    let position = |module: &str| order.iter().position(|name| Some(*name) == module.split("::").nth(1));
    let (from, to) = (position(from)?, position(to)?);
    (from < to).then(|| "the imported module comes later in the order of its layer".into())
}

#[test]
fn imports_have_one_direction() {
    let edges = edges();
    let mut needed = BTreeSet::new();
    let mut violations = Vec::new();
    for (from, to) in &edges {
        let Some(why) = violation(from, to, &edges) else { continue };
        let exception = EXCEPTIONS.iter().position(|(of, on, _)| is_within(from, of) && is_within(to, on));
        // Of two modules that import each other, an exception for one of the directions is enough.
        let reverse = EXCEPTIONS.iter().any(|(of, on, _)| is_within(to, of) && is_within(from, on));
        match exception {
            Some(exception) => drop(needed.insert(exception)),
            None if reverse && layer_of(from) == layer_of(to) => {}
            None => violations.push(format!("{from} imports {to}: {why}")),
        }
    }
    assert!(violations.is_empty(), "imports against the architecture:\n{}", violations.join("\n"));
    let unneeded = EXCEPTIONS.iter().enumerate().filter(|(i, _)| !needed.contains(i));
    let unneeded: Vec<_> = unneeded.map(|(_, (from, to, _))| format!("{from} -> {to}")).collect();
    assert!(unneeded.is_empty(), "exceptions that are no longer needed:\n{}", unneeded.join("\n"));
}

#[test]
fn paths_are_found_and_resolved() {
    let code = "use crate::model::id::{PollKey, SiteId};\nuse crate::{Watchdog, util::lock};\nuse super::super::pause::Pauses;";
    let public = BTreeMap::from([("Watchdog".to_owned(), vec!["watchdog".to_owned()])]);
    let module: Module = ["detect", "outside", "detector"].map(str::to_owned).into();
    let found: Vec<String> = imports(&module, code, &public).iter().map(|path| join(path)).collect();
    assert_eq!(found, ["model::id::PollKey", "model::id::SiteId", "watchdog", "util::lock", "detect::pause::Pauses"]);
    assert_eq!(violation("detect::emit", "model::event", &BTreeSet::new()), None);
    assert!(violation("detect::emit", "report::log", &BTreeSet::new()).is_some());
    assert!(violation("report::store", "report::dispatch", &BTreeSet::new()).is_some());
}

#[test]
fn the_code_is_read() {
    let edges = edges();
    let has = |from: &str, to: &str| edges.contains(&(from.into(), to.into()));
    assert!(has("watchdog::threads", "detect::watcher") && has("detect::emit", "model::event"));
}

/// A name that matches no module would leave the order of that module unchecked.
#[test]
fn every_ordered_module_exists() {
    let modules = modules();
    for (layer, names) in INNER_ORDER {
        for name in *names {
            let path: Module = vec![(*layer).to_owned(), (*name).to_owned()];
            assert!(modules.keys().any(|module| module.starts_with(&path)), "there is no module {layer}::{name}");
        }
    }
}

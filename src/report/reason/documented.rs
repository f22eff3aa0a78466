//! The table of `docs/reasons.md` is generated from the code's: `POLLWATCH_BLESS=1 cargo test`
//! rewrites it.

use std::collections::HashSet;
use std::path::Path;

use super::computing::{COMPUTING, DROP, DROP_OF_TASK, IN_KERNEL, KERNEL, PAGE_FAULTS, WORK};
use super::library::{CHILD, LIBRARIES};
use super::locks::{IN_PLACE, LOCK, LOCKS, PARK, WAITS};
use super::syscalls::{INPUT, LOG, PAGE, PRINT, by_purpose};
use super::*;
use crate::model::cause::Purpose;

const START: &str = "<!-- Generated from src/report/reason: POLLWATCH_BLESS=1 cargo test. -->\n";
const END: &str = "<!-- End of the generated tables. -->";

fn computing() -> Vec<Reason> {
    let rows = LIBRARIES.iter().map(|row| advised(row.computing, row.advice));
    let drops = [DROP, DROP_OF_TASK].into_iter().chain(WORK.iter().map(|row| row.reason));
    let kernel = KERNEL.iter().map(|row| row.reason).chain([PAGE_FAULTS, IN_KERNEL]);
    [COMPUTING].into_iter().chain(drops).chain(kernel).chain(rows).collect()
}

fn waiting_in_calls() -> Vec<Reason> {
    let call = |name: &'static str, target: &str, purpose| {
        by_purpose(&Syscall { name: name.into(), target: Some(target.into()), purpose })
    };
    let targets = ["/var/data", "pipe:[1]", "anon_inode:[eventfd]", "/dev/pts/1"];
    let files = ["read", "write", "fsync"].map(|name| call(name, "/var/data", Purpose::Io));
    let others = targets.map(|target| call("read", target, Purpose::Io));
    let purposes = Purpose::ALL.iter().filter(|purpose| **purpose != Purpose::Futex);
    let by_purpose = purposes.map(|&purpose| call("a call", "", purpose));
    let rows = LIBRARIES.iter().map(|row| advised(row.waiting, row.advice));
    let streams = [LOG, PRINT, INPUT, CHILD, PAGE];
    files.into_iter().chain(others).chain(by_purpose).chain(streams).chain(rows).collect()
}

fn waiting_for_threads() -> Vec<Reason> {
    let locks = LOCKS.iter().map(|row| advised(row.text, row.in_a_task));
    let in_place = advised("a lock, in block_in_place without a free thread", IN_PLACE);
    let waits = WAITS.iter().chain([&PARK]).map(|row| row.reason);
    locks.chain([LOCK, in_place]).chain(waits).collect()
}

fn table(reasons: Vec<Reason>) -> String {
    let mut listed = HashSet::new();
    let first = reasons.into_iter().filter(|reason| listed.insert(reason.text));
    let row = |reason: Reason| format!("| {} | {} |\n", reason.text, reason.advice.unwrap_or("").replace('|', "\\|"));
    "| reason | advice |\n|---|---|\n".to_owned() + &first.map(row).collect::<String>()
}

#[test]
fn the_reasons_are_documented() {
    let wanted = format!(
        "## Cause `cpu`\n\n{}\n## Cause `syscall`\n\n{}\n## Cause `lock`\n\n{}",
        table(computing()),
        table(waiting_in_calls()),
        table(waiting_for_threads())
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reasons.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).expect("the start of the tables");
    let (found, after) = rest.split_once(END).expect("the end of the tables");
    if found.trim() != wanted.trim() {
        let bless = std::env::var_os("POLLWATCH_BLESS").is_some();
        assert!(bless, "docs/reasons.md differs from the code; POLLWATCH_BLESS=1 cargo test rewrites it:\n{wanted}");
        std::fs::write(&path, format!("{before}{START}\n{wanted}\n{END}{after}")).unwrap();
    }
}

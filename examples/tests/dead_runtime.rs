//! Tests of the example `dead_runtime`, run as a user runs it.

mod common;

use std::process::{Command, Stdio};

#[test]
fn exits_after_the_evidence_is_written() {
    let folder = std::env::temp_dir().join(format!("pollwatch-dead-runtime-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = Command::new(common::example("dead_runtime"));
    // Where the example writes its file.
    command.env("TMPDIR", &folder).env("TMP", &folder).env("TEMP", &folder).env_remove("NOTIFY_SOCKET");
    let out = command.stdin(Stdio::null()).output().expect("the example starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(70), "{stdout}{stderr}");
    assert!(stderr.contains("on call: incident #1: all 2 workers of \"main\" are blocked"), "{stderr}");
    assert!(stdout.contains("the process exits with code 70, because of incident #1"), "{stdout}");
    let file = std::fs::read_to_string(folder.join("dead_runtime-1.txt")).expect("the evidence");
    assert!(file.contains("pollwatch: incident #1") && file.contains("dead_runtime::wait_for_a_reply"), "{file}");
    let _ = std::fs::remove_dir_all(&folder);
}

//! A program without symbols, whose runtimes cannot be recognised.

use std::fs;
use std::process::Command;

use attach_lab::target::Target;

use crate::support::{command, scratch, target_program};

#[test]
fn it_is_said_that_no_runtime_can_be_found() {
    let folder = scratch("stripped");
    let program = folder.join("stripped-target");
    match Command::new("strip").arg("-s").arg("-o").arg(&program).arg(target_program()).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            println!("skipped: no `strip` here: {error}");
            return;
        }
    }
    let target = Target::start(&program, &["blocks", "--seconds", "600", "--kind", "sleeps"]).unwrap();
    let pid = target.pid().to_string();
    let output = command(&["attach", "--duration", "3s", &pid]).output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("no Tokio runtime has been found in it so far"), "{errors}");
    assert!(text.contains("no stall was found") && text.contains("the program has no symbols of tokio"), "{text}");
    // All threads can be watched instead.
    let output = command(&["attach", "--duration", "3s", "--all-threads", &pid]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" suspected stall #") && text.contains("blocked in a sleep"), "{text}");
    // The summary says where, since it is all that is known.
    let (_, suspected) = text.split_once("no stall was observed; suspected:\n").expect(&text);
    assert!(suspected.lines().any(|line| line.contains("  syscall   ")), "{suspected}");
    drop(target);
    fs::remove_dir_all(folder).unwrap();
}

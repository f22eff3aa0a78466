//! Errors: one line that says what is wrong and what to do, and the exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use attach_lab::target::Target;

use crate::support::{POLLWATCH, error_line, run, scratch, target, target_program};

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let no_process = |output| error_line(&output, 1);
    assert_eq!(no_process(run("attach 4194999", None)), "pollwatch attach: there is no process 4194999\n");
    assert_eq!(no_process(run("threads 4194999", None)), "pollwatch threads: there is no process 4194999\n");
    let error = no_process(run("attach no-such-name-anywhere", None));
    assert!(error.contains("there is no process whose name, executable or command line"), "{error}");
    let kernel = no_process(run("attach 2", None));
    assert!(kernel.contains("is a thread of the kernel") || kernel.contains("no process 2"), "{kernel}");
}

#[test]
fn a_wrong_command_line_has_its_own_code() {
    for words in [
        "attach",
        "attach --threshold 10 1",
        "attach --threshold 0ms 1",
        "attach --duration soon 1",
        "attach --listen nowhere 1",
        "attach --output stalls.svg 1",
        "attach --once --listen 127.0.0.1:0 1",
    ] {
        assert_eq!(run(words, None).status.code(), Some(2), "{words}");
    }
    for (words, why) in [
        ("attach --threshold 10us 1", "the threshold must be from 1ms to 3600s, not 10µs"),
        ("attach --listen nowhere 1", "write an IP address and a port, such as 127.0.0.1:9464"),
    ] {
        let output = run(words, None);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(why), "{error}");
    }
    let idle = target("idle --seconds 600");
    let error = error_line(&run("attach --output /no/such/folder/stalls.json PID", Some(&idle)), 1);
    assert!(error.contains("cannot write /no/such/folder/stalls.json: "), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let words = format!("attach --listen {} PID", taken.local_addr().unwrap());
    let error = error_line(&run(&words, Some(&idle)), 1);
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert!(error.contains("Address already in use"), "{error}");
}

#[test]
fn several_processes_of_one_name_are_listed() {
    let folder = scratch("names");
    let program = folder.join("name-of-two");
    fs::copy(target_program(), &program).unwrap();
    let start = || Target::start(&program, &["idle", "--seconds", "600"]).unwrap();
    let first = start();
    let output = run("attach --once name-of-two", None);
    assert!(output.status.success(), "{output:?}");
    let second = start();
    let output = run("attach --once name-of-two", None);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("pollwatch attach: 2 processes match \"name-of-two\". Choose one"), "{error}");
    for target in [&first, &second] {
        assert!(error.lines().any(|line| line.trim_start().starts_with(&target.pid().to_string())), "{error}");
    }
    drop((first, second));
    fs::remove_dir_all(folder).unwrap();
}

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn a_missing_permission_is_named_with_the_command_that_gives_it() {
    // SAFETY: the function has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can start a process of another user");
        return;
    }
    let folder = scratch("permission");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("pollwatch");
    fs::copy(POLLWATCH, &program).unwrap();
    let idle = target("idle --seconds 600");
    for subcommand in ["attach", "threads"] {
        let mut command = Command::new(&program);
        command.args([subcommand, &idle.pid().to_string()]).uid(NOBODY).gid(NOBODY).current_dir("/");
        let error = error_line(&command.output().unwrap(), 1);
        assert!(error.contains("it belongs to user 0 and this is user 65534. Run"), "{error}");
        assert!(!error.contains("or as root"), "the remedy is said once: {error}");
        let sudo = format!("Run `sudo {} {subcommand} {}`", program.display(), idle.pid());
        assert!(error.contains(&sudo), "{error}");
    }
    drop(idle);
    fs::remove_dir_all(folder).unwrap();
}

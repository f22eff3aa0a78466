//! How the program ends: with its target, by a signal, with its reader, or killed.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use attach_lab::rng::Rng;

use crate::support::{Running, TIMEOUT, command, run, stdout, target};

#[test]
fn the_end_of_the_target_ends_it() {
    let short = target("blocks --seconds 2 --threshold 50 --kind sleeps");
    let text = stdout(&run("attach PID", Some(&short)));
    assert!(text.contains("the process has ended. "), "{text}");

    let mut killed = target("blocks --seconds 600 --threshold 50 --kind sleeps");
    let (mut running, _) = Running::start("", &killed);
    running.find(|value| value["event"] == "stall");
    killed.kill().unwrap();
    let (rest, status) = running.wait();
    assert!(status.success(), "{status}");
    assert_eq!(rest.last().unwrap()["reason"], "the process has ended");
}

#[test]
fn a_signal_ends_it_with_the_summary() {
    let idle = target("idle --seconds 600");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (running, _) = Running::start("", &idle);
        running.signal(signal);
        let (rest, status) = running.wait();
        assert!(status.success(), "{status}");
        assert_eq!(rest.last().unwrap()["event"], "summary", "{rest:?}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_ends_it_quietly() {
    let blocks = target("blocks --seconds 600 --threshold 50 --kind sleeps");
    for form in [&["attach", "--json"][..], &["attach"]] {
        let pid = blocks.pid().to_string();
        let words: Vec<_> = form.iter().copied().chain([&*pid]).collect();
        let mut child = command(&words).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        drop(reader);
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < TIMEOUT, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        assert_eq!(errors.lines().count(), 1, "only the line that says what is watched: {errors}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_ends_it_while_nothing_is_printed() {
    let idle = target("idle --seconds 600");
    let pid = idle.pid().to_string();
    let mut child = command(&["attach", "--json", &pid]).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < TIMEOUT, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn nobody_has_to_read_its_notes() {
    let idle = target("idle --seconds 600");
    let pid = idle.pid().to_string();
    let (_, closed) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = command(&["attach", "--duration", "1s", "--verbose", &pid]);
    let output = command.stderr(Stdio::from(OwnedFd::from(closed))).output().unwrap();
    let text = stdout(&output);
    assert!(text.contains("the duration is over. "), "{text}");
}

#[test]
fn a_target_is_undisturbed_when_it_is_killed_at_any_moment() {
    let mut checks = target("checks --seconds 600 --wait yes");
    let mut rng = Rng::new(7);
    for _ in 0..25 {
        let pid = checks.pid().to_string();
        let mut child = command(&["attach", "--json", "--threshold=1ms", &pid]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(rng.between(0.0, 0.3)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    checks.proceed().unwrap();
    // It fails if a system call was interrupted, a sum is wrong, or a thread has stopped.
    let (status, printed) = checks.wait().unwrap();
    assert!(status.success(), "{status} {printed}");
}

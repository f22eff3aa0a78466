//! What the program prints of stalls, in each form.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Running, command, run, scratch, stdout, target};

const BLOCKS: &str = "blocks --seconds 600 --threshold 100";

#[test]
fn a_stall_is_printed_like_the_librarys() {
    let target = target(&format!("{BLOCKS} --kind sleeps"));
    let output = run("attach --threshold 20ms --duration 4s --verbose PID", Some(&target));
    let text = stdout(&output);
    let stall = text.lines().find(|line| line.contains(" WARN stall #1 ongoing ")).unwrap_or_else(|| panic!("{text}"));
    assert!(stall.contains("blocked in a sleep (off-CPU, syscall clock_nanosleep)"), "{text}");
    assert!(text.contains("at attach_target::kinds::sleeps (lab/attach/program/kinds.rs:"), "{text}");
    assert!(text.contains("\n  advice: use tokio::time::sleep\n"), "{text}");
    assert!(text.contains(" resolved after "), "{text}");
    assert!(!text.contains('\u{1b}'), "colours are for terminals: {text}");
    let (_, summary) = text.rsplit_once("\n\n").unwrap();
    assert!(summary.starts_with("attach-target (") && summary.contains("the duration is over."), "{summary}");
    let row =
        summary.lines().find(|line| line.contains("  syscall   attach_target::kinds::sleeps (lab/attach/")).unwrap();
    assert!(!row.trim_start().starts_with('0'), "{row}");
    assert!(summary.contains("\nwhat was observed, and what was not:\n  process "), "{summary}");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("watching attach-target ("), "{errors}");
    assert!(errors.contains(" scans; ") && errors.contains(" stops of running threads, the longest "), "{errors}");
}

#[test]
fn each_line_of_json_is_an_object() {
    let target = target(&format!("{BLOCKS} --kind locks"));
    let (mut running, attached) = Running::start("--threshold 20ms", &target);
    assert_eq!((&attached["schema"], &attached["pid"]), (&1.into(), &target.pid().into()));
    let is_resolved = |value: &Value| value["event"] == "stall" && value["phase"] == "resolved";
    let stall = running.find(|value| is_resolved(value) && !value["stack"].is_null());
    assert_eq!((&stall["cause"], &stall["certainty"]), (&"lock".into(), &"observed".into()), "{stall}");
    assert!(stall["elapsed_seconds"].as_f64().unwrap() >= 0.02, "{stall}");
    assert!(stall["thread"].as_str().unwrap().starts_with("thread-"), "{stall}");
    running.signal(libc::SIGINT);
    let (rest, status) = running.wait();
    assert!(status.success(), "{status}");
    let summary = rest.last().unwrap();
    assert_eq!((&summary["event"], &summary["reason"]), (&"summary".into(), &"ended by a signal".into()));
    assert_eq!(summary["locations"][0]["function"], "attach_target::kinds::locks", "{summary}");
    assert!(summary["scans"].as_u64().unwrap() > 0, "{summary}");
}

#[test]
fn what_computes_is_found_unless_nothing_may_be_stopped() {
    let target = target("blocks --seconds 600 --threshold 400 --kind computes --workers 1");
    let (mut running, _) = Running::start("--threshold 20ms", &target);
    let computes = |value: &Value| value["event"] == "stall" && value["cause"] == "cpu" && !value["stack"].is_null();
    let stall = running.find(computes);
    let user = stall["stack"]["user_frames"][0].as_u64().unwrap() as usize;
    let function = &stall["stack"]["frames"][user]["function"];
    assert_eq!(function, "attach_target::kinds::computes", "{stall}");
    running.signal(libc::SIGTERM);
    let (rest, _) = running.wait();
    assert!(rest.last().unwrap()["stops"].as_u64().unwrap() > 0, "{rest:?}");

    let output = run("attach --json --threshold 20ms --duration 2s --no-stop PID", Some(&target));
    let text = stdout(&output);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["stops"], &summary["stopped_seconds"]), (&0.into(), &0.0.into()), "{summary}");
}

#[test]
fn once_says_whether_anything_is_blocked() {
    // Each block lasts for seconds, so that one is ongoing at any time but short gaps.
    let blocked = target("blocks --seconds 600 --threshold 20000 --kind receives");
    let output = run("attach --once PID", Some(&blocked));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.starts_with("stall #") && text.contains("attach_target::kinds::receives"), "{text}");
    let output = run("attach --once --json PID", Some(&blocked));
    let text = String::from_utf8(output.stdout).unwrap();
    let stall: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&stall["event"], &stall["phase"]), (&"stall".into(), &"ongoing".into()), "{stall}");

    let idle = target("idle --seconds 600");
    let text = stdout(&run("attach --once PID", Some(&idle)));
    assert_eq!(text, format!("nothing in attach-target ({}) is blocked\n", idle.pid()));
    let text = stdout(&run("attach --once --json PID", Some(&idle)));
    assert_eq!(text, "{\"event\":\"nothing_blocked\"}\n");
}

#[test]
fn once_fails_where_it_is_not_known_whether_anything_is_blocked() {
    // A program without a runtime.
    let mut sleep = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = sleep.id().to_string();
    let outputs = [&["--once"][..], &["--once", "--json"]].map(|words| {
        let words: Vec<_> = ["attach"].into_iter().chain(words.iter().copied()).chain([&*pid]).collect();
        command(&words).output().unwrap()
    });
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    for output in outputs {
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("no Tokio runtime has been found in it"), "{text}");
    }
    let short = target("idle --seconds 1");
    let output = run("attach --once --duration 60s PID", Some(&short));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is blocked: the process has ended"), "{text}");
}

#[test]
fn the_file_of_a_profile_keeps_its_text_until_there_is_a_new_one() {
    let folder = scratch("kept-profile");
    let file = folder.join("stalls.folded");
    fs::write(&file, "the profile of before, which is longer than the new one").unwrap();
    let output = run(&format!("attach --output {} 4194999", file.display()), None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let idle = target("idle --seconds 600");
    let output = run(&format!("attach --threshold 10us --output {} PID", file.display()), Some(&idle));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("the profile of before"));
    stdout(&run(&format!("attach --threshold 1h --duration 1s --output {} PID", file.display()), Some(&idle)));
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_profile_is_written_at_the_end() {
    let target = target(&format!("{BLOCKS} --kind reads_pipe"));
    let folder = scratch("profile");
    let written = |name: &str| {
        let file = folder.join(name);
        let words = format!("attach --threshold 20ms --duration 3s --output {} PID", file.display());
        stdout(&run(&words, Some(&target)));
        fs::read_to_string(file).unwrap()
    };
    let folded = written("stalls.folded");
    let line = folded.lines().next().unwrap();
    let (stack, microseconds) = line.rsplit_once(' ').unwrap();
    assert!(stack.contains(";attach_target::kinds::reads_pipe"), "{folded}");
    assert!(microseconds.parse::<u64>().unwrap() >= 20_000, "{folded}");
    let speedscope: Value = serde_json::from_str(&written("stalls.speedscope.json")).unwrap();
    let frames = speedscope["shared"]["frames"].as_array().unwrap();
    assert!(frames.iter().any(|frame| frame["name"] == "attach_target::kinds::reads_pipe"), "{speedscope}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_threads_of_a_process_are_printed() {
    let target = target("blocks --seconds 600 --threshold 20000 --kind reads_socket");
    let text = stdout(&run("threads PID", Some(&target)));
    assert!(text.contains(" threads at ") && text.contains("attach_target::kinds::reads_socket"), "{text}");
    assert!(text.lines().any(|line| line.contains("worker") && line.contains("recv")), "{text}");
    let dump: Value = serde_json::from_str(&stdout(&run("threads --json PID", Some(&target)))).unwrap();
    let threads = dump["groups"].as_array().unwrap().iter().flat_map(|group| group["threads"].as_array().unwrap());
    assert!(threads.filter(|thread| thread["name"].as_str().unwrap().starts_with("thread-")).count() >= 2, "{dump}");
}

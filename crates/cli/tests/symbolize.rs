//! Tests of the program `pollwatch symbolize`: a stripped program reports a stall, and the file as
//! it was before gives functions and lines.

use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use serde_json::Value;

const ROLE: &str = "POLLWATCH_TEST_CHILD";
const TIMEOUT: Duration = Duration::from_secs(120);

#[inline(never)]
fn blocks_here(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What the stripped copy of this test runs: it blocks a worker until the stall has a stack, and
/// prints the stall as JSON, as in the log, and with all of its stack.
#[test]
fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    static STOP: AtomicBool = AtomicBool::new(false);
    let watchdog = Watchdog::builder().log(false).start().unwrap();
    let runtime = watchdog.runtime("main").worker_threads(1).build().unwrap();
    let _inside = runtime.enter();
    watchdog.spawn(async { blocks_here(black_box(&STOP)) });
    let start = Instant::now();
    let stall = loop {
        let stalls = watchdog.stalls();
        if let Some(stall) = stalls.into_iter().find(|stall| stall.stack.is_some()) {
            break stall;
        }
        assert!(start.elapsed() < TIMEOUT, "no stall has a stack");
        std::thread::sleep(Duration::from_millis(5));
    };
    STOP.store(true, Ordering::Relaxed);
    println!("\nJSON {}", serde_json::to_string(&stall).unwrap());
    println!("LOG {}", stall.to_string().replace('\n', "\nLOG "));
    println!("ALL {}", format!("{:#}", stall.stack.unwrap()).replace('\n', "\nALL "));
}

/// What the stripped copy printed.
struct Reported {
    json: String,
    log: String,
    all: String,
}

/// Returns the report of the stripped copy; `None` where there is no `strip`.
fn reported() -> Option<&'static Reported> {
    static REPORTED: OnceLock<Option<Reported>> = OnceLock::new();
    let report = || {
        let folder = scratch("reported");
        let service = folder.join("service");
        let mut strip = Command::new("strip");
        match strip.arg("-s").arg("-o").arg(&service).arg(std::env::current_exe().unwrap()).status() {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(error) => {
                println!("skipped: no `strip` here: {error}");
                return None;
            }
        }
        let output = Command::new(service).args(["--exact", "child", "--nocapture"]).env(ROLE, "1").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let lines = |kind: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        Some(Reported { json: lines("JSON"), log: lines("LOG"), all: lines("ALL") })
    };
    REPORTED.get_or_init(report).as_ref()
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("symbolize-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Runs the program with files and an input.
fn symbolize(binaries: &[&Path], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollwatch"));
    command.arg("symbolize").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for binary in binaries {
        command.arg("--binary").arg(binary);
    }
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may have failed before it reads all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn failed(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(expected) && error.starts_with("pollwatch symbolize: "), "{error}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Returns the line at which the thread sleeps.
fn line_of_sleep() -> u64 {
    let sleep = "std::thread::sleep(Duration::from_millis(200))";
    include_str!("symbolize.rs").lines().position(|line| line.trim() == format!("{sleep};")).unwrap() as u64 + 1
}

/// Checks that the first function of the user's part is the one that blocks.
#[track_caller]
fn assert_symbolized(stall: &Value) {
    let stack = &stall["stack"];
    let user = stack["user_frames"].as_array().unwrap();
    let frame = &stack["frames"][user[0].as_u64().unwrap() as usize];
    assert!(frame["function"].as_str().is_some_and(|f| f.ends_with("blocks_here")), "{stall:#}");
    assert!(frame["file"].as_str().is_some_and(|f| f.ends_with("symbolize.rs")), "{stall:#}");
    assert_eq!(frame["line"].as_u64(), Some(line_of_sleep()), "{stall:#}");
    let last = &stack["frames"][user.last().unwrap().as_u64().unwrap() as usize];
    let last = last["function"].as_str().unwrap();
    assert!(!last.starts_with("tokio::") && last.contains("child"), "the part ends at tokio: {last}");
    // An inlined function has the offset of the one that it was inlined into, and its module.
    assert!(stack["frames"].as_array().unwrap().iter().all(|frame| frame["module_index"].is_u64()));
}

#[test]
fn one_stall_an_array_and_lines_of_json() {
    let Some(reported) = reported() else { return };
    let stall: Value = serde_json::from_str(&reported.json).unwrap();
    let program = &stall["stack"]["frames"].as_array().unwrap().iter().find(|f| f["library"] == false).unwrap();
    assert!(program["function"].is_null() && program["module"] == "service", "it is stripped: {program}");
    let before = stall["stack"]["frames"].as_array().unwrap().len();
    let one: Value = serde_json::from_str(&succeeded(&symbolize(&[&this_program()], &reported.json))).unwrap();
    assert_symbolized(&one);
    assert!(one["stack"]["frames"].as_array().unwrap().len() > before, "inlined functions have frames");
    assert_eq!((&one["id"], &one["stack"]["modules"]), (&stall["id"], &stall["stack"]["modules"]));
    let array = format!("[{},\n{}]", reported.json, reported.json);
    let array: Value = serde_json::from_str(&succeeded(&symbolize(&[&this_program()], &array))).unwrap();
    array.as_array().unwrap().iter().for_each(assert_symbolized);
    assert_eq!(array.as_array().unwrap().len(), 2);
    let lines = succeeded(&symbolize(&[&this_program()], &reported.json.repeat(3)));
    assert_eq!(lines.lines().count(), 3);
    lines.lines().for_each(|line| assert_symbolized(&serde_json::from_str(line).unwrap()));
    // What is complete already stays as it is.
    let again = succeeded(&symbolize(&[&this_program()], &serde_json::to_string(&one["stack"]).unwrap()));
    assert!(again.contains("blocks_here"));
}

#[test]
fn text_of_a_log_and_of_all_functions() {
    let Some(reported) = reported() else { return };
    let at = format!("symbolize.rs:{}) ←", line_of_sleep());
    // A log has no build id, so the name of the file has to be that of the module.
    let folder = scratch("named");
    let named = folder.join("service.unstripped");
    std::fs::copy(this_program(), &named).unwrap();
    let output = symbolize(&[&named], &reported.log);
    let log = succeeded(&output);
    assert!(log.contains("symbolize::blocks_here (") && log.contains(&at), "{log}\nfrom {}", reported.log);
    assert!(!log.contains("service+0x") || reported.log.matches("service+0x").count() > 1, "{log}");
    // The first line may name the location of an earlier segment.
    let before = reported.log.lines().next().unwrap().split("service+0x").next().unwrap();
    assert!(!before.is_empty() && log.starts_with(before), "all else stays: {log}\nfrom {}", reported.log);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the input has no build id of service"));
    failed(&symbolize(&[&this_program()], &reported.log), "no --binary is one of the modules without symbols: service");
    // The stack with all functions states the build id.
    let output = symbolize(&[&this_program()], &reported.all);
    let all = succeeded(&output);
    assert!(all.lines().any(|line| line.contains("symbolize::blocks_here (")), "{all}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("has no build id of service"), "it is checked");
}

#[test]
fn file_of_another_build_is_an_error() {
    let Some(reported) = reported() else { return };
    let folder = scratch("other");
    // Another program under the name of the module.
    let other = folder.join("service");
    std::fs::copy(env!("CARGO_BIN_EXE_pollwatch"), &other).unwrap();
    failed(&symbolize(&[&other], &reported.json), "is of another build than the program that reported the stalls");
    failed(&symbolize(&[&other], &reported.all), "is of another build than the program that reported the stalls");
    failed(
        &symbolize(&[Path::new(env!("CARGO_BIN_EXE_pollwatch"))], &reported.json),
        "no --binary is one of the modules",
    );
}

#[test]
fn input_and_files_that_cannot_be_used() {
    let program = this_program();
    failed(&symbolize(&[&program], "nothing here"), "the input has no frame with a module and an offset");
    failed(&symbolize(&[&program], ""), "the input has no frame with a module and an offset");
    failed(&symbolize(&[&program], "{\"a\": 1}"), "the input has no frame with a module and an offset");
    failed(&symbolize(&[&program], "{\"a\": "), "the input starts like JSON and is not");
    failed(&symbolize(&[&program, Path::new("/does/not/exist")], "a+0x1"), "/does/not/exist cannot be read");
    failed(&symbolize(&[Path::new("Cargo.toml")], "a+0x1"), "Cargo.toml is not a 64-bit little-endian ELF file");
    let usage = Command::new(env!("CARGO_BIN_EXE_pollwatch")).arg("symbolize").output().unwrap();
    assert_eq!(usage.status.code(), Some(2), "--binary is required");
    if let Some(stripped) =
        reported().map(|_| Path::new(env!("CARGO_TARGET_TMPDIR")).join("symbolize-reported/service"))
    {
        failed(&symbolize(&[&stripped], "service+0x1"), "has no symbols, and no debug file of it was found");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_pollwatch"))
        .args(["symbolize", "--binary"])
        .args([&*program, Path::new("/does/not/exist")])
        .output()
        .unwrap();
    failed(&missing, "cannot read /does/not/exist");
}

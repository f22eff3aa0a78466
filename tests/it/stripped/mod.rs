//! Tests of programs without symbols: a stall names module and offset. All else is as with symbols.

mod current_thread;
mod program;
mod split;

use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{is_child, rerun_in, scratch, skipped};

/// This test binary, stripped after the build.
#[test]
fn a_stripped_test_binary_reports_offsets() {
    if is_child() {
        return program::main();
    }
    let Some(stripped) = stripped_test("stripped-test") else { return };
    check(&mut rerun_in(&stripped, "stripped::a_stripped_test_binary_reports_offsets"));
}

/// Returns this test binary without symbols, in a scratch folder; `None` where there is no `strip`.
/// It has the name that frames must have as their module.
fn stripped_test(folder: &str) -> Option<PathBuf> {
    let stripped = scratch(folder).join("stripped");
    let mut strip = Command::new("strip");
    match strip.arg("-s").arg("-o").arg(&stripped).arg(std::env::current_exe().unwrap()).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            skipped(&format!("no `strip` here: {error}"));
            return None;
        }
    }
    Some(stripped)
}

/// The program built for release as a user may build it, in a package of its own without the
/// dependencies and profiles of this repository.
#[test]
#[ignore = "compiles tokio and the like once more: about a minute; .ci/run does it"]
fn a_stripped_release_build_reports_offsets() {
    let folder = scratch("stripped-release");
    check(&mut Command::new(build_package(&folder, "opt-level = 3\ndebug = false\nstrip = true")));
}

/// Builds the program in a package of its own, with a release profile, and returns its path.
fn build_package(folder: &Path, profile: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!(
        r#"
            [package]
            name = "stripped"
            edition = "2024"
            [[bin]]
            name = "stripped"
            path = {program:?}
            [dependencies]
            pollwatch = {{ path = {root:?}, default-features = false, features = ["capture"] }}
            tokio = {{ version = "1", features = ["rt-multi-thread"] }}
            tracing-subscriber = {{ version = "0.3", default-features = false, features = ["fmt"] }}
            [profile.release]
            {profile}
            [workspace]
        "#,
        program = root.join("tests/it/stripped/program.rs"),
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // The same versions as in this repository, so that nothing is fetched.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--offline", "--quiet", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    // The build runs in the repository for its settings (`tokio_unstable`), into a folder that no
    // other build locks.
    cargo.current_dir(root).env_remove("CARGO_BUILD_TARGET");
    let status = cargo.arg("--target-dir").arg(folder.join("target")).status().unwrap();
    assert!(status.success(), "{status}");
    folder.join("target/release/stripped")
}

/// Runs the program and checks its log.
fn check(program: &mut Command) {
    let output = program.env_remove("RUST_LOG").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{printed}");
    let sleep = "blocked in a sleep (off-CPU, syscall clock_nanosleep)";
    assert_reported(&printed, "syscall", "a sleep", sleep, "use tokio::time::sleep");
    let advice = "move it to tokio::task::spawn_blocking or rayon, or split it with tokio::task::yield_now().await";
    assert_reported(&printed, "cpu", "computing", "computing (cpu)", advice);
    // Only symbols say which kind of lock it is.
    let advice = "use tokio::sync::Mutex if the guard lives across .await, otherwise hold the lock for a shorter time";
    assert_reported(&printed, "lock", "a lock", "blocked in a lock (off-CPU, syscall futex)", advice);
}

fn assert_reported(printed: &str, cause: &str, reason: &str, words: &str, advice: &str) {
    let expected = format!("expected of {reason}: ");
    let expected = printed.lines().rev().find_map(|line| line.split_once(&expected)).expect(reason).1;
    let (location, offset) = expected.rsplit_once(" in 0x").expect("an offset");
    let (id, site) =
        location.strip_prefix("task ").and_then(|p| p.split_once(" spawned at ")).expect("a task and a site");
    assert!(site.contains("program.rs:"), "{site}");
    let function = u64::from_str_radix(offset, 16).unwrap();

    let events: Vec<&str> = printed.split(" WARN pollwatch::stall: stall #").skip(1).collect();
    let is_it = |event: &&&str| event.contains(&format!("  {location}\n")) && event.contains("at stripped+0x");
    // On a busy machine the first report of the stall may be that its thread is given no CPU.
    let (in_words, rest) = words.split_once(" (").expect("a reason and a cause");
    let is_right = |event: &&&str| is_it(event) && event.contains(&format!(" on worker 0 of \"main\": {in_words}"));
    let event = events.iter().find(is_right).unwrap_or_else(|| panic!("no event of {location}:\n{printed}"));
    // The text has four lines; the fields follow in a line of their own.
    let lines: Vec<&str> = event.lines().take(5).collect();
    let [first, second, stack, last, fields] = lines[..] else { panic!("{event}") };
    // The thread may have waited for a CPU first: `computing for 9 ms (cpu; ..`.
    let rest = format!(" ({}", rest.trim_end_matches(')'));
    // The log may have the stall only once it is over: the callback does not wait for the log.
    let has_phase = first.contains(" ongoing ") || first.contains(" resolved after ");
    assert!(has_phase && first.contains(&rest), "{event}");
    assert_eq!(second, format!("  {location}"));
    assert_eq!(last.trim_end(), format!("  advice: {advice}"));
    for field in [format!("task={id}"), format!("site={site}"), format!("cause={cause}"), "at=stripped+0x".into()] {
        assert!(fields.contains(&field), "{field}: {event}");
    }
    // All frames are of the program, by module and offset, and the blocking function is among them.
    let frames = stack.split_once("at ").expect("a stack").1.split(" ← ").filter(|frame| !frame.ends_with(" more"));
    let offset = |frame: &str| {
        let offset = frame.strip_prefix("stripped+0x").unwrap_or_else(|| panic!("{frame}: {event}"));
        u64::from_str_radix(offset, 16).unwrap()
    };
    let offsets: Vec<u64> = frames.map(offset).collect();
    assert!(offsets.iter().any(|at| (function..function + 512).contains(at)), "{function:#x}: {event}");
}

//! Tests that stalls are reported without stacks where these are switched off or not compiled in.

use pollwatch::{Phase, StackCoverage, Watchdog};

use test_support::*;

/// The kernel's ability to state the cause without a stack.
const HAS_CAUSE: bool = cfg!(target_os = "linux");

fn reported_without_stacks(watchdog: &Watchdog, collected: &CollectedStalls) -> Result<(), String> {
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let observer = collected.clone();
    let (task, location) = spawn_measured(watchdog, runtime.handle(), async move {
        // Waits on a Condvar.
        observer.wait_ongoing("main").is_some()
    });
    assert!(runtime.block_on(task).unwrap(), "reported while it blocks");
    let stall = collected.wait_resolved("main");
    assert_eq!(stall.site.to_string(), location);
    for stall in collected.of("main") {
        assert!(stall.stack.is_none() && stall.location_changed.is_none(), "{stall}");
        assert!(!stall.to_string().contains("\n  at "), "{stall}");
    }
    let first = collected.wait(|s| &*s.runtime == "main" && s.phase == Phase::Ongoing).unwrap();
    if HAS_CAUSE {
        is_undisturbed(&first)?;
        assert_eq!(first.cause, pollwatch::Cause::Lock, "{first}");
        assert_eq!((first.reason, first.syscall.as_ref().map(|s| &*s.name)), ("a lock", Some("futex")));
    }
    Ok(())
}

fn stacks_coverage(watchdog: &Watchdog) -> f64 {
    let text = watchdog.metrics_text();
    Metrics::parse(&text).get("pollwatch_coverage", &[("source", "stacks")])
}

#[test]
fn stalls_are_reported_with_stacks_switched_off() {
    let watchdog = undisturbed(|| {
        let (watchdog, collected) =
            start_with(Watchdog::builder().threshold(THRESHOLD).log(false).capture_stacks(false));
        reported_without_stacks(&watchdog, &collected).map(|()| watchdog)
    });
    let compiled = cfg!(feature = "capture");
    let expected = if compiled { StackCoverage::SwitchedOff } else { StackCoverage::NotCompiled };
    assert_eq!(watchdog.coverage().stacks, expected);
    let words = if compiled { "stacks: switched off" } else { "stacks: not compiled" };
    assert!(watchdog.coverage().to_string().contains(words), "{}", watchdog.coverage());
    assert_eq!(stacks_coverage(&watchdog), 0.0);
    let captures = watchdog.snapshot().watchdog.captures;
    assert!(captures.iter().all(|c| c.count == 0), "no stack was requested: {captures:?}");
}

/// Stacks have modules and offsets, and everything else is reported.
#[test]
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn stacks_have_offsets_with_symbols_switched_off() {
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD).log(false).symbols(false));
    let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
    let observer = collected.clone();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
        observer.wait(|stall| &*stall.runtime == "main" && stall.stack.is_some()).is_some()
    });
    assert!(runtime.block_on(task).unwrap(), "reported with a stack while it blocks");
    let stall = collected.wait(|stall| &*stall.runtime == "main" && stall.stack.is_some()).unwrap();
    let stack = stall.stack.unwrap();
    assert!(stack.frames().len() > 3 && !stack.user_frames().is_empty(), "{stack:#}");
    for frame in stack.frames() {
        assert!(frame.function.is_none() && frame.file.is_none() && frame.line.is_none(), "{stack:#}");
        assert!(frame.module_info.is_some(), "{stack:#}");
    }
    let program = std::env::current_exe().unwrap();
    let module = stack.location().unwrap().module_info.clone().unwrap();
    assert_eq!(module.path, program, "{stack:#}");
    let json = serde_json::to_value(&stack).unwrap();
    let first = &json["frames"][json["user_frames"][0].as_u64().unwrap() as usize];
    let listed = &json["modules"][first["module_index"].as_u64().unwrap() as usize];
    assert_eq!(listed["path"], program.to_str().unwrap());
    assert_eq!(listed["build_id"].as_str().map(str::to_owned), module.build_id.as_ref().map(ToString::to_string));
    let coverage = watchdog.coverage();
    assert!(!coverage.symbols && coverage.to_string().contains("symbols are switched off"), "{coverage}");
    assert!(start(THRESHOLD).0.coverage().symbols, "the default");
}

#[test]
#[cfg(not(feature = "capture"))]
fn stalls_are_reported_with_stacks_not_compiled() {
    let watchdog = undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        reported_without_stacks(&watchdog, &collected).map(|()| watchdog)
    });
    assert_eq!(watchdog.coverage().stacks, StackCoverage::NotCompiled);
}

#[test]
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn stacks_are_taken_where_supported() {
    let (watchdog, _) = start(THRESHOLD);
    assert_eq!(watchdog.coverage().stacks, StackCoverage::Taken);
    assert!(watchdog.coverage().to_string().contains("stacks: taken"));
    assert_eq!(stacks_coverage(&watchdog), 1.0);
}

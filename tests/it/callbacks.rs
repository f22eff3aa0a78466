//! The user's own thread callbacks, around ours where there are any.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use pollwatch::Hooks;
use tokio::runtime::{Builder, Runtime};

use test_support::*;

/// Whether pollwatch has callbacks of its own.
const OURS: bool = cfg!(all(target_os = "linux", not(tokio_unstable)));

/// Starts, stops, parks, unparks.
fn counting(counters: &HookCounters) -> Hooks {
    let [start, stop, park, unpark] = counters.each_ref().map(increment);
    Hooks::new().on_thread_start(start).on_thread_stop(stop).on_thread_park(park).on_thread_unpark(unpark)
}

fn set_all(builder: &mut Builder, counters: &HookCounters) {
    let [start, stop, park, unpark] = counters.each_ref().map(increment);
    builder.on_thread_start(start).on_thread_stop(stop).on_thread_park(park).on_thread_unpark(unpark);
}

fn read(counters: &HookCounters) -> [u64; 4] {
    counters.each_ref().map(|c| c.load(Ordering::Relaxed))
}

/// Has workers park and unpark.
fn use_up(runtime: Runtime) {
    runtime.block_on(async { tokio::time::sleep(THRESHOLD / 10).await });
    runtime.block_on(runtime.spawn(yields(10))).unwrap();
    runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
}

#[test]
fn the_users_thread_callbacks_run_as_well() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let mut builder = multi_thread(2);
    let runtime = watchdog.build_runtime_with("main", &mut builder, counting(&counters)).unwrap();
    assert_eq!(watchdog.coverage().runtimes[0].workers, OURS);
    use_up(runtime);
    let [started, stopped, parked, unparked] = read(&counters);
    assert!(started >= 3 && stopped == started, "{counters:?}");
    assert!(parked >= 2 && unparked == parked, "{counters:?}");
    // What is built from the same builder next has none of it.
    use_up(builder.build().unwrap());
    use_up(watchdog.build_runtime("next", &mut builder).unwrap());
    assert_eq!(read(&counters), [started, stopped, parked, unparked]);
}

#[test]
fn a_panicking_callback_is_caught_and_counted() {
    fn panics() {
        panic!("on purpose");
    }
    let hooks =
        Hooks::new().on_thread_start(panics).on_thread_stop(panics).on_thread_park(panics).on_thread_unpark(panics);
    assert!(format!("{hooks:?}").contains("on_thread_unpark"), "{hooks:?}");
    let (watchdog, _) = start(THRESHOLD);
    use_up(watchdog.build_runtime_with("main", &mut multi_thread(2), hooks).unwrap());
    assert!(watchdog.snapshot().watchdog.callback_panics >= 2 * 4);
}

/// tokio keeps one of a kind: what would be lost is refused, with the remedy, and the name stays free.
#[test]
fn a_builder_whose_callbacks_would_be_lost_is_refused() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let mut builder = multi_thread(1);
    set_all(&mut builder, &counters);
    let hooks = Hooks::new().on_thread_park(|| ());
    let error = watchdog.build_runtime_with("main", &mut builder, hooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.contains("on_thread_park") && text.contains("build_runtime_with"), "{text}");
    assert_eq!(text.contains("on_thread_start"), OURS, "{text}");
    // They are there still.
    use_up(builder.build().unwrap());
    assert!(read(&counters).iter().all(|n| *n > 0), "{counters:?}");
    let again = watchdog.build_runtime("main", &mut builder);
    if OURS {
        assert_eq!(again.unwrap_err().kind(), ErrorKind::InvalidInput);
        use_up(watchdog.build_runtime("main", &mut multi_thread(1)).unwrap());
    } else {
        let before = read(&counters);
        use_up(again.unwrap());
        assert!(read(&counters)[0] > before[0], "pollwatch takes none of them");
    }
}

/// A user's callback that was set on a builder after we used it is told from what we left there.
#[test]
fn a_builder_is_used_again() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let mut builder = multi_thread(1);
    for name in ["one", "two", "three"] {
        use_up(watchdog.build_runtime(name, &mut builder).unwrap());
    }
    builder.on_thread_unpark(increment(&counters[3]));
    match watchdog.build_runtime("four", &mut builder) {
        Err(error) if OURS => {
            let text = error.to_string();
            assert!(text.contains("on_thread_unpark") && !text.contains("on_thread_park"), "{text}");
        }
        built => {
            use_up(built.unwrap());
            assert!(!OURS && read(&counters)[3] > 0);
        }
    }
}

//! Tests of the user's own thread callbacks beside pollwatch's in stable mode.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use pollwatch::Hooks;
use tokio::runtime::{Builder, Runtime};

use test_support::*;

/// The presence of thread callbacks of pollwatch's own.
const HAS_OWN_CALLBACKS: bool = cfg!(all(target_os = "linux", not(tokio_unstable)));

/// Sets callbacks that count starts, stops, parks and unparks.
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

/// Makes workers park and unpark.
fn park_and_unpark(runtime: Runtime) {
    runtime.block_on(async { tokio::time::sleep(THRESHOLD / 10).await });
    runtime.block_on(runtime.spawn(yields(10))).unwrap();
    runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
}

#[test]
fn the_users_thread_callbacks_run() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let mut builder = multi_thread(2);
    let runtime = watchdog.build_runtime_with("main", &mut builder, counting(&counters)).unwrap();
    assert_eq!(watchdog.coverage().runtimes[0].workers, HAS_OWN_CALLBACKS);
    park_and_unpark(runtime);
    let [started, stopped, parked, unparked] = read(&counters);
    assert!(started >= 3 && stopped == started, "{counters:?}");
    assert!(parked >= 2 && unparked == parked, "{counters:?}");
    // A runtime built from the same builder afterwards has no callbacks.
    park_and_unpark(builder.build().unwrap());
    park_and_unpark(watchdog.build_runtime("next", &mut builder).unwrap());
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
    park_and_unpark(watchdog.build_runtime_with("main", &mut multi_thread(2), hooks).unwrap());
    assert!(watchdog.snapshot().watchdog.callback_panics >= 2 * 4);
}

/// tokio keeps one callback of each kind. A builder whose callbacks would be lost is refused, the
/// error names the remedy, and the name of the runtime stays free.
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
    assert_eq!(text.contains("on_thread_start"), HAS_OWN_CALLBACKS, "{text}");
    // The builder still has its callbacks.
    park_and_unpark(builder.build().unwrap());
    assert!(read(&counters).iter().all(|n| *n > 0), "{counters:?}");
    let again = watchdog.build_runtime("main", &mut builder);
    if HAS_OWN_CALLBACKS {
        assert_eq!(again.unwrap_err().kind(), ErrorKind::InvalidInput);
        park_and_unpark(watchdog.build_runtime("main", &mut multi_thread(1)).unwrap());
    } else {
        let before = read(&counters);
        park_and_unpark(again.unwrap());
        assert!(read(&counters)[0] > before[0], "pollwatch takes none of them");
    }
}

/// pollwatch distinguishes its own callbacks from a user's callback that was set later.
#[test]
fn a_builder_can_be_used_again() {
    let counters = HookCounters::default();
    let (watchdog, _) = start(THRESHOLD);
    let mut builder = multi_thread(1);
    for name in ["one", "two", "three"] {
        park_and_unpark(watchdog.build_runtime(name, &mut builder).unwrap());
    }
    builder.on_thread_unpark(increment(&counters[3]));
    match watchdog.build_runtime("four", &mut builder) {
        Err(error) if HAS_OWN_CALLBACKS => {
            let text = error.to_string();
            assert!(text.contains("on_thread_unpark") && !text.contains("on_thread_park"), "{text}");
        }
        built => {
            park_and_unpark(built.unwrap());
            assert!(!HAS_OWN_CALLBACKS && read(&counters)[3] > 0);
        }
    }
}

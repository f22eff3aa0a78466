//! The warning that a layer measures nothing because no watchdog watches its requests. It is logged
//! once in a process, so each case runs in a child.
#![cfg(feature = "tower")]

use std::convert::Infallible;
use std::process::Command;

use http::{Request, Response};
use pollwatch::{WatchLayer, Watchdog};
use tower::{Layer, ServiceExt, service_fn};

use test_support::*;

/// The environment variable that names the program to be, in a child.
const PROGRAM: &str = "POLLWATCH_TEST_PROGRAM";

/// Runs as a program, and returns the warnings that it has logged.
#[track_caller]
fn warnings_of(program: &str) -> Vec<String> {
    let mut child: Command = rerun("a_layer_that_measures_nothing_says_so_once");
    let out = child.env(PROGRAM, program).output().expect("this test runs as a child");
    assert!(out.status.success(), "{program}: {out:?}");
    let lines = String::from_utf8(out.stderr).expect("UTF-8");
    lines.lines().filter(|line| line.contains("pollwatch::watchdog") && line.contains("WARN")).map(Into::into).collect()
}

/// Sends requests through a layer.
async fn request(layer: WatchLayer) {
    let service = layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) }));
    for _ in 0..3 {
        service.clone().oneshot(Request::new(())).await.expect("the request is answered");
    }
}

fn start() -> Watchdog {
    Watchdog::builder().log(false).start().unwrap()
}

/// Programs that forget the watchdog, and programs that do not.
fn be(program: &str) {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let other = current_thread().build().unwrap();
    match program {
        "no watchdog" => other.block_on(request(pollwatch::layer())),
        "outside of a runtime" => futures_executor::block_on(request(pollwatch::layer())),
        "a handle that is dropped" => {
            let layer = start().layer();
            other.block_on(request(layer));
        }
        "the current one is dropped" => {
            drop(start());
            other.block_on(request(pollwatch::layer()));
        }
        "another runtime" => {
            let watchdog = start();
            watchdog.build_runtime("main", current_thread()).unwrap().block_on(request(pollwatch::layer()));
            other.block_on(request(pollwatch::layer()));
            other.block_on(request(pollwatch::layer()));
        }
        "the middleware of another framework" => {
            let requests = start().request_watcher();
            requests.start("GET", None).respond(200);
        }
        // No warnings.
        "watched" => {
            let watchdog = start();
            watchdog.build_runtime("main", current_thread()).unwrap().block_on(request(pollwatch::layer()));
        }
        "the end of a service" => {
            let watchdog = start();
            let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
            runtime.block_on(request(pollwatch::layer()));
            watchdog.shutdown();
            runtime.block_on(request(pollwatch::layer()));
            runtime.block_on(request(watchdog.layer()));
        }
        other => panic!("no program {other}"),
    }
}

#[test]
fn a_layer_that_measures_nothing_says_so_once() {
    if is_child() {
        return be(&std::env::var(PROGRAM).unwrap());
    }
    let (never, elsewhere, stopped) = ("no watchdog was started", "no watchdog watches the runtime", "has stopped");
    for (program, why, remedy) in [
        ("no watchdog", never, "#[pollwatch::main]"),
        ("outside of a runtime", never, "Watchdog::builder().start()"),
        ("a handle that is dropped", stopped, "Keep what start() returns"),
        ("the current one is dropped", stopped, "Keep what start() returns"),
        ("another runtime", elsewhere, "Watchdog::attach"),
        ("the middleware of another framework", stopped, "Keep what start() returns"),
    ] {
        let warnings = warnings_of(program);
        assert_eq!(warnings.len(), 1, "{program}: {warnings:?}");
        let warning = &warnings[0];
        assert!(warning.contains(why) && warning.contains(remedy), "{program}: {warning}");
        assert!(warning.contains("tests/unwatched_layer.rs:"), "{program}: {warning}");
    }
    for program in ["watched", "the end of a service"] {
        assert_eq!(warnings_of(program), [""; 0], "{program}");
    }
}

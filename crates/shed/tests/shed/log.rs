//! The log lines at the first rejection and at the stop of shedding.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use http::{Request, Response};
use pollwatch::Watchdog;
use pollwatch_shed::{Shed, ShedLayer};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing_subscriber::fmt::MakeWriter;

use test_support::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// Returns the lines of the log. All tests of this program share one subscriber, because the
/// monitor thread logs.
fn log_lines() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(|| {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_env_filter("pollwatch::shed=info").with_ansi(false);
        subscriber.with_writer(lines.clone()).init();
        lines
    })
}

/// A runtime of one worker whose task keeps others waiting until it is dropped, and a service with
/// the layer.
struct Overload {
    watchdog: Watchdog,
    runtime: Runtime,
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Overload {
    fn new(name: &str) -> Overload {
        let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
        let runtime = watchdog.build_runtime(name, multi_thread(1)).unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                block(Duration::from_millis(15));
                yield_once().await;
            }
        });
        Overload { watchdog, runtime, stop, task }
    }

    /// Returns a layer whose service has had a request: lags are read from the first request on.
    fn requested_layer(&self) -> ShedLayer {
        let high = Duration::from_millis(5);
        let layer = Shed::new().high(high).low(high).sustain(Duration::ZERO).layer(&self.watchdog);
        self.runtime.block_on(service(&layer).oneshot(Request::new(()))).unwrap();
        layer
    }

    /// Makes requests until one is rejected.
    fn wait_rejected(&self, service: &(impl Service<Request<()>, Response = Response<()>, Error = io::Error> + Clone)) {
        wait_until("a request is rejected", || {
            let response = self.runtime.block_on(service.clone().oneshot(Request::new(())));
            response.unwrap().status() == 503
        });
    }
}

fn service(layer: &ShedLayer) -> impl Service<Request<()>, Response = Response<()>, Error = io::Error> + Clone + use<> {
    layer.layer(service_fn(async |_: Request<()>| Ok::<_, io::Error>(Response::new(()))))
}

/// Returns the line of a runtime with a level.
fn line(runtime: &str, level: &str) -> Option<String> {
    let text = String::from_utf8(lock(&log_lines().0).clone()).unwrap();
    let runtime = format!("{runtime:?}");
    text.lines().find(|line| line.contains(&runtime) && line.contains(level)).map(str::to_owned)
}

#[test]
fn first_rejection_and_stop_are_logged() {
    const NAME: &str = "shed log";
    log_lines();
    let overload = Overload::new(NAME);
    let layer = overload.requested_layer();
    overload.wait_rejected(&service(&layer));
    let start = wait_for("the first rejection is logged", || line(NAME, "WARN"));
    assert!(line(NAME, "INFO").is_none(), "it continues");
    drop(overload.stop);
    overload.runtime.block_on(overload.task).unwrap();
    let end = wait_for("the stop is logged", || line(NAME, "INFO"));
    assert!(end.contains("requests=1"), "{end}");
    // Spans would be printed between the level and the target.
    assert!(start.contains("WARN pollwatch::shed: requests are rejected") && start.contains("high_ms=5.0"), "{start}");
    assert!(end.contains("INFO pollwatch::shed: ") && end.contains("admitted again"), "{end}");
    drop(layer);
}

#[test]
fn the_stop_is_logged_when_the_last_service_goes() {
    const NAME: &str = "shed log of dropped services";
    log_lines();
    let overload = Overload::new(NAME);
    let layer = overload.requested_layer();
    let rejecting = service(&layer);
    drop(layer);
    overload.wait_rejected(&rejecting);
    wait_for("the first rejection is logged", || line(NAME, "WARN"));
    assert!(line(NAME, "INFO").is_none(), "a service is left");
    drop(rejecting);
    let end = wait_for("the stop is logged", || line(NAME, "INFO"));
    assert!(end.contains("INFO pollwatch::shed: ") && end.contains("admitted again"), "{end}");
    assert!(end.contains("requests=1"), "{end}");
    drop(overload.stop);
    overload.runtime.block_on(overload.task).unwrap();
}

/// Tasks of a runtime that computes wait, and nobody's request is rejected.
#[test]
fn a_late_runtime_without_requests_is_not_logged() {
    const NAME: &str = "shed log without requests";
    log_lines();
    let overload = Overload::new(NAME);
    let layer = overload.requested_layer();
    let late = || {
        let delay = overload.watchdog.lag(NAME)?.read()?.schedule_delay?.delay;
        (delay > Duration::from_millis(5)).then_some(())
    };
    wait_for("the runtime is late", late);
    // Shedding starts at the first late delay.
    std::thread::sleep(Duration::from_millis(200));
    assert!(line(NAME, "WARN").is_none());
    // The line is due, once a request is rejected.
    overload.wait_rejected(&service(&layer));
    wait_for("the first rejection is logged", || line(NAME, "WARN"));
    drop(overload.stop);
    overload.runtime.block_on(overload.task).unwrap();
}

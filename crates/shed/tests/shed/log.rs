//! The log lines at the start and at the stop of shedding.

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
        let runtime = watchdog.build_runtime(name, &mut multi_thread(1)).unwrap();
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
fn start_and_stop_are_logged() {
    const NAME: &str = "shed log";
    log_lines();
    let overload = Overload::new(NAME);
    let layer = overload.requested_layer();
    let start = wait_for("the start is logged", || line(NAME, "WARN"));
    assert!(line(NAME, "INFO").is_none(), "it continues");
    drop(overload.stop);
    overload.runtime.block_on(overload.task).unwrap();
    let end = wait_for("the stop is logged", || line(NAME, "INFO"));
    // Spans would be printed between the level and the target.
    assert!(start.contains("WARN pollwatch::shed: requests are rejected") && start.contains("high_ms=5.0"), "{start}");
    assert!(end.contains("INFO pollwatch::shed: ") && end.contains("admitted again"), "{end}");
    assert!(end.contains("requests=0"), "{end}");
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
    wait_for("the start is logged", || line(NAME, "WARN"));
    wait_until("a request is rejected", || {
        let response = overload.runtime.block_on(rejecting.clone().oneshot(Request::new(())));
        response.unwrap().status() == 503
    });
    assert!(line(NAME, "INFO").is_none(), "a service is left");
    drop(rejecting);
    let end = wait_for("the stop is logged", || line(NAME, "INFO"));
    assert!(end.contains("INFO pollwatch::shed: ") && end.contains("admitted again"), "{end}");
    assert!(end.contains("requests=1"), "{end}");
    drop(overload.stop);
    overload.runtime.block_on(overload.task).unwrap();
}

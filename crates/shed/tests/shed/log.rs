//! The log lines at the start and at the stop of shedding.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pollwatch::Watchdog;
use pollwatch_shed::Shed;
use tower::{Layer, ServiceExt, service_fn};
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

#[test]
fn start_and_stop_are_logged() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_env_filter("pollwatch::shed=info").with_ansi(false);
    subscriber.with_writer(lines.clone()).init();
    let watchdog = Watchdog::builder().threshold(THRESHOLD).log(false).start().unwrap();
    let runtime = watchdog.build_runtime("shed log", &mut multi_thread(1)).unwrap();
    let high = Duration::from_millis(5);
    let layer = Shed::new().high(high).low(high).sustain(Duration::ZERO).layer(&watchdog);
    // Shedding is decided while requests come in. This one never gets past its service's readiness.
    let service = layer.layer(service_fn(async |_: http::Request<()>| Ok::<_, io::Error>(http::Response::new(()))));
    runtime.block_on(async { service.clone().oneshot(http::Request::new(())).await.unwrap() });
    let line = |level: &str| {
        let text = String::from_utf8(lock(&lines.0).clone()).unwrap();
        text.lines().find(|line| line.contains("\"shed log\"") && line.contains(level)).map(str::to_owned)
    };
    let (stop, stopped) = mpsc::channel::<()>();
    let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            block(Duration::from_millis(15));
            yield_once().await;
        }
    });
    let start = wait_for("the start is logged", || line("WARN"));
    assert!(line("INFO").is_none(), "it continues");
    drop(stop);
    runtime.block_on(task).unwrap();
    let end = wait_for("the stop is logged", || line("INFO"));
    // Spans would be printed between the level and the target.
    assert!(start.contains("WARN pollwatch::shed: requests are rejected") && start.contains("high_ms=5.0"), "{start}");
    assert!(end.contains("INFO pollwatch::shed: ") && end.contains("admitted again"), "{end}");
    assert!(end.contains("requests=0"), "{end}");
    drop(service);
}

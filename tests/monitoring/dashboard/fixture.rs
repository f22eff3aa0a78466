//! A service that repeats everything that the dashboard shows.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use pollwatch::{Action, Watchdog, allow_blocking};
use pollwatch_shed::Shed;
use tokio::runtime::Runtime;

use test_support::watched::two_workers;

const BLOCK: Duration = Duration::from_millis(15);
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Fixture {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    load: Vec<thread::JoinHandle<()>>,
    _watchdog: Watchdog,
    _runtime: Runtime,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        // A watermark that any delay exceeds.
        let all = Shed::new().high(Duration::ZERO).sustain(Duration::ZERO);
        let builder = Watchdog::builder().log(false).track_delays(true).track_unpolled(true).collector(all.collector());
        // An action that is set has its series, also before an incident.
        let builder = builder.on_incident(Duration::from_secs(3600), Action::call(|_| {}));
        let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
        let runtime = two_workers(&watchdog, "main");
        let spawner = watchdog.clone();
        let app = Router::new()
            .route("/sleep", get(async || thread::sleep(BLOCK)))
            .route("/spawn", get(async move || drop(spawner.spawn(async { thread::sleep(BLOCK) }))))
            .route("/compute", get(async || compute()))
            .route("/fail", get(async || StatusCode::INTERNAL_SERVER_ERROR));
        let refusing = Router::new().route("/refused", get(async || thread::sleep(BLOCK)));
        let served = serve(&runtime, app.layer(watchdog.layer()));
        let refused = serve(&runtime, refusing.layer(all.layer(&watchdog)).layer(watchdog.layer()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Vec::new();
        for (addr, path) in
            [(served, "/sleep"), (served, "/spawn"), (served, "/compute"), (served, "/fail"), (refused, "/refused")]
        {
            let stop = stop.clone();
            load.push(thread::spawn(move || {
                let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
                while !stop.load(Ordering::Relaxed) {
                    let _ = agent.get(format!("http://{addr}{path}")).call();
                    thread::sleep(PAUSE);
                }
            }));
        }
        let (until, inside, dog) = (stop.clone(), runtime.handle().clone(), watchdog.clone());
        load.push(thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let _inside = inside.enter();
                let tasks = [
                    dog.spawn(async { std::panic::resume_unwind(Box::new("on purpose")) }),
                    dog.spawn(async { allow_blocking("on purpose", || thread::sleep(BLOCK)) }),
                    dog.spawn(async { compute() }),
                    dog.spawn(pending()),
                ];
                thread::sleep(10 * PAUSE);
                tasks.iter().for_each(|task| task.abort());
            }
        }));
        Fixture { addr: watchdog.local_addr().unwrap(), stop, load, _watchdog: watchdog, _runtime: runtime }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.load.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(runtime: &Runtime, app: Router) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, app).await });
    addr
}

fn compute() {
    let started = Instant::now();
    while started.elapsed() < BLOCK {
        std::hint::spin_loop();
    }
}

//! Threads that inject blocks one after the other, of every kind and in every shape, for durations
//! around the threshold.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use tokio::task::{AbortHandle, yield_now};
use tower::{ServiceBuilder, ServiceExt};

use super::fixture::Fixture;
use super::kinds::{Job, Kind, Wait};
use super::poll_recorder::{RecordedRequest, lock};
use super::rng::Rng;
use super::unwatched::LONG_COMPUTATION;

/// The code that a block is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A task.
    Plain,
    /// A task of `Watchdog::spawn`, after some short polls.
    Later,
    /// A watched future within a task.
    Part,
    /// A request below the layer.
    Request,
    /// Two requests in one poll, of which each may be too short by itself.
    Requests,
    /// One of several futures in a `FuturesUnordered`.
    Unordered,
    /// A branch of `select!`.
    Select,
    /// A task that is aborted during the block.
    Aborted,
    /// A task that panics after the block.
    Panics,
    /// The root future. It occupies the event loop of a current-thread runtime, and otherwise no
    /// worker.
    Root,
}

const SHAPES: [Shape; 12] = [
    Shape::Plain,
    Shape::Plain,
    Shape::Later,
    Shape::Part,
    Shape::Request,
    Shape::Request,
    Shape::Requests,
    Shape::Unordered,
    Shape::Select,
    Shape::Aborted,
    Shape::Panics,
    Shape::Root,
];

/// The shapes in which pollwatch measures nothing.
const UNWATCHED: [Shape; 8] = [
    Shape::Plain,
    Shape::Plain,
    Shape::Later,
    Shape::Unordered,
    Shape::Select,
    Shape::Aborted,
    Shape::Panics,
    Shape::Root,
];

/// A limit on the number of blocks that compute at one time, which leaves a CPU to everything else.
struct Computing {
    now: AtomicUsize,
    most: usize,
}

impl Computing {
    fn enter(&self) -> bool {
        let free = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.most).then_some(n + 1));
        free.is_ok()
    }
}

/// Injects blocks for some time, on several threads, and returns when all blocks have ended.
pub(crate) fn inject(fixture: &Arc<Fixture>, time: Duration, seed: u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let computing = Computing { now: AtomicUsize::new(0), most: (cpus - 1).max(1) };
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for i in 0..fixture.mode.workers() + 1 {
            let mut injector = Injector { fixture, computing: &computing, rng: Rng::new(seed + i as u64) };
            scope.spawn(move || {
                while Instant::now() < end {
                    injector.one();
                }
            });
        }
    });
}

struct Injector<'a> {
    fixture: &'a Arc<Fixture>,
    computing: &'a Computing,
    rng: Rng,
}

impl Injector<'_> {
    fn one(&mut self) {
        let unwatched = self.fixture.mode.is_unwatched();
        let shape = self.rng.one_of(if unwatched { &UNWATCHED[..] } else { &SHAPES });
        let mut kind = self.rng.one_of(&Kind::ALL);
        let computes = kind == Kind::Computes && self.computing.enter();
        if kind == Kind::Computes && !computes {
            kind = Kind::Sleeps;
        }
        match shape {
            // Each of the two requests is about as long as the threshold, or clearly shorter.
            Shape::Requests => {
                let share = self.rng.between(0.5, 1.3);
                self.block(shape, kind, share, 2);
            }
            _ => {
                let share = match computes && unwatched && self.rng.below(12) == 0 {
                    // A shorter computation need not be reported.
                    true => self.rng.between(LONG_COMPUTATION as f64, 1.5 * LONG_COMPUTATION as f64),
                    false => self.rng.thresholds(),
                };
                self.block(shape, kind, share, 1);
            }
        }
        if computes {
            self.computing.now.fetch_sub(1, Ordering::Relaxed);
        }
        let gap = self.fixture.threshold as f64 * self.rng.between(0.0, 0.4);
        std::thread::sleep(Duration::from_nanos(gap as u64));
    }

    /// Starts one task with its blocks. This thread releases each of them after its time.
    fn block(&mut self, shape: Shape, kind: Kind, thresholds: f64, count: usize) {
        let time = Duration::from_nanos((self.fixture.threshold as f64 * thresholds) as u64);
        let (started, started_at) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let mut held = Some(lock(&gate));
        let (mut jobs, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let wait = match kind {
                Kind::Computes | Kind::Sleeps => Wait::Itself(time),
                Kind::Locks => Wait::Lock(gate.clone()),
                Kind::ReadsPipe => {
                    let (read, write) = std::io::pipe().expect("a pipe");
                    ends.push(End::Pipe(write));
                    Wait::Pipe(read)
                }
                Kind::ReadsSocket => {
                    let (read, write) = UnixStream::pair().expect("sockets");
                    ends.push(End::Socket(write));
                    Wait::Socket(read)
                }
            };
            jobs.push(Job { kind, wait, started: started.clone() });
        }
        drop(started);
        let (done, is_done) = mpsc::channel();
        let task = self.start(shape, kind, jobs, done);
        ends.reverse();
        while started_at.recv().is_ok() {
            if let Some(task) = task.as_ref().filter(|_| shape == Shape::Aborted) {
                task.abort();
            }
            if kind != Kind::Computes && kind != Kind::Sleeps {
                std::thread::sleep(time);
                drop(ends.pop());
                drop(held.take());
            }
        }
        // The task, and with it the sender, has been dropped.
        let _ = is_done.recv();
    }

    fn start(&mut self, shape: Shape, kind: Kind, mut jobs: Vec<Job>, done: Sender<()>) -> Option<AbortHandle> {
        let fixture = self.fixture.clone();
        let job = jobs.pop().expect("one at least");
        let yields = self.rng.below(4);
        Some(match shape {
            Shape::Root => {
                fixture.run_in_root(job);
                return None;
            }
            Shape::Plain | Shape::Aborted => self.spawn(kind, false, async move {
                let _done = done;
                job.run();
                // An abort takes effect here at the latest.
                yield_now().await;
            }),
            Shape::Later => self.spawn(kind, true, async move {
                let _done = done;
                for _ in 0..yields {
                    yield_now().await;
                }
                job.run();
                for _ in 0..yields {
                    yield_now().await;
                }
            }),
            Shape::Part => self.spawn(kind, true, async move {
                let _done = done;
                yield_now().await;
                fixture.watchdog.watch(async { job.run() }).await;
            }),
            Shape::Request => self.spawn(kind, yields == 0, async move {
                let _done = done;
                request(&fixture, job).await;
                yield_now().await;
            }),
            Shape::Requests => self.spawn(kind, false, async move {
                let _done = done;
                let other = jobs.pop().expect("two");
                tokio::join!(request(&fixture, job), request(&fixture, other));
            }),
            Shape::Unordered => self.spawn(kind, false, async move {
                let _done = done;
                let mut job = Some(job);
                let parts = (0..3).map(|i| {
                    let job = if i == 1 { job.take() } else { None };
                    async move {
                        tokio::time::sleep(Duration::from_micros(200 * (i + 1))).await;
                        if let Some(job) = job {
                            job.run();
                        }
                    }
                });
                let mut parts: FuturesUnordered<_> = parts.collect();
                while parts.next().await.is_some() {}
            }),
            Shape::Select => self.spawn(kind, false, async move {
                let _done = done;
                let block = async {
                    yield_now().await;
                    job.run();
                };
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = block => {}
                }
            }),
            Shape::Panics => self.spawn(kind, yields == 0, async move {
                let _done = done;
                job.run();
                // Panics without the message of a panic.
                std::panic::resume_unwind(Box::new("on purpose"));
            }),
        })
    }

    /// Spawns at a site of its own for each kind.
    fn spawn(&self, kind: Kind, through: bool, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        match kind {
            Kind::Computes => self.fixture.spawn(through, future),
            Kind::Sleeps => self.fixture.spawn(through, future),
            Kind::Locks => self.fixture.spawn(through, future),
            Kind::ReadsPipe => self.fixture.spawn(through, future),
            Kind::ReadsSocket => self.fixture.spawn(through, future),
        }
    }
}

/// The end of a pipe or socket. Dropping it ends a read at the other end.
#[allow(dead_code, reason = "for its drop")]
enum End {
    Pipe(std::io::PipeWriter),
    Socket(UnixStream),
}

/// A request whose handler blocks.
async fn request(fixture: &Fixture, job: Job) {
    let uri = format!("{}/{}", job.kind.route(), 7);
    let named =
        |parts: &http::request::Parts| parts.uri.path().rsplit_once('/').map(|(route, _)| route.to_owned().into());
    let handler = |request: Request<Job>| async move {
        yield_now().await;
        request.into_body().run();
        Ok::<_, Infallible>(Response::new(()))
    };
    let service = ServiceBuilder::new().layer(fixture.watchdog.layer().route_by(named)).service_fn(handler);
    let request = Request::get(uri).body(job).expect("a request");
    let _ = RecordedRequest { inner: service.oneshot(request) }.await;
}

//! Threads that inject blocks, one after the other: of every kind, in every shape, for durations around the threshold.

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

use super::fixture::Scene;
use super::kinds::{Job, Kind, Wait};
use super::poll_recorder::{Requested, lock};
use super::rng::Draw;
use super::unwatched::COMPUTES;

/// How the block comes into its poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// In a task.
    Plain,
    /// In a task of `Watchdog::spawn`, after some short polls.
    Later,
    /// In a watched future within a task.
    Part,
    /// In a request below the layer.
    Request,
    /// Two requests in one poll, each too short by itself or not.
    Requests,
    /// Among others in a `FuturesUnordered`.
    Unordered,
    /// In a branch of `select!`.
    Select,
    /// In a task that is aborted meanwhile.
    Aborted,
    /// In a task that panics then.
    Panics,
    /// In the root of the runtime: of a current-thread one it blocks the loop, else it is on no worker.
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

/// Those of tasks of which pollwatch measures no part.
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

/// Blocks that compute, at most at a time: one CPU is left to everybody else.
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

/// Injects for some time, on several threads; returns when all blocks are over.
pub(crate) fn inject(scene: &Arc<Scene>, time: Duration, seed: u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let computing = Computing { now: AtomicUsize::new(0), most: (cpus - 1).max(1) };
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for i in 0..scene.mode.workers() + 1 {
            let mut injector = Injector { scene, computing: &computing, draw: Draw::new(seed + i as u64) };
            scope.spawn(move || {
                while Instant::now() < end {
                    injector.one();
                }
            });
        }
    });
}

struct Injector<'a> {
    scene: &'a Arc<Scene>,
    computing: &'a Computing,
    draw: Draw,
}

impl Injector<'_> {
    fn one(&mut self) {
        let unwatched = self.scene.mode.is_unwatched();
        let shape = self.draw.one_of(if unwatched { &UNWATCHED[..] } else { &SHAPES });
        let mut kind = self.draw.one_of(&Kind::ALL);
        let computes = kind == Kind::Computes && self.computing.enter();
        if kind == Kind::Computes && !computes {
            kind = Kind::Sleeps;
        }
        match shape {
            // Each of two about as long as the threshold, or clearly shorter.
            Shape::Requests => {
                let share = self.draw.between(0.5, 1.3);
                self.block(shape, kind, share, 2);
            }
            _ => {
                let share = match computes && unwatched && self.draw.below(12) == 0 {
                    // Less is not told.
                    true => self.draw.between(COMPUTES as f64, 1.5 * COMPUTES as f64),
                    false => self.draw.thresholds(),
                };
                self.block(shape, kind, share, 1);
            }
        }
        if computes {
            self.computing.now.fetch_sub(1, Ordering::Relaxed);
        }
        let gap = self.scene.threshold as f64 * self.draw.between(0.0, 0.4);
        std::thread::sleep(Duration::from_nanos(gap as u64));
    }

    /// One task with its blocks; this thread lets each of them go on when its time has come.
    fn block(&mut self, shape: Shape, kind: Kind, thresholds: f64, count: usize) {
        let time = Duration::from_nanos((self.scene.threshold as f64 * thresholds) as u64);
        let (go, began) = mpsc::channel();
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
            jobs.push(Job { kind, wait, go: go.clone() });
        }
        drop(go);
        let (done, is_done) = mpsc::channel();
        let task = self.start(shape, kind, jobs, done);
        ends.reverse();
        while began.recv().is_ok() {
            if let Some(task) = task.as_ref().filter(|_| shape == Shape::Aborted) {
                task.abort();
            }
            if kind != Kind::Computes && kind != Kind::Sleeps {
                std::thread::sleep(time);
                drop(ends.pop());
                drop(held.take());
            }
        }
        // An end: the task, and with it the sender, is gone.
        let _ = is_done.recv();
    }

    fn start(&mut self, shape: Shape, kind: Kind, mut jobs: Vec<Job>, done: Sender<()>) -> Option<AbortHandle> {
        let scene = self.scene.clone();
        let job = jobs.pop().expect("one at least");
        let yields = self.draw.below(4);
        Some(match shape {
            Shape::Root => {
                scene.run_in_root(job);
                return None;
            }
            Shape::Plain | Shape::Aborted => self.spawn(kind, false, async move {
                let _done = done;
                job.run();
                // An abort comes true at the latest here.
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
                scene.watchdog.watch(async { job.run() }).await;
            }),
            Shape::Request => self.spawn(kind, yields == 0, async move {
                let _done = done;
                request(&scene, job).await;
                yield_now().await;
            }),
            Shape::Requests => self.spawn(kind, false, async move {
                let _done = done;
                let other = jobs.pop().expect("two");
                tokio::join!(request(&scene, job), request(&scene, other));
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
                // As a panic does, but without its message.
                std::panic::resume_unwind(Box::new("on purpose"));
            }),
        })
    }

    /// A place for each kind.
    fn spawn(&self, kind: Kind, through: bool, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        match kind {
            Kind::Computes => self.scene.spawn(through, future),
            Kind::Sleeps => self.scene.spawn(through, future),
            Kind::Locks => self.scene.spawn(through, future),
            Kind::ReadsPipe => self.scene.spawn(through, future),
            Kind::ReadsSocket => self.scene.spawn(through, future),
        }
    }
}

/// Dropped, it ends a read at the other end.
#[allow(dead_code, reason = "for its drop")]
enum End {
    Pipe(std::io::PipeWriter),
    Socket(UnixStream),
}

/// A request whose handler blocks.
async fn request(scene: &Scene, job: Job) {
    let uri = format!("{}/{}", job.kind.route(), 7);
    let named =
        |parts: &http::request::Parts| parts.uri.path().rsplit_once('/').map(|(route, _)| route.to_owned().into());
    let handler = |request: Request<Job>| async move {
        yield_now().await;
        request.into_body().run();
        Ok::<_, Infallible>(Response::new(()))
    };
    let service = ServiceBuilder::new().layer(scene.watchdog.layer().route_by(named)).service_fn(handler);
    let request = Request::get(uri).body(job).expect("a request");
    let _ = Requested { inner: service.oneshot(request) }.await;
}

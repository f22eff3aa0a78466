//! The injector: threads that block workers of a runtime, one block after the other, and write
//! down what they did.

use std::any::Any;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use attach_lab::rng::Rng;
use attach_lab::truth::{Block, Kind, UnixNanos};
use tokio::runtime::Handle;

use crate::kinds::{self, Wait};
use crate::{Options, ready, runtime};

/// The file with the ground truth, and what all injectors share.
struct Shared {
    truth: Option<Mutex<BufWriter<File>>>,
    /// One block computes at a time, so that the machine has a CPU for everything else.
    is_computing: AtomicBool,
    end: Instant,
}

/// Injects blocks for some time.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let truth = options.truth.as_ref().map(File::create).transpose()?;
    let runtime = runtime(options);
    background(runtime.handle());
    ready(std::process::id());
    if options.waits {
        io::stdin().read_line(&mut String::new())?;
    }
    let shared = Shared {
        truth: truth.map(|file| Mutex::new(BufWriter::new(file))),
        is_computing: AtomicBool::new(false),
        end: Instant::now() + options.time,
    };
    std::thread::scope(|scope| {
        for i in 0..options.workers + 1 {
            let mut injector = Injector {
                options,
                handle: runtime.handle(),
                shared: &shared,
                rng: Rng::new(options.seed * 1000 + i as u64),
            };
            scope.spawn(move || injector.run());
        }
    });
    runtime.shutdown_background();
    match &shared.truth {
        Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).flush(),
        None => Ok(()),
    }
}

/// Short polls: timers, and two tasks that wake each other.
fn background(handle: &Handle) {
    for millis in [1, 3, 7] {
        handle.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(millis));
            loop {
                ticks.tick().await;
            }
        });
    }
    let (ping, mut pings) = tokio::sync::mpsc::channel::<()>(1);
    let (pong, mut pongs) = tokio::sync::mpsc::channel::<()>(1);
    handle.spawn(async move {
        while ping.send(()).await.is_ok() && pongs.recv().await.is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    handle.spawn(async move { while pings.recv().await.is_some() && pong.send(()).await.is_ok() {} });
}

struct Injector<'a> {
    options: &'a Options,
    handle: &'a Handle,
    shared: &'a Shared,
    rng: Rng,
}

impl Injector<'_> {
    fn run(&mut self) {
        while Instant::now() < self.shared.end {
            let kind = self.choose();
            let is_computing = kind == Kind::Computes;
            // Of 100, 35 last 0.2 to 0.9 thresholds, 25 last 0.95 to 1.1, 30 last 1.2 to 4, and 10
            // last 5 to 20.
            let thresholds = match self.rng.below(100) {
                0..35 => self.rng.between(0.2, 0.9),
                35..60 => self.rng.between(0.95, 1.1),
                60..90 => self.rng.between(1.2, 4.0),
                _ => self.rng.between(5.0, 20.0),
            };
            self.inject(kind, self.options.threshold.mul_f64(thresholds));
            if is_computing {
                self.shared.is_computing.store(false, Ordering::Relaxed);
            }
            std::thread::sleep(self.options.threshold.mul_f64(self.rng.between(0.0, 1.0)));
        }
    }

    fn choose(&mut self) -> Kind {
        let kind = match self.options.kind {
            Some(kind) => kind,
            None if self.options.is_pool_busy && self.rng.below(3) == 0 => Kind::HARMLESS[self.rng.below(2)],
            None => Kind::BLOCKING[self.rng.below(Kind::BLOCKING.len())],
        };
        let is_taken = kind == Kind::Computes && self.shared.is_computing.swap(true, Ordering::Relaxed);
        if is_taken { Kind::Sleeps } else { kind }
    }

    /// Runs one block in a task, releases it after its time, and writes it down when it has ended.
    fn inject(&mut self, kind: Kind, time: Duration) {
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let (wait, release): (Wait, Option<Box<dyn Any>>) = match kind {
            Kind::Computes | Kind::Sleeps | Kind::InPlace | Kind::Pool => (Wait::Itself(time), None),
            Kind::Locks => (Wait::Lock(gate.clone()), None),
            Kind::Receives => {
                let (sender, receiver) = mpsc::channel();
                (Wait::Channel(receiver), Some(Box::new(sender)))
            }
            Kind::ReadsPipe => {
                let (reader, writer) = io::pipe().expect("a pipe");
                (Wait::Pipe(reader), Some(Box::new(writer)))
            }
            Kind::ReadsSocket => {
                let (reader, writer) = UnixStream::pair().expect("sockets");
                (Wait::Socket(reader), Some(Box::new(writer)))
            }
        };
        let is_released = !matches!(wait, Wait::Itself(_));
        let (started, is_started): (Sender<()>, Receiver<()>) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let block = move || drop(done.send(observed(kind, wait, &started)));
        match kind {
            Kind::Pool => drop(self.handle.spawn_blocking(block)),
            _ => drop(self.handle.spawn(async move { block() })),
        }
        if is_started.recv().is_ok() && is_released {
            std::thread::sleep(time);
        }
        drop(release);
        drop(held);
        if let (Ok(block), Some(file)) = (is_done.recv(), &self.shared.truth) {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // The file is checked when it is flushed at the end.
            drop(writeln!(file, "{block}"));
        }
    }
}

/// Blocks this thread, and returns what it did.
fn observed(kind: Kind, wait: Wait, started: &Sender<()>) -> Block {
    let _ = started.send(());
    let before = own_run_delay();
    let start = UnixNanos::now();
    let line = match (kind, wait) {
        (Kind::Computes, Wait::Itself(time)) => kinds::computes(time),
        (Kind::InPlace, Wait::Itself(time)) => kinds::in_place(time),
        (Kind::Pool, Wait::Itself(time)) => kinds::pool(time),
        (_, Wait::Itself(time)) => kinds::sleeps(time),
        (_, Wait::Lock(gate)) => kinds::locks(&gate),
        (_, Wait::Channel(channel)) => kinds::receives(&channel),
        (_, Wait::Pipe(pipe)) => kinds::reads_pipe(pipe),
        (_, Wait::Socket(socket)) => kinds::reads_socket(socket),
    };
    let end = UnixNanos::now();
    let run_delay = own_run_delay().saturating_sub(before);
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    Block { kind, thread, line, start, end, run_delay }
}

/// Returns the time that this thread has waited for a CPU, in nanoseconds.
fn own_run_delay() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

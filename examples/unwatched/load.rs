//! Blocks of known kind and length, in tasks of plain `tokio::spawn`, and all else that a service does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::truth::{Journal, Kind, Noted, lock, note};

pub(crate) struct Load {
    pub(crate) journal: Arc<Journal>,
    pub(crate) threshold: Duration,
    pub(crate) time: Duration,
    pub(crate) workers: usize,
    pub(crate) pool: bool,
}

/// Numbers that look random.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Shorter than the threshold, at it, above it, far above it.
    fn time(&mut self, threshold: Duration) -> Duration {
        let percent = match self.below(8) {
            0..=2 => 5 + self.below(90),
            3..=4 => 95 + self.below(60),
            5..=6 => 155 + self.below(245),
            _ => 400 + self.below(1_600),
        };
        threshold * percent as u32 / 100
    }
}

impl Load {
    pub(crate) async fn run(&self) {
        let mut tasks = Vec::new();
        for i in 0..self.workers as u64 * 2 {
            tasks.push(self.spawn(blocks(Draw(i + 1), self.threshold, self.time)));
        }
        tasks.push(self.spawn(computes(Draw(77), self.threshold, self.time)));
        for short in [200, 500, 2_000] {
            tasks.push(self.spawn(short_polls(Duration::from_micros(short), self.time)));
        }
        tasks.push(self.spawn(ping_pong(self.time)));
        if self.pool {
            tasks.push(self.spawn(in_place(Draw(99), self.threshold, self.time)));
            tasks.push(self.spawn(off_the_workers(Draw(111), self.threshold, self.time)));
        }
        for task in tasks {
            task.await.expect("no task panics");
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(Noted { future: Box::pin(future), journal: self.journal.clone() })
    }
}

async fn blocks(mut draw: Draw, threshold: Duration, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let length = draw.time(threshold);
        match draw.below(3) {
            0 => measured(Kind::Sleeps, || std::thread::sleep(length)),
            1 => locks(length),
            _ => reads_socket(length),
        }
        // The poll ends with its block.
        tokio::time::sleep(Duration::from_millis(1 + draw.below(40))).await;
    }
}

fn measured(kind: Kind, block: impl FnOnce()) {
    let begin = Instant::now();
    block();
    note(kind, begin.elapsed());
}

/// Somebody else lets it go on.
fn locks(length: Duration) {
    let mutex = Mutex::new(());
    let (locked, is_locked) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let guard = lock(&mutex);
            locked.send(()).ok();
            std::thread::sleep(length);
            drop(guard);
        });
        is_locked.recv().ok();
        measured(Kind::Locks, || drop(lock(&mutex)));
    });
}

fn reads_socket(length: Duration) {
    let Ok((mut here, mut there)) = UnixStream::pair() else { return };
    let writes = std::thread::spawn(move || {
        std::thread::sleep(length);
        there.write_all(b"x").ok();
    });
    measured(Kind::ReadsSocket, || drop(here.read_exact(&mut [0])));
    writes.join().ok();
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A few long ones, each seldom enough to leave a CPU to the rest.
async fn computes(mut draw: Draw, threshold: Duration, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let length = threshold * (5 + draw.below(40) as u32);
        measured(Kind::Computes, || spin(length));
        tokio::time::sleep(Duration::from_millis(200 + draw.below(400))).await;
    }
}

/// Bursts of short polls without an end in sight.
async fn short_polls(poll: Duration, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let burst = Instant::now();
        while burst.elapsed() < Duration::from_millis(150) {
            spin(poll);
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

async fn ping_pong(time: Duration) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let begin = Instant::now();
    let (mut here, mut there) = tokio::io::duplex(64);
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        while there.read_exact(&mut byte).await.is_ok() && there.write_all(&byte).await.is_ok() {}
    });
    let mut byte = [1];
    while begin.elapsed() < time {
        for _ in 0..50 {
            here.write_all(&byte).await.expect("it echoes");
            here.read_exact(&mut byte).await.expect("it echoes");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(here);
    echo.await.expect("it does not panic");
}

/// Blocks that hand their worker on.
async fn in_place(mut draw: Draw, threshold: Duration, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let length = draw.time(threshold);
        tokio::task::block_in_place(|| measured(Kind::InPlace, || std::thread::sleep(length)));
        tokio::time::sleep(Duration::from_millis(50 + draw.below(300))).await;
    }
}

/// Blocks on no worker.
async fn off_the_workers(mut draw: Draw, threshold: Duration, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let length = draw.time(threshold) * 2;
        tokio::task::spawn_blocking(move || std::thread::sleep(length)).await.expect("it does not panic");
        tokio::time::sleep(Duration::from_millis(50 + draw.below(300))).await;
    }
}

//! Measures the cost of a park and an unpark of a worker: bare, with callbacks that do nothing, and
//! with those of pollwatch (stable mode).
//!
//! `RUSTFLAGS="" cargo bench --bench park_overhead`; `-- --quick` only checks that the
//! bench runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// A runtime whose one worker parks after each message.
struct Variant {
    name: &'static str,
    send: mpsc::UnboundedSender<()>,
    answered: Arc<AtomicU64>,
    nanos: Vec<f64>,
    runtime: Runtime,
}

impl Variant {
    fn new(name: &'static str, runtime: Runtime) -> Variant {
        let (send, mut receive) = mpsc::unbounded_channel();
        let answered = Arc::new(AtomicU64::new(0));
        let count = answered.clone();
        runtime.spawn(async move {
            while receive.recv().await.is_some() {
                count.fetch_add(1, Ordering::Release);
            }
        });
        Variant { name, send, answered, nanos: Vec::new(), runtime }
    }

    /// Sends one message at a time. Each unparks the worker, which parks again before the next.
    fn round(&mut self, messages: u64) {
        let metrics = self.runtime.metrics();
        let start = Instant::now();
        for _ in 0..messages {
            let (before, parks) = (self.answered.load(Ordering::Acquire), metrics.worker_park_count(0));
            self.send.send(()).expect("the task receives");
            while self.answered.load(Ordering::Acquire) == before || metrics.worker_park_count(0) == parks {
                std::hint::spin_loop();
            }
        }
        self.nanos.push(start.elapsed().as_nanos() as f64 / messages as f64);
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    builder
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|word| word == "--quick" || word == "--test");
    let (rounds, messages) = if quick { (3, 200) } else { (101, 4_000) };
    let watchdog = Watchdog::builder().log(false).start().expect("it starts");
    let mut empty = builder();
    empty.on_thread_start(|| {}).on_thread_stop(|| {}).on_thread_park(|| {}).on_thread_unpark(|| {});
    let mut variants = [
        Variant::new("bare", builder().build().expect("it is built")),
        Variant::new("callbacks that do nothing", empty.build().expect("it is built")),
        Variant::new("pollwatch", watchdog.build_runtime("main", builder()).expect("it is built")),
    ];
    for _ in 0..rounds {
        variants.iter_mut().for_each(|variant| variant.round(messages));
    }
    println!(
        "mode: {}, {rounds} rounds of {messages} messages, medians\n",
        if cfg!(tokio_unstable) { "tokio_unstable" } else { "stable" }
    );
    println!("| variant | ns per message, with one unpark and one park | added to bare |");
    println!("|---|---|---|");
    let bare = variants[0].nanos.clone();
    for variant in &variants {
        // Variants are compared within a round.
        let added = variant.nanos.iter().zip(&bare).map(|(here, bare)| here - bare).collect();
        println!("| {} | {:.0} | {:.0} |", variant.name, median(variant.nanos.clone()), median(added));
    }
}

//! Compares the cost that pollwatch and other crates that observe a runtime add to a poll. Each
//! variant runs in a process of its own, since a subscriber is global. The feature `tracing` of
//! tokio, which two of them need, is enabled for all.
//!
//! `cargo run --release --manifest-path lab/compare/Cargo.toml -p compare-polls -- [rounds]`

use std::process::Command;
use std::time::{Duration, Instant};

use dial9::{Dial9HandleTokioExt, DiskBuffer, TokioAttachOptions};
use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};
use tokio_blocked::TokioBlockedLayer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const TASKS: u32 = 16;
const POLLS: u32 = 400_000;
const VARIANTS: [&str; 5] = ["bare", "pollwatch, hooks", "dial9", "tokio-blocked", "console-subscriber"];

fn main() {
    let arg = std::env::args().nth(1);
    if let Some(variant) = arg.as_deref().filter(|arg| VARIANTS.contains(arg)) {
        return println!("{}", measure(variant));
    }
    let rounds: usize = arg.map_or(7, |rounds| rounds.parse().expect("a number of rounds"));
    let this = std::env::current_exe().expect("its own path");
    let mut nanos = vec![Vec::new(); VARIANTS.len()];
    for round in 0..rounds {
        for turn in 0..VARIANTS.len() {
            let at = (round + turn) % VARIANTS.len();
            let output = Command::new(&this).arg(VARIANTS[at]).output().expect("the variant runs");
            let text = String::from_utf8_lossy(&output.stdout);
            let value = text.trim().parse::<f64>();
            nanos[at]
                .push(value.unwrap_or_else(|_| {
                    panic!("{}: {text} {}", VARIANTS[at], String::from_utf8_lossy(&output.stderr))
                }));
        }
    }
    let added = |at: usize| median(nanos[at].iter().zip(&nanos[0]).map(|(this, bare)| this - bare).collect());
    println!("| variant | ns per poll | added to bare | pollwatch's hooks add, of that |\n|---|---|---|---|");
    for (at, variant) in VARIANTS.iter().enumerate() {
        let ns = median(nanos[at].clone());
        match at {
            0 => println!("| {variant} | {ns:.0} | - | - |"),
            1 => println!("| {variant} | {ns:.0} | {:.0} | - |", added(at)),
            _ => println!("| {variant} | {ns:.0} | {:.0} | 1/{:.1} |", added(at), added(at) / added(1)),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the nanoseconds per poll of tasks that only yield.
fn measure(variant: &str) -> f64 {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all();
    match variant {
        "pollwatch, hooks" => {
            let watchdog = Watchdog::builder().log(false).start().expect("a watchdog");
            polls(&watchdog.build_runtime("main", builder).expect("a runtime"))
        }
        "dial9" => {
            let folder = std::env::temp_dir().join(format!("others-bench-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            let buffer = DiskBuffer::builder().base_path(&folder).max_file_size(1 << 20).max_total_size(8 << 20);
            let recorder = dial9::recorder(buffer.build().expect("a buffer")).build();
            let runtime = recorder.handle().attach_tokio_runtime(builder, TokioAttachOptions::default());
            let nanos = polls(&runtime.expect("a runtime"));
            drop(recorder);
            let _ = std::fs::remove_dir_all(folder);
            nanos
        }
        "tokio-blocked" => {
            let layer = TokioBlockedLayer::new().with_warn_busy_single_poll(Some(Duration::from_millis(10)));
            tracing_subscriber::registry().with(layer).init();
            polls(&builder.build().expect("a runtime"))
        }
        "console-subscriber" => {
            let layer = console_subscriber::ConsoleLayer::builder().server_addr(([127, 0, 0, 1], 0)).spawn();
            tracing_subscriber::registry().with(layer).init();
            polls(&builder.build().expect("a runtime"))
        }
        _ => polls(&builder.build().expect("a runtime")),
    }
}

fn polls(runtime: &Runtime) -> f64 {
    let run = |polls: u32| {
        let begin = Instant::now();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                runtime.spawn(async move {
                    for _ in 0..polls / TASKS {
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.expect("the task ends");
            }
        });
        begin.elapsed().as_nanos() as f64 / f64::from(polls)
    };
    run(POLLS / 10);
    run(POLLS)
}

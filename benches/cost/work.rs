//! Measures operations of more than one poll, and compares them with a bare runtime.

use std::time::Instant;

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Size, median};

type Work = fn(&Runtime, u32);

pub(crate) fn run(size: Size) {
    let watchdog = Watchdog::builder().log(false).start().expect("a watchdog");
    let multi_thread = |workers| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        builder
    };
    let works: [(&str, usize, u32, Work); 3] = [
        ("spawn and join a task", 1, size.of(100, 20_000), spawn_and_join),
        ("a message there and back, two tasks", 1, size.of(100, 20_000), ping_pong),
        ("a poll, 1,000 tasks on 2 workers", 2, size.of(2_000, 200_000), many_tasks),
    ];
    println!("\n| work | bare, ns | with hooks or wrapped, ns | of bare |\n|---|---|---|---|");
    for (name, workers, times, work) in works {
        let bare = multi_thread(workers).build().expect("a runtime");
        let watched = watchdog.build_runtime(name, multi_thread(workers)).expect("a runtime");
        let nanos = |runtime: &Runtime| {
            let start = Instant::now();
            work(runtime, times);
            start.elapsed().as_nanos() as f64 / f64::from(times)
        };
        nanos(&bare);
        nanos(&watched);
        let rounds = size.of(2, 41);
        let samples: Vec<[f64; 2]> = (0..rounds)
            .map(|round| {
                if round % 2 == 0 {
                    [nanos(&bare), nanos(&watched)]
                } else {
                    let w = nanos(&watched);
                    [nanos(&bare), w]
                }
            })
            .collect();
        let of = |f: fn(&[f64; 2]) -> f64| median(samples.iter().map(f).collect());
        println!("| {name} | {:.0} | {:.0} | {:.2} |", of(|s| s[0]), of(|s| s[1]), of(|s| s[1] / s[0]));
    }
}

fn spawn_and_join(runtime: &Runtime, times: u32) {
    runtime.block_on(async {
        let all = tokio::spawn(async move {
            for _ in 0..times {
                tokio::spawn(async {}).await.expect("it ends");
            }
        });
        all.await.expect("it ends");
    });
}

fn ping_pong(runtime: &Runtime, times: u32) {
    runtime.block_on(async {
        let (there, mut arrives) = mpsc::channel::<u32>(1);
        let (back, mut returns) = mpsc::channel::<u32>(1);
        let echo = tokio::spawn(async move {
            while let Some(message) = arrives.recv().await {
                if back.send(message).await.is_err() {
                    break;
                }
            }
        });
        let sends = tokio::spawn(async move {
            for message in 0..times {
                there.send(message).await.expect("the echo task receives");
                returns.recv().await.expect("the message returns");
            }
        });
        sends.await.expect("it ends");
        echo.await.expect("it ends");
    });
}

fn many_tasks(runtime: &Runtime, times: u32) {
    const TASKS: u32 = 1_000;
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for _ in 0..TASKS {
            all.spawn(async move {
                for _ in 0..times / TASKS {
                    tokio::task::yield_now().await;
                }
            });
        }
        all.join_all().await;
    });
}

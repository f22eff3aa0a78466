//! The symptom: some requests take long, the CPU is idle, and a profiler shows nothing. A task
//! waits inside a poll.
//!
//! `cargo run --release --example blocked` blocks a worker in the four usual ways, one after the
//! other. `-- sleep`, `file`, `lock` or `dns` does only one of them, `-- sleep 2000` for 2,000 ms.
//! The log names the function and the line while the worker is still blocked, says what it waits
//! for, and what to do instead.

mod late;

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;

/// The time for which each task blocks, unless another one is given.
const TIME: Duration = Duration::from_millis(600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().without_time().init();
    let watchdog = Watchdog::builder().start()?;
    let runtime = watchdog.runtime("main").enable_all().build()?;
    println!("stacks: {}", watchdog.coverage().stacks);
    let (times, wanted): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.parse::<u64>().is_ok());
    let time = times.iter().flat_map(|millis| millis.parse()).next_back().map_or(TIME, Duration::from_millis);
    for block in ["sleep", "file", "lock", "dns"] {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == block) {
            continue;
        }
        println!("\n{block}:");
        let start = Instant::now();
        runtime.block_on(async {
            match block {
                "sleep" => watchdog.spawn(sleeps(time)).await,
                "file" => watchdog.spawn(reads_a_file(late::file(time).expect("a FIFO"))).await,
                "lock" => watchdog.spawn(waits_for_a_lock(time)).await,
                _ => watchdog.spawn(looks_a_name_up(time)).await,
            }
        })?;
        println!("({block} blocked its worker for {} ms)", start.elapsed().as_millis());
    }
    drop(runtime);
    watchdog.shutdown();
    Ok(())
}

async fn sleeps(time: Duration) {
    std::thread::sleep(time);
}

async fn reads_a_file(path: PathBuf) {
    let text = std::fs::read_to_string(path).expect("the file is readable");
    println!("read {} bytes", text.len());
}

async fn waits_for_a_lock(time: Duration) {
    let balance = Arc::new(Mutex::new(0));
    let held = balance.clone();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _held = held.lock().expect("not poisoned");
        let _ = locked.send(());
        std::thread::sleep(time);
    });
    is_locked.await.expect("the other thread holds the lock");
    *balance.lock().expect("not poisoned") += 1;
}

async fn looks_a_name_up(time: Duration) {
    late::resolver(time / 2).expect("a free port");
    match ("a-name-that-is-not.example.", 80).to_socket_addrs() {
        Ok(found) => println!("found {} addresses", found.count()),
        Err(error) => println!("{error}"),
    }
}

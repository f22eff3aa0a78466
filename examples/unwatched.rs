//! The symptom: orders take 50 ms now and then, in a service that runs already, without pollwatch.
//!
//! This service knows nothing of pollwatch: no line of it is pollwatch's. Two of its tasks block
//! their workers. A task reads prices behind a lock, which a thread holds while it waits for new
//! ones. Another task prints labels by a program that it waits for. `pollwatch attach` finds both
//! from outside. The settlement waits as well, but on the pool for blocking work, where it blocks
//! nobody.
//!
//! ```sh
//! cargo run --example unwatched        # in one terminal: runs until Ctrl-C
//! pollwatch attach unwatched           # in another one
//! ```

use std::io;
use std::process::Command;
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

/// The prices, in cents.
type Prices = Arc<RwLock<Vec<u64>>>;

#[tokio::main(worker_threads = 4)]
async fn main() -> io::Result<()> {
    let prices = Prices::default();
    let feed = Arc::clone(&prices);
    thread::Builder::new().name("price-feed".into()).spawn(move || refresh(&feed))?;

    tokio::spawn(take_orders(prices));
    tokio::spawn(print_labels());
    tokio::spawn(settle());
    println!("process {} takes orders until Ctrl-C", std::process::id());
    tokio::signal::ctrl_c().await
}

/// Refreshes the prices. It holds the lock while it waits for them.
fn refresh(prices: &Prices) {
    for price in 0.. {
        let mut prices = prices.write().unwrap();
        thread::sleep(Duration::from_millis(50));
        prices.push(price);
        prices.truncate(100);
        drop(prices);
        thread::sleep(Duration::from_millis(400));
    }
}

/// Takes 200 orders a second.
async fn take_orders(prices: Prices) {
    loop {
        std::hint::black_box(total(&prices));
        sleep(Duration::from_millis(5)).await;
    }
}

/// Blocks its worker while the prices are refreshed.
fn total(prices: &Prices) -> u64 {
    prices.read().unwrap().iter().sum()
}

/// Prints a label from time to time.
async fn print_labels() {
    loop {
        if let Err(error) = print_label() {
            eprintln!("no label: {error}");
        }
        sleep(Duration::from_millis(700)).await;
    }
}

/// Blocks its worker until the program that prints has ended.
fn print_label() -> io::Result<()> {
    Command::new("sleep").arg("0.05").status().map(drop)
}

/// Settles on a thread for blocking work.
async fn settle() {
    loop {
        let settled = tokio::task::spawn_blocking(|| thread::sleep(Duration::from_millis(100))).await;
        if settled.is_err() {
            return;
        }
    }
}

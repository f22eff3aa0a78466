//! Finds the thread that holds a mutex, and measures what that takes.
//!
//! `cargo run --release -p pollwatch-stack --example lock_holder`

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pollwatch_stack::{Address, Holding, LockKind, LockRef, LockSearch, Symbolizer, Tid, procfs};

/// The number of threads besides the one that holds the mutex.
const OTHERS: usize = 64;
const SEARCHES: u32 = 20;

static MUTEX: Mutex<u64> = Mutex::new(0);

fn refill(locked: &mpsc::Sender<()>) {
    let mut value = MUTEX.lock().unwrap();
    *value += 1;
    locked.send(()).unwrap();
    thread::sleep(Duration::from_secs(60));
    drop(value);
}

/// Returns the holder's id and the frame that has the guard.
fn find(search: &mut LockSearch) -> Option<(Tid, String)> {
    let lock = LockRef { kind: LockKind::StdMutex, address: Address::of(&MUTEX) };
    for tid in procfs::threads()?.into_iter().filter(|tid| Some(*tid) != Tid::current()) {
        // All of these threads sleep, so they are read without a signal.
        let Ok(thread) = search.thread(tid, None) else { continue };
        if let Holding::Yes { frame } = thread.holds(lock) {
            let address = thread.stack().addresses().nth(frame)?;
            let stack = Symbolizer::shared().symbolize(thread.stack());
            let function = stack.frames().iter().find(|frame| frame.address == address)?;
            return Some((tid, function.to_string()));
        }
    }
    None
}

fn main() {
    for _ in 0..OTHERS {
        thread::spawn(|| thread::sleep(Duration::from_secs(60)));
    }
    let (locked, is_locked) = mpsc::channel();
    thread::spawn(move || refill(&locked));
    is_locked.recv().unwrap();
    if let Some(why) = LockSearch::unavailable() {
        return println!("holders cannot be found: {why}");
    }
    let mut search = LockSearch::new();
    let start = Instant::now();
    match find(&mut search) {
        Some((tid, function)) => println!("thread {tid} holds the mutex in {function}"),
        None => println!("no thread holds the mutex"),
    }
    println!("the first search, which reads symbols and tables: {:?}", start.elapsed());
    let threads: Vec<Tid> =
        procfs::threads().into_iter().flatten().filter(|tid| Some(*tid) != Tid::current()).collect();
    let start = Instant::now();
    for _ in 0..SEARCHES {
        threads.iter().for_each(|tid| drop(search.thread(*tid, None)));
    }
    let (searches, threads) = (SEARCHES * threads.len() as u32, threads.len());
    println!("each further one, of {threads} threads: {:?} a thread", start.elapsed() / searches);
}

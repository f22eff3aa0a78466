//! Measures the memory of waiting tasks, as requested from the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};

use crate::Size;

/// The system's allocator, with a count of the bytes in use.
pub(crate) struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method calls the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Holds `WORDS` words across an await point.
async fn parks<const WORDS: usize>() {
    let held = std::hint::black_box([0_u64; WORDS]);
    std::future::pending::<()>().await;
    std::hint::black_box(held);
}

/// Spawns a task of one of sixteen sizes. tokio rounds a task up to a multiple of 128 bytes, and a
/// single size could happen to fit.
macro_rules! spawn_one_of_sixteen {
    ($nth:expr, $spawn:path $(, $wrap:expr)?) => {
        spawn_one_of_sixteen!(@ $nth, $spawn, ($($wrap)?), 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $nth:expr, $spawn:path, $wrap:tt, $($words:literal)*) => {
        match $nth % 16 {
            $( $words => drop($spawn(spawn_one_of_sixteen!(% $wrap, parks::<$words>()))), )*
            _ => unreachable!(),
        }
    };
    (% (), $future:expr) => { $future };
    (% ($wrap:expr), $future:expr) => { $wrap.watch($future) };
}

pub(crate) fn run(size: Size) {
    let tasks = size.of(1_600, 1_000_000);
    let watchdog = Watchdog::builder().log(false).warn_above_alive_tasks(u64::MAX).start().expect("a watchdog");
    let plain = |nth: usize| spawn_one_of_sixteen!(nth, tokio::spawn);
    let bare = bytes_per_task(tasks, one_worker().build().expect("a runtime"), plain);
    let hooked = watchdog.build_runtime("hooks", one_worker()).expect("a runtime");
    let hooks = bytes_per_task(tasks, hooked, plain);
    let attached = one_worker().build().expect("a runtime");
    watchdog.attach("wrapper", attached.handle()).expect("attached");
    let handle = watchdog.clone();
    let wrapper = bytes_per_task(tasks, attached, move |nth| spawn_one_of_sixteen!(nth, tokio::spawn, handle));
    println!("\n| memory per parked task, of {tasks} | bytes | added |\n|---|---|---|");
    println!("| bare | {bare:.1} | - |");
    println!("| pollwatch: build_runtime | {hooks:.1} | {:.1} (bar 0) |", hooks - bare);
    println!("| pollwatch: wrapper | {wrapper:.1} | {:.1} (bar 16) |", wrapper - bare);
}

fn one_worker() -> Builder {
    Builder::new_current_thread()
}

fn bytes_per_task(tasks: usize, runtime: Runtime, spawn: impl Fn(usize)) -> f64 {
    runtime.block_on(async {
        // The first tasks allocate what is allocated only once.
        (0..16).for_each(&spawn);
        tokio::task::yield_now().await;
        let before = ALLOCATED.load(Ordering::Relaxed);
        for nth in 1..=tasks {
            spawn(nth);
            if nth % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / tasks as f64
    })
}

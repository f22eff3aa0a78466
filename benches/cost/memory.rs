//! Memory for tasks that wait: what the allocator was asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Runtime};

use crate::Size;

/// The system's allocator; the sum of what is allocated.
pub(crate) struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Words that a parked task holds, over an await.
type Held = [u64; 8];

async fn parks(held: Held) {
    std::future::pending::<()>().await;
    std::hint::black_box(held);
}

pub(crate) fn run(size: Size) {
    let tasks = size.of(1_000, 1_000_000);
    let watchdog = Watchdog::builder().log(false).alive_tasks_limit(u64::MAX).start().expect("a watchdog");
    let bare = a_task(tasks, one_worker().build().expect("a runtime"), |_| drop(tokio::spawn(parks(Held::default()))));
    let hooked = watchdog.build_runtime("hooks", &mut one_worker()).expect("a runtime");
    let hooks = a_task(tasks, hooked, |_| drop(tokio::spawn(parks(Held::default()))));
    let plain = one_worker().build().expect("a runtime");
    watchdog.attach("wrapper", plain.handle()).expect("attached");
    let handle = watchdog.clone();
    let wrapper = a_task(tasks, plain, move |_| drop(tokio::spawn(handle.watch(parks(Held::default())))));
    println!("\n| memory a parked task, of {tasks} | bytes | added |\n|---|---|---|");
    println!("| bare | {bare:.1} | - |");
    println!("| pollwatch: build_runtime | {hooks:.1} | {:.2} (bar 0) |", hooks - bare);
    println!("| pollwatch: wrapper | {wrapper:.1} | {:.2} (bar 16) |", wrapper - bare);
    let types = size_of_val(&watchdog.watch(parks(Held::default()))) - size_of_val(&parks(Held::default()));
    println!(
        "\nThe wrapper is {types} bytes larger than the future in it; an allocation of tokio's is rounded to a cache line's multiple."
    );
}

fn one_worker() -> Builder {
    Builder::new_current_thread()
}

fn a_task(tasks: usize, runtime: Runtime, spawn: impl Fn(usize)) -> f64 {
    runtime.block_on(async {
        // The first one has whatever is made once.
        spawn(0);
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

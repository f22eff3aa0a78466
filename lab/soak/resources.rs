//! The resources that the process uses.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The system's allocator with a count of the bytes in use. A leak is visible there long before it
/// is in resident memory.
struct Counting;

static IN_USE: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every method calls the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        IN_USE.fetch_add(size as i64 - layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The resources at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Resident anonymous memory, in KiB.
    pub(crate) resident: u64,
    /// Memory allocated from the heap, in KiB.
    pub(crate) heap: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    /// Threads that have a slot of pollwatch.
    pub(crate) slots: u64,
}

impl Resources {
    pub(crate) fn of_now(watchdog: &pollwatch::Watchdog) -> Resources {
        // SAFETY: returns free memory to the system, and touches nothing else.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_ascii_whitespace().next()?.parse().ok()
        };
        Resources {
            resident: field("RssAnon:").unwrap_or(0),
            heap: IN_USE.load(Relaxed).max(0) as u64 / 1024,
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            threads: field("Threads:").unwrap_or(0),
            slots: watchdog.coverage().measured_threads as u64,
        }
    }

    /// Returns how many descriptors of each target are open, to find a leak.
    pub(crate) fn descriptors() -> std::collections::BTreeMap<String, u64> {
        let mut all = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
            if let Ok(target) = std::fs::read_link(entry.path()) {
                let target = target.to_string_lossy();
                // The number of a socket or pipe is left out, so that they are counted together.
                *all.entry(target.split(":[").next().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        all
    }

    /// Returns the name, the value, and the allowed growth after the warm-up, of each resource.
    pub(crate) fn all(&self) -> [(&'static str, u64, u64); 5] {
        [
            // Free memory is fragmented, in one arena for each of many short-lived threads.
            ("resident KiB", self.resident, 32 * 1024),
            // Stacks and names are kept up to fixed bounds, and new ones still occur.
            ("heap KiB", self.heap, 2 * 1024),
            ("descriptors", self.descriptors, 0),
            ("threads", self.threads, 0),
            ("slots", self.slots, 0),
        ]
    }
}

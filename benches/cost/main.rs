//! Measures the costs of pollwatch besides those of a poll: spawning, channels, many tasks, memory,
//! scrapes, the watchdog thread, thread dumps, and start-up. The results are in `docs/overhead.md`.
//!
//! `cargo bench --bench cost [-- --quick] [-- NAME]`. Variants are compared within a round, and
//! medians are printed. `--quick` only checks that the bench runs. A name selects the parts whose
//! names contain it.

mod driver;
mod memory;
mod scrape;
mod thousand_sites;
mod threads;
mod watchdog;
mod work;

/// The size of the measurements: tiny for `--quick`.
#[derive(Clone, Copy)]
struct Size {
    quick: bool,
}

impl Size {
    fn of<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1].midpoint(values[middle]) }
}

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    // Without the flag that `cargo bench` adds, the bench is run as a test.
    let size = Size { quick: has("--quick") || !has("--bench") };
    let only = args.iter().find(|arg| !arg.starts_with('-'));
    type Part = (&'static str, fn(Size));
    let parts: [Part; 7] = [
        ("start-up", watchdog::start_up),
        ("work", work::run),
        ("memory", memory::run),
        ("scrape", scrape::run),
        ("watchdog", watchdog::run),
        ("driver", driver::run),
        ("threads", threads::run),
    ];
    for (name, part) in parts {
        if only.is_none_or(|only| name.contains(only.as_str())) {
            part(size);
        }
    }
}

//! Measures symbols in the program that `measure.py` generates: it appends the modules.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pollwatch_stack::{Capturer, RawStack, Symbolizer, Target, preload};

/// The number of modules that a stack goes through.
const DEPTH: usize = 12;

/// Calls through one module after the other.
pub fn call(depth: usize, then: &dyn Fn()) {
    match depth % (DEPTH + 1) {
        0 => then(),
        _ => ENTRIES[depth % ENTRIES.len()](depth - 1, then),
    }
}

/// Captures the stack of a thread that sleeps below the modules from `first` on.
fn captured(first: usize) -> RawStack {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        send.send(Target::current().unwrap()).unwrap();
        call(first * (DEPTH + 1) + DEPTH, &|| std::thread::sleep(Duration::from_secs(3600)));
    });
    let target = receive.recv().unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        if let Ok(raw) = Capturer::new().capture(target)
            && raw.is_complete()
        {
            return raw;
        }
    }
}

/// Returns the resident memory of the process: of its own, and of files that are mapped.
fn resident() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    (field("RssAnon:"), field("RssFile:"))
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the value.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn print(what: &str, time: Option<[Duration; 2]>) {
    let (own, files) = resident();
    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let [time, on_cpu] = time.map_or_else(Default::default, |times| times.map(millis));
    println!("| {what} | {time} | {on_cpu} | {own:.0} MB | {files:.0} MB |");
}

fn main() {
    if std::env::args().count() > 1 {
        println!("{}", ALL.iter().map(|all| all(7)).fold(0, u64::wrapping_add));
    }
    preload();
    let stacks = [captured(0), captured(3), captured(6), captured(0)];
    println!("| | time | CPU time | own memory | mapped files |\n|---|---|---|---|---|");
    print("before the first stack", None);
    let mut symbolizer = Symbolizer::new();
    let names = ["first stack", "second stack, other functions", "third stack, other functions", "first stack again"];
    for (name, raw) in names.iter().zip(&stacks) {
        let (start, on_cpu) = (Instant::now(), cpu_time());
        let stack = symbolizer.symbolize(raw);
        let times = [start.elapsed(), cpu_time() - on_cpu];
        let lines = stack.user_frames().iter().filter(|frame| frame.line.is_some()).count();
        assert!(lines >= DEPTH, "{stack:#}");
        print(name, Some(times));
    }
    #[cfg(not(old))]
    {
        println!("| bytes of files held | | | {:.1} MB | |", symbolizer.bytes_held() as f64 / 1e6);
        symbolizer.release_all();
    }
    drop(symbolizer);
    print("released", None);
    // SAFETY: the call gives free memory of the allocator back to the system.
    unsafe { libc::malloc_trim(0) };
    print("released and trimmed", None);
}


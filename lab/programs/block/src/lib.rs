//! Decides when a program of the lab blocks. The lab makes a file, and whoever removes it blocks.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Returns true once for each file `NAME` that the lab makes in the folder `LAB_BLOCK`. Without
/// this variable it returns false, and makes no system call.
pub fn is_due(name: &str) -> bool {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| std::env::var_os("LAB_BLOCK").map(PathBuf::from));
    folder.as_ref().is_some_and(|folder| std::fs::remove_file(folder.join(name)).is_ok())
}

/// Returns the address of a server of the lab, which responds to a connection after 30 ms.
pub fn late_server() -> String {
    format!("127.0.0.1:{}", std::env::var("LAB_PORT").expect("the lab sets LAB_PORT"))
}

/// Computes until the thread has been on a CPU for 30 ms more.
#[inline(never)]
pub fn compute() -> u64 {
    let end = cpu_nanos() + 30_000_000;
    let mut value = 1u64;
    while cpu_nanos() < end {
        for round in 0..1_000_000u64 {
            value = std::hint::black_box(value.wrapping_mul(31).wrapping_add(round));
        }
    }
    value
}

/// Returns how long this thread has been on a CPU.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("the kernel has no schedstat")
}

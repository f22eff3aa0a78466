//! The arguments of a process, which are in its memory.
//!
//! The kernel reads them from there, and waits for as long as it takes: for ever, if they are on a
//! page of a dead mount, or if the process handles its page faults and does not answer. One such
//! process on a machine must not keep the search for another one by its name.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// The bytes of the arguments that are read. A name is looked for in the first ones only, and the
/// process, which may have gigabytes of them, decides how many there are.
const MAX_LEN: u64 = 1 << 20;
/// The time within which the arguments have to come.
const LIMIT: Duration = Duration::from_secs(1);
/// The number of processes without an answer after which no arguments are read.
const MAX_LOST: usize = 4;

/// Returns the arguments in the folder of a process; none if they do not come in time.
pub(super) fn read(folder: &Path) -> Vec<u8> {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    if LOST.load(Ordering::Relaxed) >= MAX_LOST {
        return Vec::new();
    }
    let (send, arguments) = sync_channel(1);
    let path = folder.join("cmdline");
    // A thread that is stuck ends with this process.
    let thread = std::thread::Builder::new().name("pollwatch-read".into());
    let thread = thread.spawn(move || send.send(read_start(&path)));
    match thread.map(|_| arguments.recv_timeout(LIMIT)) {
        Ok(Ok(arguments)) => arguments,
        _ => {
            LOST.fetch_add(1, Ordering::Relaxed);
            Vec::new()
        }
    }
}

/// Returns the first bytes of a file; none if it cannot be read.
fn read_start(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut start));
    read.map(|_| start).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// A pipe without a writer stands for memory that never comes.
    #[test]
    fn arguments_that_never_come_are_given_up() {
        let own = read(Path::new("/proc/self"));
        assert!(!own.is_empty());
        let folder = std::env::temp_dir().join(format!("pollwatch-arguments-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = Command::new("mkfifo").arg(folder.join("cmdline")).status();
        assert!(made.is_ok_and(|status| status.success()));
        let start = Instant::now();
        assert!(read(&folder).is_empty());
        assert!(start.elapsed() < 30 * LIMIT);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn arguments_without_an_end_are_cut() {
        assert_eq!(read_start(Path::new("/dev/zero")).len() as u64, MAX_LEN);
        assert!(read_start(Path::new("/nowhere")).is_empty());
    }
}

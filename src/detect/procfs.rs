//! What the kernel tells of a thread: in which system call it is, whether it has run. Elsewhere than on Linux: nothing.

use std::collections::HashSet;
use std::fs;

use crate::sys;

/// A line of `/proc/self/task/<tid>/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syscall {
    /// It runs, or is ready to.
    Running,
    /// It waits in the kernel: in a system call (number and first argument), or for something else (a page).
    Waiting { call: Option<(i64, u64)>, sp: u64, ip: u64 },
}

/// Where a thread is; `None` where that cannot be read, and with no such thread.
pub(crate) fn syscall(tid: i32) -> Option<Syscall> {
    parse_syscall(&read(tid, "syscall")?)
}

fn parse_syscall(line: &str) -> Option<Syscall> {
    let line = line.trim();
    if line == "running" {
        return Some(Syscall::Running);
    }
    let mut words = line.split(' ');
    let number: i64 = words.next()?.parse().ok()?;
    let rest: Vec<u64> =
        words.map(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16)).collect::<Result<_, _>>().ok()?;
    match (number, &rest[..]) {
        (0.., [argument, .., sp, ip]) => Some(Syscall::Waiting { call: Some((number, *argument)), sp: *sp, ip: *ip }),
        (_, [sp, ip]) => Some(Syscall::Waiting { call: None, sp: *sp, ip: *ip }),
        _ => None,
    }
}

/// Changes whenever the thread has been given a CPU: the time that it ran, and how often. `None` where the kernel does not count.
pub(crate) fn ran(tid: i32) -> Option<(u64, u64)> {
    let line = read(tid, "schedstat")?;
    let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
    let time = words.next()?.ok()?;
    let times = words.nth(1)?.ok()?;
    (times > 0).then_some((time, times))
}

/// How long the thread was ready to run in all, but had no CPU. The kernel adds what it waited when it runs again.
pub(crate) fn run_delay(tid: i32) -> Option<u64> {
    read(tid, "schedstat")?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Less time on a CPU than this is that of a thread which is being started.
const YOUNG: u64 = 1_000_000;

/// Whether some thread of the process, of none of these ids, is being started, and is not through for want of a CPU: its own start
/// has told nobody of it yet. Yes, where that cannot be told.
pub(crate) fn is_one_starting(known: &HashSet<i32>) -> bool {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return true };
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let own = sys::thread_id();
    let others: Vec<i32> = ids.filter(|tid| !known.contains(tid) && Some(*tid) != own).collect();
    let is_young = |tid| sys::thread_cpu_nanos(tid).is_some_and(|used| used < YOUNG);
    others.len() > MAX_ASKED || others.into_iter().any(|tid| is_young(tid) && syscall(tid) == Some(Syscall::Running))
}

/// Threads that are asked one after the other.
const MAX_ASKED: usize = 512;

/// Whether a signal that was sent to the thread waits because the thread blocks it. No, where that cannot be read.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
pub(crate) fn keeps_waiting(tid: i32, signal: i32) -> bool {
    read(tid, "status").and_then(|status| parse_waiting(&status)).is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}

fn parse_waiting(status: &str) -> Option<u64> {
    let mask = |name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    Some(mask("SigPnd:")? & mask("SigBlk:")?)
}

/// What a file descriptor of this process is: a path, `socket:[..]`, `pipe:[..]`.
pub(crate) fn descriptor(fd: u64) -> Option<String> {
    Some(fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.to_string_lossy().into_owned())
}

fn read(tid: i32, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).ok()
}

#[cfg(all(test, target_os = "linux", not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse_syscall("running\n"), Some(Syscall::Running));
        let line = "35 0x7ffd 0x0 0x1 0x2 0x3 0x4 0x7fff00 0x401000\n";
        let sleeping = Syscall::Waiting { call: Some((35, 0x7ffd)), sp: 0x7fff00, ip: 0x401000 };
        assert_eq!(parse_syscall(line), Some(sleeping));
        assert_eq!(parse_syscall("-1 0x10 0x20"), Some(Syscall::Waiting { call: None, sp: 0x10, ip: 0x20 }));
        for bad in ["", "x", "35", "35 zz", "35 0x1"] {
            assert_eq!(parse_syscall(bad), None, "{bad}");
        }
    }

    #[test]
    fn signals_that_wait() {
        let status = "Name:\tx\nSigPnd:\t0000000000400001\nShdPnd:\t2\nSigBlk:\t0000000000400006\nSigIgn:\t0\n";
        assert_eq!(parse_waiting(status), Some(1 << 22));
        assert_eq!(parse_waiting("Name:\tx\n"), None);
    }

    #[test]
    fn of_a_sleeping_thread() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(crate::sys::thread_id().unwrap()).unwrap();
            std::thread::park();
        });
        let tid = receive.recv().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !matches!(syscall(tid), Some(Syscall::Waiting { call: Some((libc::SYS_futex, _)), .. })) {
            assert!(std::time::Instant::now() < deadline, "{:?}", syscall(tid));
            std::thread::yield_now();
        }
        assert!(ran(tid).is_some() && ran(tid) == ran(tid));
        thread.thread().unpark();
        thread.join().unwrap();
    }
}

//! Processes of this machine: which one the user means, and whether it has pollwatch inside.

mod arguments;
mod find;
mod inside;
mod permission;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use find::{FindError, find};
pub(crate) use inside::{Inside, inside};
pub(crate) use permission::explain;

use crate::text::{clean, seconds};

/// The flag of kernel threads in `/proc/<pid>/stat` (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The ticks in a second of the times in `/proc` (`USER_HZ`), the same on x86_64 and aarch64.
const TICKS_PER_SECOND: u64 = 100;

/// The number of a process or thread, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pid(pub(crate) u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reason why a process cannot be observed, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// A process with a program.
    Program,
    KernelThread,
    /// The process has ended, and its parent has not asked for its exit code.
    Zombie,
}

/// What the kernel says of a process to everybody.
#[derive(Clone, Debug)]
pub(crate) struct ProcessInfo {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    /// The process that the number is a thread of: the same as `pid`, except for a thread's number.
    pub(crate) leader: Pid,
    /// The name of the main thread: at most 15 bytes, by default of the executable's name.
    pub(crate) name: String,
    /// The path of the executable. `None` for processes of other users.
    pub(crate) executable: Option<PathBuf>,
    pub(crate) arguments: Vec<String>,
    /// The user whose rights the process has.
    pub(crate) user: u32,
    /// The time from the start of the machine to that of the process.
    pub(crate) started: Duration,
    pub(crate) nature: Nature,
}

impl ProcessInfo {
    /// Reads what is known of a process. A thread's number is one as well.
    pub(crate) fn read(pid: Pid) -> io::Result<ProcessInfo> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read(folder.join("stat"))?;
        let status = String::from_utf8_lossy(&fs::read(folder.join("status"))?).into_owned();
        let stat = String::from_utf8_lossy(&stat);
        let (name, fields) = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let number = |position: usize| fields.get(position).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let in_status = |key: &str, column: usize| status_number(&status, key, column);
        let arguments = arguments::read(&folder);
        let arguments = arguments.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut arguments: Vec<_> = arguments.collect();
        if arguments.last().is_some_and(String::is_empty) {
            arguments.pop();
        }
        let nature = match fields.first() {
            Some(&"Z" | &"X") => Nature::Zombie,
            _ if number(6) & KERNEL_THREAD != 0 => Nature::KernelThread,
            _ => Nature::Program,
        };
        Ok(ProcessInfo {
            pid,
            parent: Pid(number(1) as u32),
            leader: Pid(in_status("Tgid:", 0).unwrap_or(pid.0)),
            name: name.to_owned(),
            executable: fs::read_link(folder.join("exe")).ok().map(without_deleted),
            arguments,
            user: in_status("Uid:", 1).unwrap_or(0),
            started: Duration::from_millis(number(19) * 1000 / TICKS_PER_SECOND),
            nature,
        })
    }

    /// Returns the file name of the executable; that of the first argument where it is not known.
    pub(crate) fn file_name(&self) -> Option<&str> {
        let executable = self.executable.as_ref().and_then(|path| path.file_name()?.to_str());
        executable.or_else(|| self.arguments.first().map(|argument| last_component(argument)))
    }

    /// Returns the command line for a terminal.
    pub(crate) fn command(&self) -> String {
        let words = match self.arguments.is_empty() {
            true => format!("[{}]", self.name),
            false => self.arguments.join(" "),
        };
        clean(&words)
    }

    /// Returns the name of the process for a terminal.
    pub(crate) fn label(&self) -> String {
        clean(self.file_name().filter(|name| !name.is_empty()).unwrap_or(&self.name))
    }
}

/// Returns the name of the process in the text of a `stat` file, and the fields that follow. The
/// name itself may contain spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (start, end) = (stat.find('(')?, stat.rfind(')')?);
    Some((stat.get(start + 1..end)?, stat[end + 1..].split_ascii_whitespace().collect()))
}

/// Returns a number of the text of a `status` file.
fn status_number(status: &str, key: &str, column: usize) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().nth(column)?.parse().ok()
}

/// Returns the path without the note that the kernel adds when the file was deleted or replaced.
fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => PathBuf::from(text),
        None => path,
    }
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the name of a user, or the number where it has none.
pub(crate) fn user_name(user: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find_user(&users, user).map_or_else(|| user.to_string(), clean)
}

/// Returns the name of a user in the text of `/etc/passwd`.
fn find_user(users: &str, user: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    })
}

/// Returns the time since a process was started, for a terminal.
pub(crate) fn age(process: &ProcessInfo) -> String {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split_ascii_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    uptime.map_or_else(String::new, |uptime| seconds(uptime - process.started.as_secs_f64()))
}

/// Returns the CPU time that this process has used.
pub(crate) fn own_cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = parse_stat(&stat)?;
    let ticks = |position: usize| fields.get(position)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND))
}

//! The search for the process that the user means, by its number or by a name.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;

use super::{Nature, Pid, ProcessInfo, age, last_component, user_name};
use crate::text::{clean, clip};

/// The matches that an error lists.
const MAX_LISTED: usize = 20;

/// The width of a listed command line.
const COMMAND_WIDTH: usize = 80;

/// The reason why the target of a command is not one process that can be observed.
#[derive(Debug)]
pub(crate) enum FindError {
    NoSuchPid {
        pid: Pid,
    },
    NoSuchName {
        name: String,
    },
    KernelThread {
        pid: Pid,
        name: String,
    },
    Zombie {
        pid: Pid,
        name: String,
    },
    /// The target is this program.
    Itself,
    Several {
        name: String,
        matches: Vec<ProcessInfo>,
    },
    /// `/proc` cannot be read.
    NoProc(io::Error),
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindError::NoSuchPid { pid } => write!(f, "there is no process {pid}"),
            FindError::NoSuchName { name } => write!(
                f,
                "there is no process whose name, executable or command line has the word {name:?}. Is it running, and \
                 does `ps -e` show it here?"
            ),
            FindError::KernelThread { pid, name } => {
                write!(f, "{pid} ({}) is a thread of the kernel, and has no program", clean(name))
            }
            FindError::Zombie { pid, name } => {
                write!(f, "process {pid} ({}) has ended; its parent has not asked for its exit code yet", clean(name))
            }
            FindError::Itself => f.write_str("this is the number of pollwatch itself"),
            FindError::NoProc(error) => write!(f, "cannot read /proc: {error}"),
            FindError::Several { name, matches } => fmt_matches(f, name, matches),
        }
    }
}

impl std::error::Error for FindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FindError::NoProc(error) => Some(error),
            _ => None,
        }
    }
}

fn fmt_matches(f: &mut fmt::Formatter<'_>, name: &str, matches: &[ProcessInfo]) -> fmt::Result {
    write!(f, "{} processes match {name:?}. Choose one by its number:", matches.len())?;
    write!(f, "\n{:>9}  {:<12}  {:>8}  COMMAND", "PID", "USER", "AGE")?;
    for process in matches.iter().take(MAX_LISTED) {
        let (user, command) = (user_name(process.user), process.command());
        let command = clip(&command, COMMAND_WIDTH);
        write!(f, "\n{:>9}  {user:<12}  {:>8}  {command}", process.pid, age(process))?;
    }
    match matches.len().saturating_sub(MAX_LISTED) {
        0 => Ok(()),
        more => write!(f, "\n{:>9}  and {more} more", "..."),
    }
}

/// Returns the process that the user means by a number or a name.
pub(crate) fn find(target: &str) -> Result<ProcessInfo, FindError> {
    let own = Pid(std::process::id());
    match target.parse() {
        Ok(number) => by_pid(Pid(number), own),
        Err(_) => by_name(all()?, target, own),
    }
}

/// Returns the process with a number. The number of a thread stands for its process, since `top -H`
/// and `htop` show those of threads.
fn by_pid(pid: Pid, own: Pid) -> Result<ProcessInfo, FindError> {
    let read = |pid| ProcessInfo::read(pid).map_err(|_| FindError::NoSuchPid { pid });
    let mut process = read(pid)?;
    if process.leader != process.pid {
        process = read(process.leader)?;
    }
    if process.pid == own {
        return Err(FindError::Itself);
    }
    let ProcessInfo { pid, name, .. } = &process;
    match process.nature {
        Nature::Program => Ok(process),
        Nature::KernelThread => Err(FindError::KernelThread { pid: *pid, name: name.clone() }),
        Nature::Zombie => Err(FindError::Zombie { pid: *pid, name: name.clone() }),
    }
}

/// Returns all processes that this user sees.
fn all() -> Result<Vec<ProcessInfo>, FindError> {
    let entries = fs::read_dir("/proc").map_err(FindError::NoProc)?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // A process that ends meanwhile is none.
    let mut all: Vec<_> = pids.filter_map(|pid| ProcessInfo::read(Pid(pid)).ok()).collect();
    all.sort_by_key(|process| process.pid);
    Ok(all)
}

/// Returns the only process with a name. The name of a process or its executable comes first. The
/// words of command lines decide only where there is none, since they include names of files: an
/// editor has the name of the program whose source it shows.
fn by_name(all: Vec<ProcessInfo>, name: &str, own: Pid) -> Result<ProcessInfo, FindError> {
    let excluded = own_family(&all, own);
    let own_file = all.iter().find(|process| process.pid == own).and_then(|own| own.executable.clone());
    let programs: Vec<_> =
        all.into_iter().filter(|process| process.pid != own && process.nature == Nature::Program).collect();
    let is_named = |process: &&ProcessInfo| process.name == name || process.file_name() == Some(name);
    let mut matches: Vec<ProcessInfo> = programs.iter().filter(is_named).cloned().collect();
    if matches.is_empty() {
        // `sudo pollwatch attach NAME` and another pollwatch have the name in their command lines.
        let is_other = |process: &ProcessInfo| {
            !excluded.contains(&process.pid) && (own_file.is_none() || process.executable != own_file)
        };
        let has_word =
            |process: &ProcessInfo| process.arguments.iter().any(|word| word == name || last_component(word) == name);
        matches = programs.into_iter().filter(|process| is_other(process) && has_word(process)).collect();
    }
    match matches.len() {
        0 => Err(FindError::NoSuchName { name: name.into() }),
        1 => Ok(matches.remove(0)),
        _ => Err(FindError::Several { name: name.into(), matches }),
    }
}

/// Returns this process and its ancestors: the shell, `sudo`, a script.
fn own_family(all: &[ProcessInfo], own: Pid) -> HashSet<Pid> {
    let mut family = HashSet::new();
    let mut next = Some(own);
    while let Some(pid) = next.filter(|pid| family.insert(*pid)) {
        next = all.iter().find(|process| process.pid == pid).map(|process| process.parent);
    }
    family
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A process whose parent is 1, unless a test says otherwise.
    fn process(pid: u32, name: &str, command: &str) -> ProcessInfo {
        let arguments: Vec<String> = command.split_ascii_whitespace().map(Into::into).collect();
        ProcessInfo {
            pid: Pid(pid),
            parent: Pid(1),
            leader: Pid(pid),
            name: name.into(),
            executable: arguments.first().map(Into::into),
            arguments,
            user: 0,
            started: Duration::ZERO,
            nature: Nature::Program,
        }
    }

    const OWN: Pid = Pid(900);

    fn find_in(mut others: Vec<ProcessInfo>, name: &str) -> Result<u32, String> {
        others.push(ProcessInfo { parent: Pid(800), ..process(900, "pollwatch", "/bin/pollwatch attach service") });
        others.push(ProcessInfo { parent: Pid(700), ..process(800, "sudo", "/bin/sudo pollwatch attach service") });
        others.push(process(700, "bash", "/bin/bash"));
        others.push(process(901, "pollwatch", "/bin/pollwatch attach service"));
        by_name(others, name, OWN).map(|process| process.pid.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_process_is_found_by_its_name_or_its_executable() {
        let all = || vec![process(10, "renamed", "/srv/service --port 1"), process(11, "other", "/srv/other")];
        assert_eq!(find_in(all(), "renamed"), Ok(10));
        assert_eq!(find_in(all(), "service"), Ok(10));
        assert_eq!(find_in(all(), "bash"), Ok(700), "an ancestor that is named is meant");
        assert!(find_in(all(), "serv").unwrap_err().contains("no process"));
        // The name of a thread has at most 15 bytes.
        let long = vec![process(10, "a-long-name-of-", "/srv/a-long-name-of-a-service")];
        assert_eq!(find_in(long, "a-long-name-of-a-service"), Ok(10));
    }

    #[test]
    fn words_of_command_lines_count_where_no_process_has_the_name() {
        let all = || vec![process(10, "java", "/bin/java -jar /srv/service.jar"), process(11, "vi", "/bin/vi service")];
        assert_eq!(find_in(all(), "service.jar"), Ok(10));
        assert_eq!(find_in(all(), "service"), Ok(11));
        let mut named = all();
        named.push(process(12, "service", "/srv/service"));
        assert_eq!(find_in(named, "service"), Ok(12));
    }

    #[test]
    fn neither_sudo_nor_another_pollwatch_is_meant_by_their_arguments() {
        assert!(find_in(Vec::new(), "service").unwrap_err().contains("no process"));
        assert!(find_in(Vec::new(), "attach").unwrap_err().contains("no process"));
    }

    #[test]
    fn kernel_threads_and_ended_processes_have_no_program() {
        let kernel = ProcessInfo { nature: Nature::KernelThread, ..process(2, "kthreadd", "") };
        let zombie = ProcessInfo { nature: Nature::Zombie, ..process(10, "service", "") };
        for name in ["kthreadd", "service"] {
            assert!(find_in(vec![kernel.clone(), zombie.clone()], name).is_err());
        }
    }

    #[test]
    fn several_matches_are_listed() {
        let many = (10..40).map(|pid| process(pid, "service", "/srv/service\u{1b}[2J --port 1")).collect();
        let error = find_in(many, "service").unwrap_err();
        assert!(error.starts_with("30 processes match \"service\". Choose one by its number:\n"), "{error}");
        assert!(error.contains("\n       10  ") && error.ends_with("and 10 more"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn the_number_of_a_thread_stands_for_its_process() {
        let own = std::process::id();
        let other = Pid(u32::MAX);
        let tids = fs::read_dir("/proc/self/task").unwrap();
        let tids = tids.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
        let thread = tids.max().unwrap();
        assert_ne!(thread, own, "tests run on a thread of their own");
        assert_eq!(by_pid(Pid(thread), other).unwrap().pid, Pid(own));
        assert!(matches!(by_pid(Pid(thread), Pid(own)), Err(FindError::Itself)));
        assert!(matches!(by_pid(other, Pid(own)), Err(FindError::NoSuchPid { .. })));
    }
}

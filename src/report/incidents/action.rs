//! The actions that a user sets for incidents, and the check of what was set.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files;
use crate::model::incident::Incident;
use crate::model::labels::ActionName;

/// The durations that [`on_incident`](crate::WatchdogBuilder::on_incident) accepts.
const AFTER: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
/// The largest number of actions of one watchdog.
const MAX_ACTIONS: usize = 32;

/// What to do when an incident has lasted for some time; set by
/// [`on_incident`](crate::WatchdogBuilder::on_incident).
///
/// ```
/// use std::time::Duration;
///
/// use pollwatch::{Action, Watchdog};
///
/// let builder = Watchdog::builder()
///     .on_incident(Duration::from_secs(5), Action::log_threads())
///     .on_incident(Duration::from_secs(30), Action::abort());
/// # builder.start().unwrap();
/// ```
#[derive(Debug)]
#[must_use = "an action does nothing until it is given to `on_incident`"]
pub struct Action(pub(super) ActionKind);

/// A callback of the user.
pub(super) struct IncidentCallback(pub(super) Box<dyn Fn(&Incident) + Send + Sync>);

impl fmt::Debug for IncidentCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncidentCallback")
    }
}

#[derive(Debug)]
pub(super) enum ActionKind {
    Call(IncidentCallback),
    LogThreads,
    PrintThreads,
    WriteThreads(PathBuf),
    Abort,
    Exit(i32),
}

impl Action {
    /// Calls a function, on the thread `pollwatch-alert`. If it hangs, only later calls wait, and
    /// are lost once 4 wait. A panic in it is caught and counted.
    ///
    /// Do not move a [`Watchdog`](crate::Watchdog) into the function: it would keep the watchdog
    /// running after your last handle was dropped.
    ///
    /// ```
    /// let action = pollwatch::Action::call(|incident| eprintln!("{incident}"));
    /// ```
    pub fn call(callback: impl Fn(&Incident) + Send + Sync + 'static) -> Action {
        Action(ActionKind::Call(IncidentCallback(Box::new(callback))))
    }

    /// Logs the threads of the process, with their stacks (target `pollwatch::incident`, level
    /// ERROR). If the log blocks, use [`write_threads`](Self::write_threads) as well.
    ///
    /// ```
    /// let action = pollwatch::Action::log_threads();
    /// ```
    pub fn log_threads() -> Action {
        Action(ActionKind::LogThreads)
    }

    /// Writes the incident and the threads of the process, with their stacks, to the standard
    /// error. It needs neither the log nor the lock of [`std::io::stderr`].
    ///
    /// ```
    /// let action = pollwatch::Action::print_threads();
    /// ```
    pub fn print_threads() -> Action {
        Action(ActionKind::PrintThreads)
    }

    /// Writes the incident and the threads of the process, with their stacks, to a new file beside
    /// this path: `/var/log/app/threads.txt` becomes `threads-1.txt`, `threads-2.txt` ... in
    /// `/var/log/app`, which has to exist.
    ///
    /// There are at most 16 such files. If all exist, the oldest is replaced, but a process
    /// replaces none of its own: it writes at most 16. What is not written is logged once and
    /// counted (`pollwatch_incident_actions_total`).
    ///
    /// ```
    /// let action = pollwatch::Action::write_threads(std::env::temp_dir().join("threads.txt"));
    /// ```
    pub fn write_threads(path: impl Into<PathBuf>) -> Action {
        Action(ActionKind::WriteThreads(path.into()))
    }

    /// Aborts the process by SIGABRT, so that the system can write a core dump. It happens after
    /// all other actions of the incident, and only if the incident still lasts then.
    ///
    /// ```
    /// let action = pollwatch::Action::abort();
    /// ```
    pub fn abort() -> Action {
        Action(ActionKind::Abort)
    }

    /// Ends the process with this exit code, 1 to 255, at once: destructors and `atexit` handlers,
    /// which could wait for what is blocked, do not run. It happens after all other actions of the
    /// incident, and only if the incident still lasts then.
    ///
    /// ```
    /// let action = pollwatch::Action::exit(70);
    /// ```
    pub fn exit(code: i32) -> Action {
        Action(ActionKind::Exit(code))
    }
}

impl ActionKind {
    pub(super) fn name(&self) -> ActionName {
        match self {
            ActionKind::Call(_) => ActionName::Call,
            ActionKind::LogThreads => ActionName::LogThreads,
            ActionKind::PrintThreads => ActionName::PrintThreads,
            ActionKind::WriteThreads(_) => ActionName::WriteThreads,
            ActionKind::Abort => ActionName::Abort,
            ActionKind::Exit(_) => ActionName::Exit,
        }
    }

    /// Returns whether the action ends the process.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, ActionKind::Abort | ActionKind::Exit(_))
    }

    /// Returns whether both do the same. No callback is the same as another one.
    fn is_same(&self, other: &ActionKind) -> bool {
        match (self, other) {
            (ActionKind::Call(_), _) | (_, ActionKind::Call(_)) => false,
            (ActionKind::WriteThreads(a), ActionKind::WriteThreads(b)) => a == b,
            _ => self.name() == other.name(),
        }
    }
}

/// An action, and the duration of an incident after which it happens.
#[derive(Debug)]
pub(crate) struct IncidentRule {
    pub(super) after: Duration,
    pub(super) action: ActionKind,
}

impl IncidentRule {
    pub(crate) fn new(after: Duration, action: Action) -> IncidentRule {
        IncidentRule { after, action: action.0 }
    }

    pub(crate) fn name(&self) -> ActionName {
        self.action.name()
    }
}

/// Checks what the user has set. `has_log` says whether there is a log. The error says what is
/// wrong and what to do.
pub(crate) fn check(rules: &[IncidentRule], has_log: bool) -> Result<(), String> {
    if rules.len() > MAX_ACTIONS {
        return Err(format!("on_incident can be called at most {MAX_ACTIONS} times, not {}", rules.len()));
    }
    for (index, rule) in rules.iter().enumerate() {
        let name = rule.name().as_str();
        if !AFTER.contains(&rule.after) {
            return Err(format!(
                "the time after which on_incident acts ({name}) must be from 10 ms to 24 hours, not {:?}; 10 s suits a service",
                rule.after
            ));
        }
        if let Some(earlier) = rules[..index].iter().find(|earlier| earlier.action.is_end() && rule.action.is_end()) {
            return Err(format!(
                "on_incident is set to {} and to {name}, but a process ends only once: keep one of them",
                earlier.name().as_str()
            ));
        }
        if rules[..index].iter().any(|earlier| earlier.after == rule.after && earlier.action.is_same(&rule.action)) {
            return Err(format!("on_incident is set to {name} twice after {:?}: keep one of them", rule.after));
        }
        match &rule.action {
            ActionKind::LogThreads if !has_log => {
                return Err(
                    "log_threads needs the log, which is off (log(false)): use write_threads or print_threads".into()
                );
            }
            ActionKind::WriteThreads(path) => check_path(path)?,
            ActionKind::Exit(code) if !(1..=255).contains(code) => {
                return Err(format!(
                    "the exit code of an incident must be from 1 to 255, not {code}: 0 would say that all is well, and \
                     systems keep only the lowest 8 bits; 70 is usual for an internal error"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_path(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if files::name_of(path).is_none() {
        return Err(format!(
            "write_threads needs the path of a file in UTF-8, such as /var/log/app/threads.txt, not {shown:?}"
        ));
    }
    let folder = files::folder_of(path);
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(format!(
            "write_threads cannot write {shown}: the folder {folder} does not exist; create it before the start"
        ));
    }
    Ok(())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn error(rules: Vec<(Duration, Action)>) -> Option<String> {
        let rules: Vec<_> = rules.into_iter().map(|(after, action)| IncidentRule::new(after, action)).collect();
        check(&rules, true).err()
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let temp = std::env::temp_dir().join("threads.txt");
        let contains = |rules, text: &str| {
            let error = error(rules).expect(text);
            assert!(error.contains(text), "{error}");
        };
        contains(vec![(Duration::ZERO, Action::abort())], "from 10 ms to 24 hours, not 0ns");
        contains(vec![(Duration::MAX, Action::abort())], "24 hours");
        contains(vec![(SECOND, Action::abort()), (2 * SECOND, Action::exit(1))], "only once");
        contains(vec![(SECOND, Action::log_threads()), (SECOND, Action::log_threads())], "twice after 1s");
        let write = || (SECOND, Action::write_threads(&temp));
        contains(vec![write(), write()], "write_threads twice");
        for code in [-1, 0, 256] {
            contains(vec![(SECOND, Action::exit(code))], "from 1 to 255");
        }
        contains(
            vec![(SECOND, Action::write_threads("/does/not/exist/threads.txt"))],
            "/does/not/exist does not exist",
        );
        contains(vec![(SECOND, Action::write_threads("/"))], "the path of a file");
        contains((0..33).map(|_| (SECOND, Action::call(|_| {}))).collect(), "at most 32");
        let log = [IncidentRule::new(SECOND, Action::log_threads())];
        assert!(check(&log, false).unwrap_err().contains("log(false)"));
    }

    #[test]
    fn what_can_be_meant_is_accepted() {
        let temp = std::env::temp_dir().join("threads.txt");
        let rules = vec![
            (SECOND, Action::call(|_| {})),
            (SECOND, Action::call(|_| {})),
            (SECOND, Action::log_threads()),
            (2 * SECOND, Action::log_threads()),
            (SECOND, Action::print_threads()),
            (SECOND, Action::write_threads(temp)),
            (SECOND, Action::write_threads("threads.txt")),
            (SECOND, Action::exit(255)),
        ];
        assert_eq!(error(rules), None);
        assert_eq!(error(Vec::new()), None);
    }
}

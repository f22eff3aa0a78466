use std::str::{FromStr, SplitAsciiWhitespace};
use std::time::Duration;

use super::{PageFaults, UNIT_MILLIS};
use crate::CpuModes;

/// What the kernel says of a thread in one reading of `/proc/<pid>/task/<tid>/stat`.
///
/// ```
/// use pollwatch_stack::procfs::{ProcessFolder, RunState};
/// use pollwatch_stack::Tid;
///
/// if let Some(stat) = Tid::current().and_then(|own| ProcessFolder::OWN.stat(own)) {
///     assert_eq!(stat.state, RunState::Running); // a thread that reads runs
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadStat {
    /// The state in which the scheduler has the thread.
    pub state: RunState,
    /// The CPU time by mode, in units of 10 ms.
    pub cpu: CpuModes,
    /// The page faults.
    pub page_faults: PageFaults,
    /// The time at which the thread was started, since the start of the machine, in units of 10 ms.
    pub started: Duration,
}

/// The state in which the scheduler has a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunState {
    /// `R`: it runs, or is ready to run.
    Running,
    /// `S`: it waits, and a signal would end the wait.
    Sleeping,
    /// `D`: it waits, and no signal ends the wait.
    Uninterruptible,
    /// `T`: the process was stopped, by SIGSTOP for example.
    Stopped,
    /// `t`: a debugger has stopped it.
    Traced,
    /// `Z` or `X`: it has ended.
    Ended,
    /// A state of the kernel's own threads, or of a later kernel.
    Other(char),
}

impl RunState {
    fn of(letter: char) -> RunState {
        match letter {
            'R' => RunState::Running,
            'S' => RunState::Sleeping,
            'D' => RunState::Uninterruptible,
            'T' => RunState::Stopped,
            't' => RunState::Traced,
            'Z' | 'X' | 'x' => RunState::Ended,
            other => RunState::Other(other),
        }
    }
}

impl ThreadStat {
    /// Parses the text of `stat`. The numbers are those of `proc_pid_stat(5)`, where the state is
    /// the third field.
    pub(super) fn parse(stat: &str) -> Option<ThreadStat> {
        let mut fields = fields_after_name(stat)?;
        let state = RunState::of(fields.next()?.chars().next()?);
        let minor = number(fields.nth(6)?)?;
        let major = number(fields.nth(1)?)?;
        let user = time(fields.nth(1)?)?;
        let system = time(fields.next()?)?;
        let started = time(fields.nth(6)?)?;
        let page_faults = PageFaults { minor, major };
        Some(ThreadStat { state, cpu: CpuModes { user, system }, page_faults, started })
    }
}

fn number<T: FromStr>(field: &str) -> Option<T> {
    field.parse().ok()
}

fn time(field: &str) -> Option<Duration> {
    number::<u64>(field)?.checked_mul(UNIT_MILLIS).map(Duration::from_millis)
}

/// Returns the fields of `stat` from the third on, which is the state.
///
/// The second field is the thread's name in parentheses, which may contain any character. The last
/// parenthesis is its end.
pub(crate) fn fields_after_name(stat: &str) -> Option<SplitAsciiWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let expected = ThreadStat {
            state: RunState::Running,
            cpu: CpuModes { user: Duration::from_millis(110), system: Duration::from_millis(50) },
            page_faults: PageFaults { minor: 1234, major: 56 },
            started: Duration::from_millis(990),
        };
        for name in ["worker", "a b", "a) R 1 2 3 4 5 6 7 8 9", ")", "((", ""] {
            let stat = format!("77 ({name}) R 1 77 77 0 -1 4194304 1234 0 56 0 11 5 0 0 20 0 1 0 99\n");
            assert_eq!(ThreadStat::parse(&stat), Some(expected), "{name}");
            let sleeping = ThreadStat::parse(&stat.replace(") R", ") S")).unwrap();
            assert_eq!(sleeping.state, RunState::Sleeping, "{name}");
        }
        for bad in ["", "77 (a R 1", "77 (a) R 1 77 77 0 -1 4194304 1234 0", "77 (a) R 1 77 77 0 -1 4194304 x 0 56"] {
            assert_eq!(ThreadStat::parse(bad), None, "{bad}");
        }
    }
}

//! Counts of what pollwatch said about blocks, right and wrong, the bars for them, and the reports
//! of a run in which each block has a task of its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Stall, Watchdog};

use super::poll_recorder::lock;

/// The number of wrong values, and of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) wrong: usize,
    pub(crate) of: usize,
}

impl Score {
    pub(crate) fn add(&mut self, is_right: bool) {
        self.of += 1;
        self.wrong += usize::from(!is_right);
    }
}

/// What pollwatch said about one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Right,
    Wrong,
    /// It said nothing.
    Missing,
}

impl Statement {
    pub(crate) fn of(is_right: bool) -> Statement {
        if is_right { Statement::Right } else { Statement::Wrong }
    }
}

/// The statements of one sort.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statements {
    /// Those that were made.
    pub(crate) made: Score,
    pub(crate) missing: usize,
}

impl Statements {
    /// Counts one statement. `describe` says what it is about, for the list of faults.
    pub(crate) fn add(
        &mut self,
        sort: &str,
        statement: Statement,
        faults: &mut Vec<String>,
        describe: impl FnOnce() -> String,
    ) {
        let fault = match statement {
            Statement::Right => return self.made.add(true),
            Statement::Wrong => {
                self.made.add(false);
                "wrong"
            }
            Statement::Missing => {
                self.missing += 1;
                "no"
            }
        };
        faults.push(format!("{fault} {sort}: {}", describe()));
    }

    pub(crate) fn right(&self) -> usize {
        self.made.of - self.made.wrong
    }
}

/// A description of each bar that was missed.
#[derive(Debug, Default)]
pub(crate) struct MissedBars(Vec<String>);

impl MissedBars {
    /// Adds a bar if it is missed.
    pub(crate) fn require(&mut self, is_met: bool, text: impl FnOnce() -> String) {
        if !is_met {
            self.0.push(text());
        }
    }

    /// Adds a bar if more are wrong than it allows.
    pub(crate) fn allow(&mut self, allowed: usize, score: Score, text: &str) {
        self.require(score.wrong <= allowed, || format!("{} of {} {text}", score.wrong, score.of));
    }

    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

/// The reports of a watchdog, by the task of each block.
#[derive(Clone, Default)]
pub(crate) struct TaskReports(Arc<Mutex<Vec<Stall>>>);

impl TaskReports {
    /// Starts a watchdog whose reports are kept.
    pub(crate) fn start(&self, threshold: Duration) -> Watchdog {
        let keep = self.0.clone();
        let builder = Watchdog::builder().threshold(threshold).log(false);
        builder.on_stall(move |stall| lock(&keep).push(stall.clone())).start().expect("starts")
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Returns the reports of a task so far.
    pub(crate) fn of(&self, task: tokio::task::Id) -> Vec<Stall> {
        lock(&self.0).iter().filter(|stall| stall.task == Some(task)).cloned().collect()
    }

    /// Waits for a report of a task, for a limited time.
    pub(crate) fn wait(
        &self,
        task: tokio::task::Id,
        limit: Duration,
        is_wanted: impl Fn(&Stall) -> bool,
    ) -> Option<Stall> {
        let start = Instant::now();
        loop {
            let found = self.of(task).into_iter().rfind(&is_wanted);
            if found.is_some() || start.elapsed() > limit {
                return found;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_and_faults_described() {
        let (mut statements, mut faults) = (Statements::default(), Vec::new());
        for statement in [Statement::Right, Statement::Wrong, Statement::of(true), Statement::Missing] {
            statements.add("cause", statement, &mut faults, || "of a block".to_owned());
        }
        assert_eq!((statements.made, statements.missing), (Score { wrong: 1, of: 3 }, 1));
        assert_eq!(
            (statements.right(), faults),
            (2, vec!["wrong cause: of a block".into(), "no cause: of a block".into()])
        );
    }

    #[test]
    fn a_bar_is_missed_by_more_than_is_allowed() {
        let mut bars = MissedBars::default();
        bars.allow(1, Score { wrong: 1, of: 9 }, "are wrong");
        bars.require(true, || "is met".to_owned());
        bars.allow(0, Score { wrong: 1, of: 9 }, "are wrong");
        bars.require(false, || "is missed".to_owned());
        assert_eq!(bars.into_vec(), ["1 of 9 are wrong", "is missed"]);
    }
}

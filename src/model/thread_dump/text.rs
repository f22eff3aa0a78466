//! The text form of a thread dump.

use std::fmt;
use std::time::SystemTime;

use pollwatch_stack::Stack;

use super::{ThreadActivity, ThreadDump, ThreadGroup, ThreadInfo, ThreadRole};
use crate::model::cause::Syscall;
use crate::model::time::Millis;

/// The most functions of one stack that are shown.
const MAX_FUNCTIONS: usize = 64;

impl fmt::Display for ThreadActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ThreadActivity::Running => "running",
            ThreadActivity::Waiting => "waiting",
            ThreadActivity::Unknown => "unknown",
        })
    }
}

impl fmt::Display for ThreadRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |runtime: &Option<_>| runtime.as_ref().map(|name| format!(" of {name:?}")).unwrap_or_default();
        match self {
            ThreadRole::Worker { runtime, index: Some(index) } => write!(f, "worker {index}{}", of(runtime)),
            ThreadRole::Worker { runtime, index: None } => write!(f, "worker{}", of(runtime)),
            ThreadRole::BlockingPool { runtime } => write!(f, "blocking pool{}", of(runtime)),
            ThreadRole::Pollwatch => f.write_str("pollwatch"),
            ThreadRole::Other => f.write_str("other"),
        }
    }
}

impl fmt::Display for ThreadDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.taken_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        write!(f, "{} threads at {}.{:03} s (Unix time)", self.threads, at.as_secs(), at.subsec_millis())?;
        writeln!(f, ", {} with a stack; CPU shares over {}", self.with_stack, Millis(self.cpu_window))?;
        if let Some(why) = &self.stacks_missing {
            writeln!(f, "stacks are missing: {why}")?;
        }
        if self.not_reached > 0 {
            writeln!(f, "{} threads were not reached within the time limit", self.not_reached)?;
        }
        if self.symbols_pending {
            writeln!(f, "functions have no names yet: symbols are being loaded, a later dump has them")?;
        }
        for group in &self.groups {
            write!(f, "\n{group}")?;
        }
        if self.in_omitted_groups > 0 {
            writeln!(f, "\n{} threads are in groups that were omitted", self.in_omitted_groups)?;
        }
        Ok(())
    }
}

impl fmt::Display for ThreadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.count == 1 { "thread" } else { "threads" };
        write!(f, "{} {noun}, {}", self.count, self.role.without_index())?;
        match (self.is_idle, self.activity) {
            (true, _) => f.write_str(", idle")?,
            (false, ThreadActivity::Unknown) => {}
            (false, activity) => write!(f, ", {activity}")?,
        }
        if !self.is_idle && !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        if let Some(Syscall { name, .. }) = &self.syscall {
            write!(f, " ({name})")?;
        }
        if let Some(waited) = self.waits_at_least.filter(|_| !self.is_idle) {
            write!(f, " for at least {}", Millis(waited))?;
        }
        writeln!(f, ", {:.0} % CPU", self.cpu_share * 100.0)?;
        for thread in &self.threads {
            writeln!(f, "  {thread}")?;
        }
        if self.count > self.threads.len() {
            writeln!(f, "  and {} more", self.count - self.threads.len())?;
        }
        match (&self.stack, self.stack_missing) {
            (Some(stack), _) if self.is_idle || self.role == ThreadRole::Pollwatch => writeln!(f, "    at {stack}"),
            (Some(stack), _) => fmt_functions(f, stack),
            (None, Some(why)) => writeln!(f, "    no stack: {why}"),
            (None, None) => Ok(()),
        }
    }
}

/// Writes the functions of a stack from the innermost one to the program's outermost one. Those
/// outwards from there start the thread, which its role says.
fn fmt_functions(f: &mut fmt::Formatter<'_>, stack: &Stack) -> fmt::Result {
    let inner = stack.inner_frames();
    let shown = inner.iter().take(MAX_FUNCTIONS).enumerate();
    shown.into_iter().try_for_each(|(i, frame)| writeln!(f, "    {i:3}: {frame}"))?;
    match inner.len().saturating_sub(MAX_FUNCTIONS) {
        0 if stack.is_complete() => Ok(()),
        0 => writeln!(f, "         (incomplete)"),
        omitted => writeln!(f, "         {omitted} more functions"),
    }
}

impl fmt::Display for ThreadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may contain anything. A line break would look like another thread.
        let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let name: String = self.name.chars().map(printable).collect();
        let name = if name.is_empty() { "?" } else { &name };
        write!(f, "{name} ({})", self.tid)?;
        if let ThreadRole::Worker { index: Some(index), .. } = self.role {
            write!(f, ", worker {index}")?;
        }
        if let Some(share) = self.cpu_share {
            write!(f, ", {:.0} % CPU", share * 100.0)?;
        }
        if let Some(time) = self.cpu_time {
            write!(f, ", {} CPU time", Millis(time))?;
        }
        if let Some(poll) = self.poll {
            write!(f, ", in a poll for {}", Millis(poll))?;
        }
        if let Some(site) = &self.site {
            write!(f, " of the task spawned at {site}")?;
        }
        if let Some(route) = &self.route {
            write!(f, ", route {route}")?;
        }
        if let Some(target) = self.syscall.as_ref().and_then(|syscall| syscall.target.as_ref()) {
            write!(f, ", on {target}")?;
        }
        Ok(())
    }
}

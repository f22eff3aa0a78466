//! The ground truth: the blocks that the target has injected, as it recorded them itself.

use std::fmt;
use std::str::FromStr;

/// A moment by the clock of the machine (`CLOCK_REALTIME`), in nanoseconds since 1970. The reports
/// of the program use the same clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// Returns this moment.
    pub fn now() -> UnixNanos {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        UnixNanos(now.map_or(0, |since| since.as_nanos() as u64))
    }
}

/// What a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Computes in one poll of a task.
    Computes,
    /// Sleeps.
    Sleeps,
    /// Waits for a `std::sync::Mutex`.
    Locks,
    /// Waits for a message in a channel of the standard library.
    Receives,
    /// Reads from a pipe.
    ReadsPipe,
    /// Reads from a socket.
    ReadsSocket,
    /// Sleeps in `block_in_place`, which hands the worker on. It blocks no worker.
    InPlace,
    /// Sleeps in `spawn_blocking`. It blocks no worker.
    Pool,
}

impl Kind {
    /// Each kind that blocks a worker.
    pub const BLOCKING: [Kind; 6] =
        [Kind::Computes, Kind::Sleeps, Kind::Locks, Kind::Receives, Kind::ReadsPipe, Kind::ReadsSocket];

    /// Each kind that blocks no worker.
    pub const HARMLESS: [Kind; 2] = [Kind::InPlace, Kind::Pool];

    /// The name of the kind in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Computes => "computes",
            Kind::Sleeps => "sleeps",
            Kind::Locks => "locks",
            Kind::Receives => "receives",
            Kind::ReadsPipe => "reads_pipe",
            Kind::ReadsSocket => "reads_socket",
            Kind::InPlace => "in_place",
            Kind::Pool => "pool",
        }
    }

    /// Returns true if a block of this kind blocks a worker.
    pub fn blocks_a_worker(self) -> bool {
        Kind::BLOCKING.contains(&self)
    }

    /// Returns true if a block of this kind waits in one system call.
    pub fn waits(self) -> bool {
        self != Kind::Computes
    }

    /// The name of the function that blocks, with its module.
    pub fn function(self) -> String {
        format!("attach_target::kinds::{}", self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let mut all = Kind::BLOCKING.into_iter().chain(Kind::HARMLESS);
        all.find(|kind| kind.as_str() == text).ok_or_else(|| format!("unknown kind {text:?}"))
    }
}

/// One block: what the target did on one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it does.
    pub kind: Kind,
    /// The name of its thread. Each thread of the target has another.
    pub thread: String,
    /// The line of the call that blocks. A computation has the first line of its loop.
    pub line: u32,
    /// The start, before the call.
    pub start: UnixNanos,
    /// The end, after the call.
    pub end: UnixNanos,
    /// The time within it that the thread waited for a CPU according to the kernel, in nanoseconds.
    pub run_delay: u64,
}

impl Block {
    /// Returns how long the thread was kept, in nanoseconds, without the wait for a CPU.
    pub fn nanos(&self) -> u64 {
        (self.end.0 - self.start.0).saturating_sub(self.run_delay)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Block { kind, thread, line, start, end, run_delay } = self;
        write!(f, "{}\t{thread}\t{line}\t{}\t{}\t{run_delay}", kind.as_str(), start.0, end.0)
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Block, String> {
        let fields: Vec<_> = text.split('\t').collect();
        let [kind, thread, line, start, end, run_delay] = fields[..] else {
            return Err(format!("not a block: {text:?}"));
        };
        let number = |field: &str| field.parse::<u64>().map_err(|error| format!("{error} in {text:?}"));
        Ok(Block {
            kind: kind.parse()?,
            thread: thread.into(),
            line: number(line)? as u32,
            start: UnixNanos(number(start)?),
            end: UnixNanos(number(end)?),
            run_delay: number(run_delay)?,
        })
    }
}

/// Returns the blocks of a file that the target wrote. An incomplete last line is none.
pub fn parse(text: &str) -> Result<Vec<Block>, String> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().map(str::parse).collect()
}

//! Locks that threads wait for, and who holds them.

use std::fmt;
use std::sync::Arc;

use pollwatch_stack::{Address, Frame, Stack, Tid};

use super::pool::PoolActivity;
use super::site::Site;

/// The lock that the thread of a stall waits for.
///
/// Who holds it is an inference, except for mutexes of the C library, which record their owner: the
/// stacks of all threads are searched for functions that have to drop a guard of the lock if they
/// panic. `Display` formats it like the log.
///
/// ```
/// use pollwatch::Holder;
///
/// let builder = pollwatch::Watchdog::builder().on_stall(|stall| {
///     let Some(lock) = &stall.lock else { return };
///     match &lock.holder {
///         Holder::Thread(thread) => eprintln!("{} is held by {}", lock.address, thread.name),
///         Holder::NoRunningCode => eprintln!("{} is held across an .await", lock.address),
///         _ => {}
///     }
/// });
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockInfo {
    /// The address of the lock.
    #[cfg_attr(feature = "serde", serde(serialize_with = "address_as_text"))]
    pub address: Address,
    /// Who holds the lock.
    pub holder: Holder,
    /// True if the thread is part of a deadlock: each of its threads waits for a lock that the next
    /// one holds.
    pub is_deadlock: bool,
}

/// The holder of a lock.
///
/// # Examples
///
/// See [`LockInfo`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Holder {
    /// A thread, on whose stack the guard is.
    Thread(Box<HolderThread>),
    /// No thread has the guard on its stack, though the lock is held: a guard is kept across an
    /// `.await`, or in another value on the heap.
    NoRunningCode,
    /// Unknown: not all threads could be searched, or several may hold the lock.
    Unknown,
}

/// A thread that holds a lock.
///
/// # Examples
///
/// See [`LockInfo`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HolderThread {
    /// The name of the thread.
    pub name: Arc<str>,
    /// The kernel's id of the thread.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize::tid_as_number"))]
    pub tid: Tid,
    /// True if it is the thread that waits for the lock: it has locked it before.
    pub is_waiting_itself: bool,
    /// True if the lock records its owner. Otherwise the holder is inferred from its stack.
    pub is_recorded: bool,
    /// The site where the task was spawned that the thread polls, if that is measured.
    pub site: Option<Site>,
    /// The function that has the guard, and the line that it is at.
    pub location: Option<Frame>,
    /// The stack of the thread, where it could be captured.
    pub stack: Option<Stack>,
}

impl LockInfo {
    /// Returns whether anything is known about the holder.
    pub(crate) fn is_informative(&self) -> bool {
        self.is_deadlock || !matches!(self.holder, Holder::Unknown)
    }

    /// Returns the advice that follows from the holder, if any.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        if self.is_deadlock {
            return Some(DEADLOCK_ADVICE);
        }
        match &self.holder {
            Holder::NoRunningCode => Some(
                "drop the guard before the .await (end its block, or call drop), or use tokio::sync::Mutex or RwLock",
            ),
            Holder::Thread(thread) if thread.is_waiting_itself => {
                Some("lock it once: pass the guard on, or drop it before the code that locks again")
            }
            _ => None,
        }
    }

    /// Returns the text that follows the reason of a stall: who holds the lock.
    pub(crate) fn display<'a>(&'a self, reason: &'a str) -> impl fmt::Display {
        LockText { lock: self, noun: lock_noun(reason) }
    }
}

impl fmt::Display for LockInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LockText { lock: self, noun: "lock" }.fmt(f)
    }
}

/// The reasons of stalls that name a lock.
const LOCK_REASONS: &[&str] = &[
    "a lock",
    "a Mutex",
    "an RwLock",
    "a lock of C code",
    "a lock within tokio",
    "a shard of a DashMap",
    "the value of a tokio::sync::watch channel",
    "the Python GIL",
];

/// Returns the noun of the lock that a stall with this reason waits for. Other reasons than those
/// of locks name an activity, such as a print or a database call, which needs a lock.
pub(crate) fn lock_noun(reason: &str) -> &str {
    match reason.split_once(' ') {
        Some((_article, noun)) if LOCK_REASONS.contains(&reason) => noun,
        _ => "lock within it",
    }
}

/// What is known of a lock, which is called by a noun.
struct LockText<'a> {
    lock: &'a LockInfo,
    noun: &'a str,
}

impl fmt::Display for LockText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LockText { lock, noun } = self;
        match &lock.holder {
            Holder::Thread(thread) if thread.is_waiting_itself => {
                write!(f, "the {noun} is held, it seems, by this same thread")?;
                thread.fmt_location(f)?;
            }
            Holder::Thread(thread) => {
                let seems = if thread.is_recorded { "" } else { ", it seems," };
                write!(f, "the {noun} is held{seems} by thread {:?}", thread.name)?;
                thread.fmt_location(f)?;
            }
            Holder::NoRunningCode => {
                write!(f, "the {noun} is held by no running code: it seems that a guard is kept across an .await")?;
            }
            Holder::Unknown => write!(f, "it is unknown who holds the {noun}")?,
        }
        if lock.is_deadlock { f.write_str(" (a deadlock)") } else { Ok(()) }
    }
}

impl HolderThread {
    fn fmt_location(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, " at {location}"),
            None => Ok(()),
        }
    }
}

/// The advice about deadlocks.
pub(crate) const DEADLOCK_ADVICE: &str =
    "take the locks in the same order everywhere, or drop the guard of one before the other is locked";

/// A deadlock: threads of which each waits for a lock that the next one holds, and the last one for
/// a lock of the first.
#[derive(Clone, Debug)]
pub(crate) struct Deadlock {
    pub(crate) threads: Vec<DeadlockedThread>,
}

/// A thread of a deadlock.
#[derive(Clone, Debug)]
pub(crate) struct DeadlockedThread {
    pub(crate) name: Arc<str>,
    pub(crate) tid: Tid,
    /// The site where the task was spawned that the thread polls, if that is measured.
    pub(crate) site: Option<Site>,
    /// The address of the lock that it waits for.
    pub(crate) waits_for: Address,
    /// The function that waits.
    pub(crate) waits_at: Option<Frame>,
    /// The function that has the guard for which the thread before it waits.
    pub(crate) holds_at: Option<Frame>,
}

impl Deadlock {
    /// Returns the first line of the deadlock's text.
    pub(crate) fn summary(&self) -> String {
        match &self.threads[..] {
            [_] => "a thread waits, it seems, for a lock that it holds itself".to_owned(),
            threads => format!("{} threads wait, it seems, for locks of each other", threads.len()),
        }
    }

    /// Returns a text of each thread, in one line.
    pub(crate) fn of_each(&self, text: impl Fn(&DeadlockedThread) -> String) -> String {
        self.threads.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for (index, thread) in self.threads.iter().enumerate() {
            let next = &self.threads[(index + 1) % self.threads.len()];
            write!(f, "\n  thread {:?} ({})", thread.name, thread.tid)?;
            if let Some(site) = &thread.site {
                write!(f, ", task spawned at {site},")?;
            }
            write!(f, " waits for {}", thread.waits_for)?;
            if let Some(at) = &thread.waits_at {
                write!(f, " at {at}")?;
            }
            write!(f, ", which thread {:?} ({}) holds", next.name, next.tid)?;
            if let Some(at) = &next.holds_at {
                write!(f, " at {at}")?;
            }
        }
        write!(f, "\n  advice: {DEADLOCK_ADVICE}")
    }
}

/// A thread that waits in a futex, which may be that of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockWait {
    pub(crate) tid: Tid,
    pub(crate) futex: Address,
}

/// What was found about a thread that waits for a lock.
#[derive(Clone, Debug)]
pub(crate) struct LockFindings {
    pub(crate) lock: LockInfo,
    /// The deadlock that the thread is part of, if it was not returned before.
    pub(crate) deadlock: Option<Deadlock>,
}

/// The search for holders of locks. It may take some milliseconds, so it is not made on the
/// watchdog thread.
pub(crate) trait LockInspector: fmt::Debug + Send + Sync {
    /// Returns what is known about the lock that a thread with this stack waits for. `None` if it
    /// no longer waits, if it waits for no known lock, or if too many searches were made.
    fn inspect(&self, wait: LockWait, stack: &Stack) -> Option<LockFindings>;

    /// Returns what the threads of rayon do, if a thread with this stack waits for one of its
    /// pools. `None` if it no longer waits, if all of them sleep, or if too many searches were
    /// made.
    fn inspect_pool(&self, wait: LockWait, stack: &Stack) -> Option<PoolActivity>;

    /// Returns why no holder can be found, once.
    fn take_problem(&self) -> Option<&'static str>;
}

#[cfg(feature = "serde")]
fn address_as_text<S: serde::Serializer>(address: &Address, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(address)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn held_by(holder: Holder) -> LockInfo {
        LockInfo { address: Address::new(0x7000), holder, is_deadlock: false }
    }

    fn thread(name: &str, function: &str) -> HolderThread {
        let mut location = Frame::default();
        (location.function, location.file, location.line) = (Some(function.into()), Some("src/a.rs".into()), Some(7));
        HolderThread {
            name: name.into(),
            tid: Tid::from_raw(42),
            is_waiting_itself: false,
            is_recorded: false,
            site: None,
            location: Some(location),
            stack: None,
        }
    }

    #[test]
    fn holders_are_described_as_inferences() {
        let text = |holder, reason| held_by(holder).display(reason).to_string();
        let holder = thread("worker 3", "app::refill");
        let held = "the Mutex is held, it seems, by thread \"worker 3\" at app::refill (src/a.rs:7)";
        assert_eq!(text(Holder::Thread(holder.clone().into()), "a Mutex"), held);
        let recorded = Holder::Thread(HolderThread { is_recorded: true, ..holder.clone() }.into());
        let held = "the lock of C code is held by thread \"worker 3\" at app::refill (src/a.rs:7)";
        assert_eq!(text(recorded, "a lock of C code"), held);
        let itself = Holder::Thread(HolderThread { is_waiting_itself: true, ..holder }.into());
        let held = "the RwLock is held, it seems, by this same thread at app::refill (src/a.rs:7)";
        assert_eq!(text(itself, "an RwLock"), held);
        let activity = text(Holder::NoRunningCode, "a database call (SQLite)");
        assert!(activity.starts_with("the lock within it is held by no running code"), "{activity}");
        let nobody = "the lock is held by no running code: it seems that a guard is kept across an .await";
        assert_eq!(held_by(Holder::NoRunningCode).to_string(), nobody);
        let deadlock = LockInfo { is_deadlock: true, ..held_by(Holder::Unknown) };
        assert_eq!(deadlock.to_string(), "it is unknown who holds the lock (a deadlock)");
    }

    #[cfg(feature = "server")]
    #[test]
    fn holders_as_json() {
        let json = |holder| serde_json::to_value(held_by(holder)).unwrap();
        let nobody = serde_json::json!({ "address": "0x7000", "holder": "no_running_code", "is_deadlock": false });
        assert_eq!(json(Holder::NoRunningCode), nobody);
        let thread = &json(Holder::Thread(thread("worker 3", "app::refill").into()))["holder"]["thread"];
        assert_eq!((&thread["name"], &thread["tid"]), (&"worker 3".into(), &42.into()));
        assert_eq!(thread["location"]["function"], "app::refill");
    }

    #[test]
    fn a_deadlock_names_each_thread_and_lock() {
        let frame = |name: &str| thread("", name).location;
        let member = |name: &str, tid, lock, waits, holds| DeadlockedThread {
            name: name.into(),
            tid: Tid::from_raw(tid),
            site: None,
            waits_for: Address::new(lock),
            waits_at: frame(waits),
            holds_at: frame(holds),
        };
        let threads = vec![member("a", 1, 0x10, "app::f", "app::f"), member("b", 2, 0x20, "app::g", "app::h")];
        let text = Deadlock { threads }.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "2 threads wait, it seems, for locks of each other");
        let first = "  thread \"a\" (1) waits for 0x10 at app::f (src/a.rs:7), which thread \"b\" (2) holds at app::h";
        assert!(lines[1].starts_with(first), "{text}");
        assert!(lines[2].contains("waits for 0x20 at app::g (src/a.rs:7), which thread \"a\" (1) holds"), "{text}");
    }
}

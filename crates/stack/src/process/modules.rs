//! The modules of another process, read again when others are mapped.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::code::CodePages;
use super::objects::{self, Place};
use super::{Process, ProcessChange, ProcessError, permission};
use crate::capture::Modules;
use crate::panics::catches_panic;
use crate::procfs::ProcessFolder;

/// The time after which modules are read again if some of their memory did not come in time. A
/// thread of the process may have held the lock of its memory, or this process had no CPU.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The time after which they are not read again. Memory that has not come by then never comes. A
/// useful part of the time that reading modules may take is free again before.
const RETRY_TIME: Duration = Duration::from_secs(60);

/// What was read of the modules of one program.
#[derive(Debug, Default)]
pub(super) struct ModulesReading {
    /// The mapped files of which the modules were read.
    hash: Option<u64>,
    /// The latest attempt, if some memory was given up.
    failed: Option<FailedAttempt>,
    /// True if the modules that are known are those of such an attempt.
    is_partial: bool,
}

/// An attempt to read the modules in which some of their memory was given up, or was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FailedAttempt {
    /// The mapped files at that time.
    hash: u64,
    /// The first attempt with these files.
    first: Instant,
    latest: Instant,
}

impl ModulesReading {
    /// Returns whether the modules of these mapped files are to be read.
    fn is_due(&self, hash: u64, now: Instant) -> bool {
        let failed = self.failed.filter(|failed| failed.hash == hash);
        self.hash != Some(hash)
            && failed.is_none_or(|failed| now.saturating_duration_since(failed.latest) >= RETRY_INTERVAL)
    }

    /// Notes that the modules of these mapped files were read. `is_whole` says whether all of their
    /// memory was.
    fn note(&mut self, hash: u64, is_whole: bool, now: Instant) {
        if is_whole {
            (self.hash, self.failed) = (Some(hash), None);
            return;
        }
        let first = self.failed.filter(|failed| failed.hash == hash).map_or(now, |failed| failed.first);
        self.failed = Some(FailedAttempt { hash, first, latest: now });
        let is_given_up = now.saturating_duration_since(first) >= RETRY_TIME;
        self.hash = is_given_up.then_some(hash);
    }
}

impl Process {
    /// Reads the mappings, and the modules if others are mapped than before. Where memory of the
    /// modules does not come, those that are known stay, and they are read again later.
    pub(super) fn read_modules(&mut self, number: u64, entry: Option<u64>) -> Result<ProcessChange, ProcessError> {
        match self.maps.read(self.anchor, &self.memory) {
            // The process keeps the list locked, or no thread could be made to read it. The one
            // before is still there.
            Err(error) if is_passing(error.kind()) && !self.maps.is_empty() => {
                return Ok(ProcessChange::Nothing);
            }
            read => read.map_err(|error| permission::explain(self.pid, self.anchor, error))?,
        }
        if self.maps.is_empty() {
            self.identity.check()?;
            return Err(ProcessError::Zombie { pid: self.pid });
        }
        let hash = self.maps.files_hash();
        if !self.reading.is_due(hash, Instant::now()) {
            return Ok(ProcessChange::Nothing);
        }
        let lost = self.memory.lost_module_reads();
        let memory = &self.memory;
        let read = |from: u64, to: &mut [u8]| memory.read_module(from, to);
        let place = Place { anchor: ProcessFolder::of(self.anchor), number, entry };
        // Of modules whose memory was given up, nothing is taken over.
        let none = Modules::of_another_process();
        let is_partial = self.reading.is_partial;
        let previous = if is_partial { &none } else { &*self.modules };
        let (mut modules, mut unsearched) = (None, 0);
        // A malformed object may make the reader panic.
        catches_panic(|| {
            let objects::FoundObjects { list: objects, left_out } = objects::of(&self.maps.files, &place, &read);
            unsearched = left_out;
            // Something else was mapped, such as generated code.
            let are_same = self.version > 0 && !is_partial && self.modules.are(&objects, &read);
            modules = Some((!are_same).then(|| Modules::of_objects(objects, previous, &read)));
        });
        let is_whole = self.memory.lost_module_reads() == lost;
        self.reading.note(hash, is_whole, Instant::now());
        if !is_whole && number == self.number {
            // What is known of this program is more than what such an attempt has left.
            return Ok(ProcessChange::Nothing);
        }
        (self.reading.is_partial, self.unsearched) = (!is_whole, unsearched);
        let Some(modules) = modules.unwrap_or_else(|| Some(Modules::of_another_process())) else {
            return Ok(ProcessChange::Nothing);
        };
        (self.modules, self.code) = (Arc::new(modules), CodePages::default());
        self.version += 1;
        Ok(ProcessChange::Modules)
    }
}

/// Returns whether an error of reading the mappings may be over soon.
fn is_passing(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn modules_whose_memory_was_given_up_are_read_again_for_some_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reading = ModulesReading::default();
        assert!(reading.is_due(7, start));
        reading.note(7, false, start);
        assert!(!reading.is_due(7, start) && reading.is_due(7, at(1)) && reading.is_due(8, start));
        reading.note(7, false, at(59));
        assert!(reading.is_due(7, at(60)));
        reading.note(7, false, at(60));
        assert!(!reading.is_due(7, at(600)) && reading.is_due(8, at(600)), "its memory never comes");
        reading.note(8, false, at(600));
        assert!(reading.is_due(8, at(601)), "other files are mapped");
        reading.note(8, true, at(601));
        assert!(!reading.is_due(8, at(700)) && reading.is_due(7, at(700)));
    }
}

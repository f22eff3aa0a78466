//! Access to the symbols of the process, for a thread that must not wait until they are loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch_stack::{RawStack, Stack, Symbolizer};

use crate::util::call_user;

/// The time for which a result is put off while symbols are loaded, or used by another thread.
const PATIENCE: Duration = Duration::from_secs(5);
/// Results that were put off belong together if the time between them is shorter.
const PAUSE: Duration = Duration::from_millis(500);
/// The thread that loads symbols which had been released.
const LOADER_NAME: &str = "pollwatch-load";

/// The functions of a stack, where they could be found at once.
pub(super) enum Symbolized {
    Stack {
        stack: Stack,
        /// True if files with a part of the debug information are missing.
        lacks_split_units: bool,
    },
    /// The symbols cannot be used at this moment, but may be soon.
    PutOff,
    /// The symbols are not to be loaded, or could not be used for so long that nobody waits for
    /// them any more.
    Unavailable,
}

/// Symbolizes stacks without a wait. Symbols are loaded by another thread.
#[derive(Debug, Default)]
pub(super) struct SymbolAccess {
    put_off: Option<PutOff>,
    /// True while a thread loads symbols.
    is_loading: Arc<AtomicBool>,
}

/// A time in which all results were put off.
#[derive(Clone, Copy, Debug)]
struct PutOff {
    since: Instant,
    latest: Instant,
}

impl SymbolAccess {
    /// Returns the functions of a stack, if the symbols are loaded and nobody else uses them.
    /// `may_load` says whether they are loaded otherwise.
    pub(super) fn symbolize(&mut self, raw: &RawStack, may_load: impl FnOnce() -> bool) -> Symbolized {
        // Whoever loads symbols holds the lock for seconds.
        let Some(mut symbolizer) = Symbolizer::try_shared() else { return self.without_symbols() };
        if !symbolizer.is_loaded_for(raw) {
            drop(symbolizer);
            if !may_load() {
                return Symbolized::Unavailable;
            }
            self.load(raw);
            return self.without_symbols();
        }
        self.put_off = None;
        let stack = symbolizer.symbolize(raw);
        Symbolized::Stack { stack, lacks_split_units: symbolizer.lacks_split_units(raw) }
    }

    /// Returns whether the symbols of a stack are loaded and nobody else uses them. `may_load` says
    /// whether they are loaded otherwise.
    pub(super) fn is_loaded(&mut self, raw: &RawStack, may_load: impl FnOnce() -> bool) -> bool {
        let is_loaded = Symbolizer::try_shared().map(|symbolizer| symbolizer.is_loaded_for(raw));
        if is_loaded == Some(false) && may_load() {
            self.load(raw);
        }
        is_loaded == Some(true)
    }

    /// Returns the result while symbols cannot be used.
    fn without_symbols(&mut self) -> Symbolized {
        let latest = Instant::now();
        let is_same = |put_off: &PutOff| latest.duration_since(put_off.latest) < PAUSE;
        let since = self.put_off.filter(is_same).map_or(latest, |put_off| put_off.since);
        self.put_off = Some(PutOff { since, latest });
        if latest.duration_since(since) >= PATIENCE { Symbolized::Unavailable } else { Symbolized::PutOff }
    }

    /// Loads the symbols for a stack on a thread of its own, unless there is one.
    fn load(&mut self, raw: &RawStack) {
        if self.is_loading.swap(true, Ordering::AcqRel) {
            return;
        }
        let (raw, is_loading) = (raw.clone(), self.is_loading.clone());
        let run = move || {
            call_user(|| drop(Symbolizer::shared().symbolize(&raw)));
            is_loading.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name(LOADER_NAME.into()).spawn(run).is_err() {
            self.is_loading.store(false, Ordering::Release);
        }
    }
}

//! Symbols of raw stacks: from addresses to functions and lines, on the calling thread. Each
//! address is looked up once.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RawStack;
use super::guard::catches_panic;
use super::module_file::{self, Opened};
use super::modules::{LoadedModule, Modules, ObjectOwner};
use super::raw::{INNERMOST, stack, unknown};
use crate::symbols::SymbolFileError;
use crate::symbols::checksums::ChecksumBudget;
use crate::symbols::inlined::frames;
use crate::symbols::tables::{SymbolRequest, Tables};
use crate::{Frame, Module, Stack};

mod shared;

/// The path of the executable, for which the loader has no name.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";
/// The most addresses whose functions are remembered.
const MAX_REMEMBERED: usize = 8_192;
/// The most modules that are remembered, and the most different problems that are reported.
const MAX_MODULES: usize = 1_024;
const MAX_PROBLEMS: usize = 64;
/// The bytes of debug information that are held in memory. A look-up reads the tables of the units
/// that contain the addresses: one of several megabytes in most programs.
const MAX_BYTES: u64 = 256 << 20;
/// The number of times that the tables of one module may outgrow [`MAX_BYTES`]. Then only names of
/// functions are read.
const MAX_OVERFLOWS: u32 = 3;
/// The time without use after which tables are released. It doubles each time that they have to be
/// loaded again, up to the longest one.
const KEEP: Duration = Duration::from_secs(10);
const KEEP_LONGEST: Duration = Duration::from_secs(600);

/// Turns raw stacks into functions, files and lines.
///
/// Functions that were not inlined have names in every binary that is not stripped. Inlined
/// functions and lines need debug information: `debug = "limited"` or more in the profile. It is
/// found in the binary, in a separate debug file (by build id in `/usr/lib/debug`, or by
/// `.gnu_debuglink`), and in split files (`.dwp` beside the binary, `.dwo`). A file of another
/// build is never used. An address without a symbol has a [`Frame`] with module and offset.
///
/// # Memory
///
/// A file is not mapped but read, in the parts that a look-up needs. At most 256 MiB are held at a
/// time, and what the tables are parsed into comes on top. Where one binary needs more, its
/// functions have names and no lines.
///
/// Tables stay in memory until [`release_unused`](Self::release_unused) finds them unused for 10 s.
/// That time doubles each time they have to be loaded again, up to 10 minutes. Up to 8,192
/// addresses stay cached longer, so that the same stack is cheap the next time.
#[derive(Default)]
pub struct Symbolizer {
    known: HashMap<FrameKey, Arc<[Frame]>>,
    modules: HashMap<ModuleKey, ModuleTables>,
    problems: Vec<String>,
    reported: HashSet<String>,
    unusable_files: u64,
    checksums: ChecksumBudget,
}

/// A module of this process or of another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ModuleKey {
    info: Arc<Module>,
    /// The number of the process: see [`ObjectOwner::number`](super::modules::ObjectOwner::number).
    owner: u64,
}

/// A place in the code of a module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FrameKey {
    module: ModuleKey,
    offset: u64,
}

/// The tables of one module, and what is remembered while there are none.
#[derive(Default)]
struct ModuleTables {
    state: TableState,
    used: Option<Instant>,
    keep: Duration,
    /// The number of times that the tables took more memory than they may.
    overflows: u32,
    /// True once a split part of its debug information was found nowhere.
    lacks_split_units: bool,
}

#[derive(Default)]
enum TableState {
    #[default]
    Released,
    Loaded(Box<Tables>),
    /// The module's file cannot be read or is of another build.
    Unusable,
}

impl Symbolizer {
    /// Makes a symbolizer with tables of its own. Most callers want the [`shared`](Self::shared)
    /// one.
    ///
    /// ```
    /// let symbolizer = pollwatch_stack::Symbolizer::new();
    /// assert!(!symbolizer.holds_tables());
    /// ```
    pub fn new() -> Symbolizer {
        Symbolizer::default()
    }

    /// Returns a stack as functions and lines. In the middle of a stack of more than 384 calls, one
    /// frame says how many were omitted.
    ///
    /// # Cost
    ///
    /// The first address of a binary loads its debug information, which takes up to seconds for
    /// hundreds of megabytes of it. Each further address takes some microseconds, and a remembered
    /// one a look-up in a map.
    ///
    /// # Examples
    ///
    /// See the [crate](crate).
    pub fn symbolize(&mut self, raw: &RawStack) -> Stack {
        stack(raw, |address| self.look_up(&raw.modules, address))
    }

    /// Returns whether a stack can be symbolized without loading debug information first.
    ///
    /// ```
    /// use pollwatch_stack::{RawStack, Stack, Symbolizer};
    ///
    /// /// Symbolizes a stack only if that is fast.
    /// fn symbolize_if_fast(raw: &RawStack) -> Option<Stack> {
    ///     let mut symbolizer = Symbolizer::shared();
    ///     symbolizer.is_loaded_for(raw).then(|| symbolizer.symbolize(raw))
    /// }
    /// ```
    pub fn is_loaded_for(&self, raw: &RawStack) -> bool {
        raw.chain.addresses.iter().take(INNERMOST).all(|&address| {
            raw.modules.find(address).is_none_or(|module| {
                let is_held = |tables: &ModuleTables| !matches!(tables.state, TableState::Released);
                self.modules.get(&module_key(module)).is_some_and(is_held)
                    || self.known.contains_key(&frame_key(module, address))
            })
        })
    }

    /// Returns whether split debug information of a stack's functions was searched for and is
    /// nowhere, as far as look-ups have shown. Such functions have lines, but the calls that were
    /// inlined into them are missing.
    ///
    /// ```
    /// use pollwatch_stack::{RawStack, Symbolizer};
    ///
    /// fn shows_inlined_calls(symbolizer: &mut Symbolizer, raw: &RawStack) -> bool {
    ///     symbolizer.symbolize(raw);
    ///     !symbolizer.lacks_split_units(raw)
    /// }
    /// ```
    pub fn lacks_split_units(&self, raw: &RawStack) -> bool {
        raw.chain.addresses.iter().filter_map(|&address| raw.modules.find(address)).any(|module| {
            let lacks = |tables: &ModuleTables| tables.lacks_split_units;
            self.modules.get(&module_key(module)).is_some_and(lacks)
        })
    }

    /// Releases debug information that was not used for some time: see [Memory](Self#memory).
    ///
    /// ```
    /// use pollwatch_stack::Symbolizer;
    ///
    /// // Called now and then, for example once a second while `holds_tables` returns true.
    /// Symbolizer::shared().release_unused();
    /// ```
    pub fn release_unused(&mut self) {
        for tables in self.modules.values_mut() {
            if tables.used.is_none_or(|used| used.elapsed() >= tables.keep) {
                tables.state = TableState::Released;
            }
        }
        if self.modules.len() > MAX_MODULES {
            self.modules.retain(|_, tables| !matches!(tables.state, TableState::Released));
        }
    }

    /// Releases all debug information, and forgets all functions.
    ///
    /// ```
    /// use pollwatch_stack::Symbolizer;
    ///
    /// Symbolizer::shared().release_all();
    /// assert_eq!(Symbolizer::shared().bytes_held(), 0);
    /// ```
    pub fn release_all(&mut self) {
        self.modules.clear();
        self.known = HashMap::new();
    }

    /// Returns whether debug information is in memory, which
    /// [`release_unused`](Self::release_unused) will release.
    pub fn holds_tables(&self) -> bool {
        self.modules.values().any(|tables| !matches!(tables.state, TableState::Released))
    }

    /// Returns the number of bytes of files that are in memory, 256 MiB at most. What they are
    /// parsed into comes on top.
    ///
    /// ```
    /// assert_eq!(pollwatch_stack::Symbolizer::new().bytes_held(), 0);
    /// ```
    pub fn bytes_held(&self) -> u64 {
        self.modules.values().map(ModuleTables::bytes).sum()
    }

    /// Returns what was found since the last call and could not be used: a debug file of another
    /// build, a damaged one, or one that is too large. Each text is for a person, and is returned
    /// once.
    ///
    /// ```
    /// for problem in pollwatch_stack::Symbolizer::shared().take_problems() {
    ///     eprintln!("{problem}");
    /// }
    /// ```
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Returns how often a file was found and could not be used.
    ///
    /// ```
    /// assert_eq!(pollwatch_stack::Symbolizer::new().unusable_files(), 0);
    /// ```
    pub fn unusable_files(&self) -> u64 {
        self.unusable_files
    }

    /// Returns the functions at an address, the innermost inlined one first. An address without a
    /// symbol gives one frame with module and offset.
    pub(super) fn look_up(&mut self, modules: &Modules, address: u64) -> Arc<[Frame]> {
        let Some(module) = modules.find(address) else { return unknown(modules, address) };
        let key = frame_key(module, address);
        if let Some(frames) = self.known.get(&key) {
            return frames.clone();
        }
        let unknown = unknown(modules, address);
        // A file that cannot be read now may be later, so nothing is remembered.
        let Some(found) = self.frames(module, key.offset, &unknown[0]) else { return unknown };
        if self.known.len() >= MAX_REMEMBERED {
            self.known.clear();
        }
        let found = if found.is_empty() { unknown } else { found.into() };
        self.known.insert(key, found.clone());
        found
    }

    /// Looks an offset up in the tables of its module; `None` if they cannot be read.
    fn frames(&mut self, module: &LoadedModule, offset: u64, unknown: &Frame) -> Option<Vec<Frame>> {
        loop {
            let tables = self.tables(module)?;
            let mut found = Vec::new();
            let panicked = catches_panic(|| found = frames(tables, offset, !unknown.library, unknown));
            let (overflows, (problems, unusable)) = (tables.is_over_budget(), tables.problems.take());
            let lacks_split_units = tables.problems.misses_split_unit();
            self.unusable_files += unusable;
            problems.into_iter().for_each(|problem| self.report(problem));
            let state = self.modules.get_mut(&module_key(module))?;
            state.lacks_split_units |= lacks_split_units;
            if panicked {
                state.state = TableState::Unusable;
                self.unusable_files += 1;
                self.report(format!("{} has damaged debug information", module.info.path.display()));
                return None;
            }
            // New tables hold what this look-up needs alone. After some attempts, names suffice.
            if !overflows || state.overflows > MAX_OVERFLOWS {
                return Some(found);
            }
            state.overflows += 1;
            state.state = TableState::Released;
            if state.overflows > MAX_OVERFLOWS {
                self.unusable_files += 1;
                self.report(SymbolFileError::TooLarge { path: module.info.path.clone(), limit: MAX_BYTES }.to_string());
            }
        }
    }

    /// Returns the tables of a module, which are loaded if they are not; `None` if they cannot be.
    fn tables(&mut self, module: &LoadedModule) -> Option<&Tables> {
        let key = module_key(module);
        let entry = self.modules.entry(key.clone()).or_default();
        if matches!(entry.state, TableState::Released) {
            entry.keep = if entry.used.is_none() { KEEP } else { longer(entry.keep) };
            let names_only = entry.overflows > MAX_OVERFLOWS;
            let mut opened = None;
            catches_panic(|| opened = Some(open(module, names_only, &self.checksums)));
            match opened {
                Some(Ok(tables)) => entry.state = TableState::Loaded(Box::new(tables)),
                failed => {
                    entry.state = TableState::Unusable;
                    let path = module.info.path.display();
                    let problem = failed.and_then(Result::err).map(|error| error.to_string());
                    // The kernel's own module has no file, and only a name.
                    if module.info.path.is_absolute() {
                        self.unusable_files += 1;
                        self.report(problem.unwrap_or_else(|| format!("{path} has damaged debug information")));
                    }
                }
            }
            self.make_room(&key, MAX_BYTES);
        }
        let entry = self.modules.get_mut(&key)?;
        entry.used = Some(Instant::now());
        match &entry.state {
            TableState::Loaded(tables) => Some(tables),
            _ => None,
        }
    }

    /// Releases the tables that were not used for the longest time, until those of one module and
    /// the rest fit into the limit.
    fn make_room(&mut self, needed: &ModuleKey, limit: u64) {
        while self.bytes_held() > limit {
            let others = self.modules.iter_mut().filter(|(module, tables)| *module != needed && tables.bytes() > 0);
            let Some((_, oldest)) = others.min_by_key(|(_, tables)| tables.used) else { return };
            oldest.state = TableState::Released;
        }
    }

    /// Keeps a problem for [`take_problems`](Self::take_problems), unless it was reported before.
    fn report(&mut self, problem: String) {
        if self.reported.len() < MAX_PROBLEMS && self.reported.insert(problem.clone()) {
            self.problems.push(problem);
        }
    }
}

impl ModuleTables {
    fn bytes(&self) -> u64 {
        match &self.state {
            TableState::Loaded(tables) => tables.bytes(),
            _ => 0,
        }
    }
}

impl fmt::Debug for Symbolizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<_> =
            self.modules.iter().filter(|(_, t)| t.bytes() > 0).map(|(module, _)| &module.info.path).collect();
        f.debug_struct("Symbolizer").field("known", &self.known.len()).field("held", &held).finish_non_exhaustive()
    }
}

/// Returns for how long tables are kept that were loaded before.
fn longer(keep: Duration) -> Duration {
    (keep * 2).min(KEEP_LONGEST)
}

/// Opens the tables of a module.
fn open(module: &LoadedModule, names_only: bool, checksums: &ChecksumBudget) -> Result<Tables, SymbolFileError> {
    let Module { path, build_id } = &*module.info;
    let roots = module_file::roots(module);
    module_file::open(module, |file| {
        let request = SymbolRequest::new(file, MAX_BYTES);
        let checksums = (module.files.owner != ObjectOwner::Own).then_some(checksums);
        let expected = build_id.as_ref();
        let request = SymbolRequest { path, roots: &roots, expected, names_only, checksums, ..request };
        let tables = Tables::open(&request)?;
        Ok(Opened { id: tables.id(), value: tables })
    })
}

/// Returns the key by which the tables of a module are found.
fn module_key(module: &LoadedModule) -> ModuleKey {
    ModuleKey { info: module.info.clone(), owner: module.files.owner.number() }
}

/// Returns the key by which the functions at an address are remembered.
fn frame_key(module: &LoadedModule, address: u64) -> FrameKey {
    FrameKey { module: module_key(module), offset: address.wrapping_sub(module.base) }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;

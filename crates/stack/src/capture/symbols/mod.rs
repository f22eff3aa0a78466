//! Symbols: from addresses to functions and lines, on the calling thread. Each address is looked up
//! once.

mod inlined;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use addr2line::Loader;

use super::RawStack;
use super::guard::{catches_panic, lock};
use super::modules::Modules;
use crate::{Address, Frame, Stack};

/// The numbers of innermost and of outermost calls of a stack that are symbolized. A recursion may
/// have thousands.
const INNERMOST: usize = 256;
const OUTERMOST: usize = 128;
/// The path of the executable, for which the loader has no name.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";
/// The most addresses whose functions are remembered.
const MAX_REMEMBERED: usize = 8_192;
/// The time without use after which the tables of a binary (tens of megabytes) are released.
const KEEP: Duration = Duration::from_secs(10);

/// Turns raw stacks into functions, files and lines.
///
/// Debug information is loaded when an address of its binary is first looked up. It stays in memory
/// until [`release_unused`](Self::release_unused) finds it unused for 10 s. Up to 8,192 addresses
/// stay cached longer, so that the same stack is cheap the next time.
///
/// Functions that were not inlined have names in every binary that is not stripped. Inlined
/// functions and lines need debug information: `debug = "limited"` or more in the profile. An
/// address without a symbol has a [`Frame`] with module and offset.
#[derive(Default)]
pub struct Symbolizer {
    known: HashMap<(PathBuf, u64), Arc<[Frame]>>,
    loaders: HashMap<PathBuf, (Option<Loader>, Instant)>,
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

    /// Returns the symbolizer of the process, locked. All users share its tables.
    ///
    /// ```
    /// use pollwatch_stack::{RawStack, Symbolizer};
    ///
    /// fn print(raw: &RawStack) {
    ///     println!("{}", Symbolizer::shared().symbolize(raw));
    /// }
    /// ```
    pub fn shared() -> MutexGuard<'static, Symbolizer> {
        static SHARED: LazyLock<Mutex<Symbolizer>> = LazyLock::new(Mutex::default);
        lock(&SHARED)
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
        let all = &raw.chain.addresses;
        let omitted = all.len().saturating_sub(INNERMOST + OUTERMOST);
        let (inner, outer) =
            if omitted > 0 { (&all[..INNERMOST], &all[INNERMOST + omitted..]) } else { (&all[..], &[][..]) };
        let mut frames = Vec::new();
        // A malformed table may make the reader panic. Then the stack ends there.
        let panicked = catches_panic(|| {
            inner.iter().for_each(|&address| frames.extend_from_slice(&self.look_up(&raw.modules, address)));
            if omitted > 0 {
                let function = Some(format!("[{omitted} more calls]").into());
                frames.push(Frame { function, library: true, ..Frame::default() });
            }
            outer.iter().for_each(|&address| frames.extend_from_slice(&self.look_up(&raw.modules, address)));
        });
        // Where functions have names, code without one is the linker's: a stub that leads to a
        // library.
        if frames.iter().any(|frame| !frame.library && frame.function.is_some()) {
            frames.iter_mut().filter(|frame| frame.function.is_none()).for_each(|frame| frame.library = true);
        }
        let is_boundary = |frame: &Frame| raw.boundary.is_some_and(|is_boundary| is_boundary(frame));
        Stack::new(frames, raw.chain.complete && !panicked, is_boundary)
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
                let key = (module.path.clone(), address.wrapping_sub(module.base));
                self.loaders.contains_key(&module.path) || self.known.contains_key(&key)
            })
        })
    }

    /// Releases debug information that was not used for 10 s.
    ///
    /// ```
    /// use pollwatch_stack::Symbolizer;
    ///
    /// // Called now and then, for example once a second while `holds_tables` returns true.
    /// Symbolizer::shared().release_unused();
    /// ```
    pub fn release_unused(&mut self) {
        self.loaders.retain(|_, (_, used)| used.elapsed() < KEEP);
    }

    /// Returns whether debug information is in memory, which
    /// [`release_unused`](Self::release_unused) will release.
    pub fn holds_tables(&self) -> bool {
        !self.loaders.is_empty()
    }

    /// Returns the functions at an address, the innermost inlined one first. An address without a
    /// symbol gives one frame with module and offset.
    pub(super) fn look_up(&mut self, modules: &Modules, address: u64) -> Arc<[Frame]> {
        let in_memory = Address::new(address);
        let Some(module) = modules.find(address) else {
            return [Frame { address: in_memory, ..Frame::default() }].into();
        };
        let key = (module.path.clone(), address.wrapping_sub(module.base));
        if let Some(frames) = self.known.get(&key) {
            return frames.clone();
        }
        // The program is the executable, and the library that contains this crate (a plugin, an
        // extension module).
        let in_program =
            module.path == Path::new(EXECUTABLE) || module.range.contains(&(module_name as *const () as u64));
        let unknown = || Frame {
            address: in_memory,
            module: Some(module_name(&module.path)),
            offset: key.1,
            library: !in_program,
            ..Frame::default()
        };
        // A file that cannot be read now may be later, so nothing is remembered.
        let Some(loader) = self.loader(&module.path) else { return [unknown()].into() };
        let mut frames = inlined::frames(loader, key.1, in_program, &unknown());
        if frames.is_empty() {
            frames.push(unknown());
        }
        if self.known.len() >= MAX_REMEMBERED {
            self.known.clear();
        }
        let frames: Arc<[Frame]> = frames.into();
        self.known.insert(key, frames.clone());
        frames
    }

    fn loader(&mut self, path: &Path) -> Option<&Loader> {
        let entry = self.loaders.entry(path.to_owned()).or_insert_with(|| (Loader::new(path).ok(), Instant::now()));
        entry.1 = Instant::now();
        entry.0.as_ref()
    }
}

impl fmt::Debug for Symbolizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loaded: Vec<_> = self.loaders.keys().collect();
        f.debug_struct("Symbolizer").field("known", &self.known.len()).field("loaded", &loaded).finish()
    }
}

fn module_name(path: &Path) -> Arc<str> {
    let path = if path == Path::new(EXECUTABLE) { std::env::current_exe().ok() } else { Some(path.to_owned()) };
    path.as_deref().and_then(Path::file_name).map_or_else(|| "?".into(), |name| name.to_string_lossy().into())
}

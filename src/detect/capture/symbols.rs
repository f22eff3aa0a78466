//! From addresses to functions and lines: late, off the workers, each address once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use addr2line::Loader;

use super::RawStack;
use super::modules::Modules;
use super::names;
use crate::model::stack::{Frame, Stack};
use crate::util::{call_user, lock, short_path};

/// Calls of a stack that are told: these many from the inside, and from the outside. A recursion may have thousands.
const INNERMOST: usize = 256;
const OUTERMOST: usize = 128;
/// What the loader calls the executable: it has no name for it.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";
/// How many bytes around an instruction without a line one is looked for.
const LINE_REACH: u64 = 64;
/// Addresses whose functions are remembered.
const REMEMBERED: usize = 8_192;
/// A loader (the tables of a binary, tens of megabytes) is dropped when it was not needed for this long.
const KEEP: Duration = Duration::from_secs(10);

/// The tables of the process, whichever watchdog asks.
pub(crate) fn symbols() -> MutexGuard<'static, Symbols> {
    static SYMBOLS: LazyLock<Mutex<Symbols>> = LazyLock::new(Mutex::default);
    lock(&SYMBOLS)
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Symbols {
    known: HashMap<(PathBuf, u64), Arc<[Frame]>>,
    loaders: HashMap<PathBuf, (Option<Loader>, Instant)>,
}

impl Symbols {
    /// A stack as functions and lines.
    pub(crate) fn stack(&mut self, raw: &RawStack) -> Stack {
        let all = &raw.chain.addresses;
        let omitted = all.len().saturating_sub(INNERMOST + OUTERMOST);
        let (inner, outer) =
            if omitted > 0 { (&all[..INNERMOST], &all[INNERMOST + omitted..]) } else { (&all[..], &[][..]) };
        let mut frames = Vec::new();
        // What is read are other people's tables; should they make the reader panic, the stack ends there.
        let panicked = call_user(|| {
            inner.iter().for_each(|&address| frames.extend_from_slice(&self.at(&raw.modules, address)));
            if omitted > 0 {
                let function = Some(format!("[{omitted} more calls]").into());
                frames.push(Frame { function, library: true, ..Frame::default() });
            }
            outer.iter().for_each(|&address| frames.extend_from_slice(&self.at(&raw.modules, address)));
        });
        // Where functions have names, what has none is the linker's: the way into a library.
        if frames.iter().any(|frame| !frame.library && frame.function.is_some()) {
            frames.iter_mut().filter(|frame| frame.function.is_none()).for_each(|frame| frame.library = true);
        }
        let is_entry =
            |frame: &Frame| names::is_poll_entry(frame.function.as_deref().unwrap_or(""), frame.file.as_deref());
        Stack::new(frames, raw.chain.complete && !panicked, is_entry)
    }

    /// Whether a stack can be told without loading anything.
    pub(crate) fn is_ready(&self, raw: &RawStack) -> bool {
        raw.chain.addresses.iter().take(INNERMOST).all(|&address| {
            raw.modules.of(address).is_none_or(|module| {
                let key = (module.path.clone(), address.wrapping_sub(module.base));
                self.loaders.contains_key(&module.path) || self.known.contains_key(&key)
            })
        })
    }

    /// The functions at an address: the innermost inlined one first, the one that is really there last. Where nothing is known of
    /// it: module and offset.
    pub(super) fn at(&mut self, modules: &Modules, address: u64) -> Arc<[Frame]> {
        let Some(module) = modules.of(address) else {
            return [Frame { address, ..Frame::default() }].into();
        };
        let key = (module.path.clone(), address.wrapping_sub(module.base));
        if let Some(frames) = self.known.get(&key) {
            return frames.clone();
        }
        // Of the user's: the executable, and the library that pollwatch itself is in (a plugin, an extension module).
        let in_program =
            module.path == Path::new(EXECUTABLE) || module.range.contains(&(module_name as *const () as u64));
        let unknown = || Frame {
            address,
            module: Some(module_name(&module.path)),
            offset: key.1,
            library: !in_program,
            ..Frame::default()
        };
        // A file that cannot be read now may be later: nothing is remembered.
        let Some(loader) = self.loader(&module.path) else { return [unknown()].into() };
        let mut frames = look_up(loader, key.1, in_program, &unknown());
        if frames.is_empty() {
            frames.push(unknown());
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let frames: Arc<[Frame]> = frames.into();
        self.known.insert(key, frames.clone());
        frames
    }

    /// Drops what has not been needed for a while.
    pub(crate) fn tidy(&mut self) {
        self.loaders.retain(|_, (_, used)| used.elapsed() < KEEP);
    }

    /// Whether [`tidy`](Self::tidy) will have something to drop.
    pub(crate) fn holds_loaders(&self) -> bool {
        !self.loaders.is_empty()
    }

    fn loader(&mut self, path: &Path) -> Option<&Loader> {
        let entry = self.loaders.entry(path.to_owned()).or_insert_with(|| (Loader::new(path).ok(), Instant::now()));
        entry.1 = Instant::now();
        entry.0.as_ref()
    }
}

fn module_name(path: &Path) -> Arc<str> {
    let path = if path == Path::new(EXECUTABLE) { std::env::current_exe().ok() } else { Some(path.to_owned()) };
    path.as_deref().and_then(Path::file_name).map_or_else(|| "?".into(), |name| name.to_string_lossy().into())
}

fn look_up(loader: &Loader, offset: u64, in_program: bool, unknown: &Frame) -> Vec<Frame> {
    let symbol = loader.find_symbol(offset).map(|name| names::readable(&demangled(name)));
    let (mut frames, mut names) = (Vec::new(), Vec::new());
    if let Ok(mut found) = loader.find_frames(offset) {
        while let Ok(Some(frame)) = found.next() {
            let function = frame.function.as_ref().and_then(|f| Some(f.demangle().ok()?.into_owned()));
            let (file, line) = frame.location.map_or((None, None), |l| (l.file.map(str::to_owned), l.line));
            let file = file.as_deref();
            let readable = function.as_deref().map(names::readable);
            frames.push(Frame {
                library: names::is_library(readable.as_deref().unwrap_or(""), file, in_program),
                dependency: file.is_some_and(names::is_dependency),
                function: readable.map(Into::into),
                file: file.map(|f| short_path(f).into()),
                line,
                ..unknown.clone()
            });
            names.push(function.unwrap_or_default());
        }
    }
    if frames.iter().any(|frame| frame.line.is_none() && frame.function.is_some()) {
        add_lines(loader, offset, &mut frames, &names);
    }
    for at in 0..frames.len().saturating_sub(1) {
        let last = frames[at + 1..].iter().position(|frame| !frame.library).map_or(frames.len() - 1, |n| at + 1 + n);
        if let Some(name) = names::told_by_caller(&names[at], names[at + 1..=last].iter().map(String::as_str)) {
            frames[at].function = Some(name.into());
        }
    }
    // Line tables alone give names without their modules; the symbol table has the whole one of what is really there.
    if let (Some(symbol), Some(outermost)) = (symbol, frames.last_mut()) {
        outermost.library |= names::is_library(&symbol, None, in_program);
        outermost.function = Some(symbol.into());
    } else if let (None, Some(symbol)) = (frames.last(), loader.find_symbol(offset)) {
        let function = names::readable(&demangled(symbol));
        let library = names::is_library(&function, None, in_program);
        frames.push(Frame { library, function: Some(function.into()), ..unknown.clone() });
    }
    frames
}

/// An instruction that the compiler made of several lines has none (DWARF's line 0): that of the nearest one before it, else behind
/// it, in the same function.
fn add_lines(loader: &Loader, offset: u64, frames: &mut [Frame], names: &[String]) {
    let before = (1..=LINE_REACH).map_while(|distance| offset.checked_sub(distance));
    let behind = (1..=LINE_REACH).map_while(|distance| offset.checked_add(distance));
    for near in before.chain(behind) {
        let Ok(mut found) = loader.find_frames(near) else { continue };
        let mut others = Vec::new();
        while let Ok(Some(frame)) = found.next() {
            let name = frame.function.as_ref().and_then(|f| Some(f.demangle().ok()?.into_owned()));
            others.push((name.unwrap_or_default(), frame.location.and_then(|location| location.line)));
        }
        // From the outside, as long as the calls are the same.
        let same = frames.iter_mut().zip(names).rev().zip(others.iter().rev()).take_while(|((_, a), (b, _))| *a == b);
        same.filter(|((frame, _), _)| frame.line.is_none()).for_each(|((frame, _), (_, line))| frame.line = *line);
        if frames.iter().all(|frame| frame.line.is_some()) {
            return;
        }
    }
}

fn demangled(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into_owned()
}

//! Search for functions by their symbols, without debug information: in the executable of this
//! process, and in all modules of another one.
//!
//! The symbol table of an ELF file has two parts: the entries (`.symtab`), and the names that they
//! refer to (`.strtab`). Both are read in pieces, first the names, then the entries of the names
//! that are wanted. So the memory is bounded, however large the file is, and no file is mapped,
//! which could end the process if the file became shorter.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::guard::catches_panic;
use super::little_endian::{u32_at, u64_at};
use super::module_file::{self, Opened};
use super::modules::{LoadedModule, Modules};
use crate::symbols::checksums::ChecksumBudget;
use crate::symbols::source::ByteSource;
use crate::symbols::tables::{SymbolRequest, Tables};
use crate::{Address, Module};

/// The size of a piece of a file that is read at once.
const PIECE: usize = 256 << 10;
/// The longest name that is found. Longer ones have generic arguments without end.
const MAX_NAME: usize = 16 << 10;
/// The bytes that are read to find the file with the symbols: headers, and links to debug files.
const MAX_BYTES: u64 = 16 << 20;
/// The most functions that are returned. After that many, no further module is searched.
const MAX_FOUND: usize = 65_536;
/// The bytes of symbol tables that one search reads. A sparse file may claim tables of any length,
/// and those of the largest programs have some 500 MB.
const MAX_SEARCHED: usize = 4 << 30;

const ENTRY_LEN: usize = 24;
const STT_FUNC: u8 = 2;

/// Returns the functions of the executable that `kind` wants, with their addresses in memory.
///
/// `kind` is called with the mangled name of each symbol that contains `part`. Functions without a
/// symbol are not found: those that were inlined everywhere, and all of a stripped binary.
///
/// ```
/// #[inline(never)]
/// fn needle() {
///     std::hint::black_box(());
/// }
///
/// needle();
/// let is_it = |name: &str| name.contains("6needle").then_some(());
/// let found = pollwatch_stack::find_functions("needle", is_it);
/// let here = pollwatch_stack::Address::new(needle as *const () as u64);
/// # #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
/// assert!(found.iter().any(|(range, ())| range.contains(&here)));
/// ```
///
/// # Cost
///
/// The symbol table is read once, some 10 ms for 100,000 symbols, into some 100 KB of memory.
pub fn find_functions<K: Clone>(part: &str, kind: impl Fn(&str) -> Option<K>) -> Vec<(Range<Address>, K)> {
    let mut found = None;
    catches_panic(|| found = search(part, &kind));
    found.unwrap_or_default()
}

fn search<K: Clone>(part: &str, kind: &impl Fn(&str) -> Option<K>) -> Option<Vec<(Range<Address>, K)>> {
    let modules = Modules::current();
    let executable = modules.list.iter().find(|module| module.files.is_program)?;
    search_module(executable, part, kind, &mut SearchBudget::default())
}

/// The functions of one module that were searched for: see
/// [`Process::find_functions`](crate::Process::find_functions).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModuleFunctions<K> {
    /// The module.
    pub module: Arc<Module>,
    /// True for the executable.
    pub is_program: bool,
    /// False if the module is stripped, or its file cannot be opened: then nothing is found in it.
    pub has_symbols: bool,
    /// The functions, with their addresses in memory.
    pub functions: Vec<(Range<Address>, K)>,
}

/// Returns the functions of all modules that have a file.
pub(crate) fn search_all<K: Clone>(
    modules: &Modules,
    part: &str,
    kind: impl Fn(&str) -> Option<K>,
) -> Vec<ModuleFunctions<K>> {
    let with_file = modules.list.iter().filter(|module| module.info.path.is_absolute());
    let mut budget = SearchBudget::default();
    let search_in = |module: &LoadedModule| {
        let mut found = None;
        if budget.functions > 0 {
            catches_panic(|| found = search_module(module, part, &kind, &mut budget));
        }
        budget.functions = budget.functions.saturating_sub(found.as_ref().map_or(0, Vec::len));
        ModuleFunctions {
            module: module.info.clone(),
            is_program: module.files.is_program,
            has_symbols: found.is_some(),
            functions: found.unwrap_or_default(),
        }
    };
    with_file.map(search_in).collect()
}

/// What one search may still read and find.
struct SearchBudget {
    bytes: usize,
    functions: usize,
    checksums: ChecksumBudget,
}

impl Default for SearchBudget {
    fn default() -> SearchBudget {
        SearchBudget { bytes: MAX_SEARCHED, functions: MAX_FOUND, checksums: ChecksumBudget::default() }
    }
}

impl SearchBudget {
    /// Takes the length of a table out of the bytes that may be read.
    fn take(&mut self, table: &Range<usize>) -> Option<()> {
        self.bytes = self.bytes.checked_sub(table.end.checked_sub(table.start)?)?;
        Some(())
    }
}

/// Returns the functions of a module; `None` if it has no symbols.
fn search_module<K: Clone>(
    module: &LoadedModule,
    part: &str,
    kind: &impl Fn(&str) -> Option<K>,
    budget: &mut SearchBudget,
) -> Option<Vec<(Range<Address>, K)>> {
    let Module { path, build_id } = &*module.info;
    let roots = module_file::roots(module);
    let with_symbols = module_file::open(module, |file| {
        let request = SymbolRequest::new(file, MAX_BYTES);
        let checksums = Some(&budget.checksums);
        let request = SymbolRequest { path, roots: &roots, expected: build_id.as_ref(), checksums, ..request };
        let found = Tables::find_symbols(&request)?;
        Ok(Opened { id: found.id, value: found.ranges })
    });
    let tables = with_symbols.ok()??;
    budget.take(&tables.names).and_then(|()| budget.take(&tables.entries))?;
    let names = wanted_names(&tables.source, &tables.names, part, kind)?;
    functions(&tables.source, &tables.entries, &names, module)
}

/// Returns the wanted names by their offset in the table.
fn wanted_names<K>(
    file: &ByteSource,
    table: &Range<usize>,
    part: &str,
    kind: impl Fn(&str) -> Option<K>,
) -> Option<HashMap<u32, K>> {
    let mut names = HashMap::new();
    let mut piece = vec![0; PIECE];
    let mut at = table.start;
    while at < table.end {
        let len = (table.end - at).min(PIECE);
        let bytes = &mut piece[..len];
        file.copy_once(at, bytes).ok()?;
        // The last name of the piece may be incomplete, and is read again with the next one.
        let is_last = at + len == table.end;
        let end = bytes.iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1);
        let end = if is_last || end == 0 { len } else { end };
        let text = String::from_utf8_lossy(&bytes[..end]);
        // Another encoding would shift the offsets.
        if matches!(text, std::borrow::Cow::Borrowed(_)) {
            let mut start = 0;
            while start < end
                && let Some(found) = text[start..].find(part).map(|found| start + found)
            {
                start += text[start..found].rfind('\0').map_or(0, |at| at + 1);
                let stop = text[found..].find('\0').map_or(end, |at| found + at);
                let offset = u32::try_from(at - table.start + start).ok()?;
                if stop - start <= MAX_NAME
                    && names.len() < MAX_FOUND
                    && let Some(kind) = kind(&text[start..stop])
                {
                    names.insert(offset, kind);
                }
                start = stop + 1;
            }
        }
        at += end;
    }
    Some(names)
}

/// Returns the functions of the named entries.
fn functions<K: Clone>(
    file: &ByteSource,
    table: &Range<usize>,
    names: &HashMap<u32, K>,
    executable: &LoadedModule,
) -> Option<Vec<(Range<Address>, K)>> {
    let mut found = Vec::new();
    let mut piece = vec![0; PIECE / ENTRY_LEN * ENTRY_LEN];
    let mut at = table.start;
    while at < table.end && !names.is_empty() {
        let len = (table.end - at).min(piece.len());
        let bytes = &mut piece[..len];
        file.copy_once(at, bytes).ok()?;
        for entry in bytes.chunks_exact(ENTRY_LEN) {
            let Some(kind) = names.get(&u32_at(entry, 0)?) else { continue };
            let (start, size) = (u64_at(entry, 8)?.wrapping_add(executable.base), u64_at(entry, 16)?);
            // A symbol of another file would lie anywhere in a function.
            let is_start = executable.function(start).is_none_or(|function| function.start == start);
            if entry[4] & 0xf == STT_FUNC && size > 0 && is_start && found.len() < MAX_FOUND {
                found.push((Address::new(start)..Address::new(start.saturating_add(size)), kind.clone()));
            }
        }
        at += len;
    }
    Some(found)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_to_be_found(n: u64) -> u64 {
        std::hint::black_box(n) + 1
    }

    #[test]
    fn a_function_is_found_by_its_name() {
        assert_eq!(a_function_to_be_found(1), 2);
        let is_it = |name: &str| name.contains("22a_function_to_be_found").then_some(7);
        let found = find_functions("a_function_to_be", is_it);
        let here = Address::new(a_function_to_be_found as *const () as u64);
        assert!(found.iter().any(|(range, kind)| range.start == here && *kind == 7), "{found:?}");
        assert!(find_functions("a_function_to_be", |_| None::<()>).is_empty());
        assert!(find_functions("no_function_is_called_this", |_| Some(())).is_empty());
    }

    /// A table whose names lie across the ends of pieces, and a file that is too short.
    #[test]
    fn names_across_pieces_are_found_once() {
        let path = std::env::temp_dir().join(format!("pollwatch-names-{}", std::process::id()));
        let mut names = vec![0];
        let mut expected = Vec::new();
        while names.len() < 3 * PIECE {
            if names.len() % 7 == 0 {
                expected.push(names.len() as u32);
                names.extend_from_slice(b"_ZN4wanted\0");
            } else {
                names.extend_from_slice(b"other\0");
            }
        }
        std::fs::write(&path, &names).unwrap();
        let file = ByteSource::open(&path);
        let table = 0..names.len();
        let found = wanted_names(&file, &table, "wanted", |name| (name == "_ZN4wanted").then_some(()));
        let mut found: Vec<u32> = found.unwrap().into_keys().collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(wanted_names(&file, &(0..table.end + 1), "wanted", |_| Some(())).is_none(), "beyond the end");
        // A piece that is one name, with the part a hundred thousand times in it.
        std::fs::write(&path, b"ab".repeat(PIECE / 2)).unwrap();
        let (file, start) = (ByteSource::open(&path), std::time::Instant::now());
        assert!(wanted_names(&file, &(0..PIECE), "ab", |_| Some(())).unwrap().is_empty());
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "the name is searched once");
        drop(std::fs::remove_file(&path));
    }
}

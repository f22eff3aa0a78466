//! The table of functions that a linker writes: names without lines and without inlined functions.

use addr2line::gimli::Reader;

use super::elf::{SymbolSections, u16_at, u32_at, u64_at};
use super::reader::SourceReader;
use super::source::Budget;

const ENTRY: usize = 24;
/// The number of entries that are read at once.
const AT_ONCE: usize = 2_048;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
/// The number of symbols before an address that are inspected: several may start at one address.
const ALIASES: usize = 16;

/// A function. A million of them take 16 MB.
#[derive(Clone, Copy, Debug)]
struct Function {
    start: u64,
    len: u32,
    /// The position of its name.
    name: u32,
}

/// The functions of a file, by address.
#[derive(Debug)]
pub(super) struct SymbolTable {
    functions: Vec<Function>,
    names: SourceReader,
}

impl SymbolTable {
    /// Reads the functions of a file, as far as the budget permits.
    pub(super) fn read(sections: Option<SymbolSections>, budget: &Budget) -> SymbolTable {
        let Some(sections) = sections else {
            return SymbolTable { functions: Vec::new(), names: SourceReader::none() };
        };
        let mut functions = Vec::new();
        let mut at = sections.entries.start;
        let mut buffer = vec![0; AT_ONCE * ENTRY];
        while at + ENTRY <= sections.entries.end {
            let len = buffer.len().min((sections.entries.end - at) / ENTRY * ENTRY);
            if sections.source.copy_once(at, &mut buffer[..len]).is_err() {
                break;
            }
            let before = functions.len();
            functions.extend(buffer[..len].chunks_exact(ENTRY).filter_map(|entry| function(entry, &sections.is_code)));
            if budget.take(((functions.len() - before) * size_of::<Function>()) as u64).is_err() {
                break;
            }
            at += len;
        }
        functions.shrink_to_fit();
        functions.sort_unstable_by_key(|function| (function.start, function.len));
        SymbolTable { functions, names: sections.names }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Returns the mangled name of the function that contains an address.
    ///
    /// A function without a length, as assembly code often is, ends where the next one starts.
    pub(super) fn find(&self, address: u64) -> Option<String> {
        let end = self.functions.partition_point(|function| function.start <= address);
        let nearest = self.functions[..end].last()?.start;
        let contains = |function: &&Function| match function.len {
            0 => function.start == nearest,
            len => address - function.start < u64::from(len),
        };
        let aliases = self.functions[..end].iter().rev().take(ALIASES).filter(contains);
        let mut names = aliases.filter_map(|function| Some((function.start, self.name(function)?)));
        let (start, name) = names.next()?;
        // Of the names of one function, the plainest is the one that people know: `read`, not
        // `__libc_read` or `__GI___read`.
        let others = names.take_while(|(other, _)| *other == start).map(|(_, name)| name);
        others.chain([name]).min_by_key(|name| (underscores(name), name.len()))
    }

    /// Returns the name of a function, without the version that the C library adds
    /// (`pthread_join@@GLIBC_2.34`).
    fn name(&self, function: &Function) -> Option<String> {
        let mut name = self.names.clone();
        name.skip(function.name as usize).ok()?;
        let name = name.read_null_terminated_slice().ok()?;
        let name = name.to_string_lossy().ok()?;
        let name = name.split('@').next()?;
        // Assemblers mark code and data by symbols that start with a dollar sign.
        (!name.is_empty() && !name.starts_with('$')).then(|| name.to_owned())
    }
}

/// Returns the number of underscores at the start of a name. Mangled names have one or two.
fn underscores(name: &str) -> usize {
    name.len() - name.trim_start_matches('_').len()
}

/// Returns the function that an entry defines, if it does.
fn function(entry: &[u8], is_code: &[bool]) -> Option<Function> {
    let (kind, section) = (entry[4] & 0xf, usize::from(u16_at(entry, 6)));
    let is_function = match kind {
        STT_FUNC | STT_GNU_IFUNC => section != 0,
        STT_NOTYPE => is_code.get(section).is_some_and(|&is_code| is_code),
        _ => false,
    };
    let len = u32::try_from(u64_at(entry, 16)).unwrap_or(u32::MAX);
    is_function.then(|| Function { start: u64_at(entry, 8), len, name: u32_at(entry, 0) })
}

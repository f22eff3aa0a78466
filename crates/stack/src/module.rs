//! Modules: the executable and the libraries that code lies in, each with the identity of its
//! build.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The build id of a binary: the bytes by which a linker identifies one build.
///
/// A stripped binary and its separate debug file have the same one. It is displayed, and parsed, in
/// hexadecimal, as `readelf -n` and `file` print it.
///
/// ```
/// use pollwatch_stack::BuildId;
///
/// let id: BuildId = "9c4d0aff".parse()?;
/// assert_eq!(id.as_bytes(), [0x9c, 0x4d, 0x0a, 0xff]);
/// assert_eq!(id.to_string(), "9c4d0aff");
/// assert!("xyz".parse::<BuildId>().is_err());
/// # Ok::<(), pollwatch_stack::InvalidBuildId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Arc<[u8]>);

impl BuildId {
    /// The most bytes of a build id. Linkers write 8, 16 or 20.
    const MAX_LEN: usize = 64;

    /// Makes a build id of its bytes: 1 to 64.
    ///
    /// ```
    /// use pollwatch_stack::BuildId;
    ///
    /// assert_eq!(BuildId::new(&[1, 0xab]).unwrap().to_string(), "01ab");
    /// assert_eq!(BuildId::new(&[]), None);
    /// ```
    pub fn new(bytes: &[u8]) -> Option<BuildId> {
        (1..=BuildId::MAX_LEN).contains(&bytes.len()).then(|| BuildId(bytes.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// The error of a text that is no build id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidBuildId;

impl fmt::Display for InvalidBuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a build id is an even number of hexadecimal digits, at most 128")
    }
}

impl std::error::Error for InvalidBuildId {}

impl FromStr for BuildId {
    type Err = InvalidBuildId;

    fn from_str(text: &str) -> Result<BuildId, InvalidBuildId> {
        if !text.len().is_multiple_of(2)
            || text.len() > 2 * BuildId::MAX_LEN
            || !text.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(InvalidBuildId);
        }
        let bytes: Result<Vec<u8>, _> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect();
        bytes.ok().and_then(|bytes| BuildId::new(&bytes)).ok_or(InvalidBuildId)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for BuildId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The executable or a library.
///
/// Together with [`Frame::offset`](crate::Frame::offset) it names a line of code on any machine:
/// [`SymbolFile`](https://docs.rs/pollwatch-stack/latest/pollwatch_stack/struct.SymbolFile.html)
/// finds the function in a copy of the file that has the same build id.
///
/// ```
/// use pollwatch_stack::Module;
///
/// let mut module = Module::default();
/// module.path = "/srv/bin/service".into();
/// assert_eq!(&*module.name(), "service");
/// assert_eq!(module.build_id, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Module {
    /// The path of the file from which the module was loaded. Another file may be there by now.
    pub path: PathBuf,
    /// The build id of the module in memory; `None` if its linker wrote none.
    pub build_id: Option<BuildId>,
}

impl Module {
    /// Returns the file name, or `?` for a path without one.
    pub fn name(&self) -> Arc<str> {
        self.path.file_name().map_or_else(|| "?".into(), |name| name.to_string_lossy().into())
    }
}

/// The owner and the type of the note that holds a build id.
#[cfg(feature = "symbols")]
const BUILD_ID_NOTE: (&[u8], u32) = (b"GNU\0", 3);

/// Finds the build id among the notes of a segment or section.
#[cfg(feature = "symbols")]
pub(crate) fn build_id_of_notes(mut notes: &[u8]) -> Option<BuildId> {
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_len, len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let padded = |len: usize| len.checked_next_multiple_of(4);
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let start = 12usize.checked_add(padded(name_len)?)?;
        if (name, kind) == BUILD_ID_NOTE {
            return BuildId::new(notes.get(start..start.checked_add(len)?)?);
        }
        notes = notes.get(start.checked_add(padded(len)?)?..)?;
    }
}

#[cfg(all(test, not(pollwatch_loom), feature = "symbols"))]
mod tests {
    use super::*;

    #[test]
    fn build_id_among_other_notes() {
        let note = |name: &[u8], kind: u32, content: &[u8]| {
            let mut note = Vec::new();
            [name.len() as u32, content.len() as u32, kind].iter().for_each(|w| note.extend(w.to_le_bytes()));
            for part in [name, content] {
                note.extend(part);
                note.resize(note.len().next_multiple_of(4), 0);
            }
            note
        };
        let other = note(b"GNU\0", 1, &[9; 6]);
        let foreign = note(b"Go\0", 3, &[1, 2, 3]);
        let id = note(b"GNU\0", 3, &[0xab; 20]);
        let notes = [&other[..], &foreign, &id].concat();
        assert_eq!(build_id_of_notes(&notes), BuildId::new(&[0xab; 20]));
        assert_eq!(build_id_of_notes(&other), None);
        for end in 0..notes.len() {
            let _ = build_id_of_notes(&notes[..end]);
        }
        assert_eq!(build_id_of_notes(&note(b"GNU\0", 3, &[1; 65])), None, "no linker writes that many");
        assert_eq!(build_id_of_notes(&[0xff; 64]), None);
    }
}

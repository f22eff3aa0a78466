//! Separate debug files: those that a stripped binary leaves its debug information in.
//!
//! The places are the ones that gdb searches: by build id, then by the name in `.gnu_debuglink`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Problems;
use super::elf::{DebugLink, ElfFile};
use super::error::SymbolFileError;
use super::foreign;
use super::source::Budget;
use super::tables::SymbolRequest;
use crate::BuildId;

/// The folder in which distributions install debug files.
pub(super) const DEBUG_FOLDER: &str = "/usr/lib/debug";

/// A place where a debug file may be.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    /// The checksum that the file must have if no build id identifies it.
    crc: Option<u32>,
}

/// Returns the places of a binary's debug file, the most specific first.
fn candidates(request: &SymbolRequest<'_>, build_id: Option<&BuildId>, link: Option<&DebugLink>) -> Vec<Candidate> {
    let SymbolRequest { path: binary, debug_folder: debug, .. } = *request;
    let mut candidates = Vec::new();
    if let Some(id) = build_id.map(BuildId::to_string).filter(|id| id.len() > 2) {
        let path = debug.join(".build-id").join(&id[..2]).join(format!("{}.debug", &id[2..]));
        candidates.push(Candidate { path, crc: None });
    }
    if let (Some(DebugLink { file_name, crc }), Some(folder)) = (link, binary.parent()) {
        let below_debug = debug.join(folder.strip_prefix("/").unwrap_or(folder));
        for folder in [folder.to_owned(), folder.join(".debug"), below_debug] {
            candidates.push(Candidate { path: folder.join(file_name), crc: Some(*crc) });
        }
    }
    let in_roots = |candidate: Candidate| {
        let places: Vec<_> = request.roots.places(&candidate.path).collect();
        places.into_iter().map(move |path| Candidate { path, ..candidate })
    };
    candidates.into_iter().flat_map(in_roots).collect()
}

/// Opens the debug file of a binary that has no debug information itself.
///
/// A file that exists and cannot be used is a problem; one that does not exist is none.
pub(super) fn open(
    binary: &ElfFile,
    request: &SymbolRequest<'_>,
    budget: &Arc<Budget>,
    problems: &Problems,
) -> Option<ElfFile> {
    let (id, link) = (binary.build_id.as_ref(), binary.debug_link());
    candidates(request, id, link.as_ref()).into_iter().find_map(|candidate| {
        match open_candidate(&candidate, id, request, budget)? {
            // The name in the link may be that of the binary itself.
            Ok(file) if !has_debug_information(&file) => None,
            Ok(file) => Some(file),
            Err(error) => {
                problems.add(error);
                None
            }
        }
    })
}

/// Returns whether a file has functions and lines.
pub(super) fn has_debug_information(file: &ElfFile) -> bool {
    file.has(".debug_info") || file.has(".zdebug_info")
}

/// Opens one file and checks that it belongs to the binary; `None` if it does not exist.
fn open_candidate(
    candidate: &Candidate,
    expected: Option<&BuildId>,
    request: &SymbolRequest<'_>,
    budget: &Arc<Budget>,
) -> Option<Result<ElfFile, SymbolFileError>> {
    let path = &candidate.path;
    let opened = ElfFile::open(path, budget);
    if opened.as_ref().is_err_and(SymbolFileError::is_missing) {
        return None;
    }
    Some(opened.and_then(|file| {
        let is_it = match (expected, &file.build_id, candidate.crc) {
            (Some(expected), Some(found), _) => expected == found,
            (_, _, Some(crc)) => file.crc(request.checksums)? == crc,
            _ => false,
        };
        match (expected, is_it) {
            (_, true) => Ok(file),
            (Some(expected), false) => Err(SymbolFileError::OtherBuild {
                path: path.clone(),
                expected: expected.clone(),
                found: file.build_id,
            }),
            (None, false) => Err(SymbolFileError::OtherChecksum { path: path.clone() }),
        }
    }))
}

/// Opens the supplementary file of a debug file.
pub(super) fn open_supplementary(
    file: &ElfFile,
    request: &SymbolRequest<'_>,
    budget: &Arc<Budget>,
    problems: &Problems,
) -> Option<ElfFile> {
    let link = file.alt_link()?;
    // A relative path starts at the folder of the file, without symbolic links. The links of
    // another process' files would lead to this process' root folder.
    let is_own = !foreign::is_foreign(&file.path);
    let folder = if is_own { file.path.canonicalize().ok()? } else { file.path.clone() }.parent()?.to_owned();
    let path = match link.path.strip_prefix("/") {
        Ok(absolute) if !is_own => request.roots.foreign()?.join(absolute),
        _ => folder.join(link.path),
    };
    let candidate = Candidate { path, crc: None };
    open_candidate(&candidate, Some(&link.build_id), request, budget)?.map_err(|error| problems.add(error)).ok()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn places_in_order() {
        let id = BuildId::new(&[0xab, 0xcd, 0xef]);
        let link = DebugLink { file_name: "app.debug".into(), crc: 7 };
        let request = SymbolRequest::new(Path::new("/srv/bin/app"), 0);
        let paths = |id: Option<&BuildId>, link| {
            candidates(&request, id, link).into_iter().map(|c| (c.path, c.crc)).collect::<Vec<_>>()
        };
        assert_eq!(
            paths(id.as_ref(), Some(&link)),
            [
                ("/usr/lib/debug/.build-id/ab/cdef.debug".into(), None),
                ("/srv/bin/app.debug".into(), Some(7)),
                ("/srv/bin/.debug/app.debug".into(), Some(7)),
                ("/usr/lib/debug/srv/bin/app.debug".into(), Some(7)),
            ]
        );
        assert_eq!(paths(None, None), []);
        assert_eq!(paths(BuildId::new(&[1]).as_ref(), None), [], "too short for a folder and a file");
    }
}

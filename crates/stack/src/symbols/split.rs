//! Split debug information: the linked binary has only outlines of its units, and the rest is in a
//! `.dwp` file beside it (`split-debuginfo = "packed"`), or in the compiler's `.dwo` files
//! (`"unpacked"`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::SplitDwarfLoad;
use addr2line::gimli::{self, Dwarf, DwarfPackage, DwoId, Reader};

use super::Problems;
use super::elf::ElfFile;
use super::error::SymbolFileError;
use super::reader::SourceReader;
use super::roots::Roots;
use super::source::Budget;
use super::tables::SymbolRequest;

/// Finds the other part of units by their ids. The id is a hash of the unit, so the part of another
/// build is never used.
pub(super) struct SplitLoader {
    package: Option<DwarfPackage<SourceReader>>,
    /// The folders of the binary, in which `.dwo` files are searched for when they are no longer
    /// where the compiler put them.
    folders: Vec<PathBuf>,
    roots: Roots,
    budget: Arc<Budget>,
}

impl SplitLoader {
    /// Opens the package beside the binary or its debug file, if there is one.
    pub(super) fn open(
        file: &ElfFile,
        request: &SymbolRequest<'_>,
        budget: &Arc<Budget>,
        problems: &Problems,
    ) -> SplitLoader {
        let binaries: Vec<_> = request.roots.places(request.path).collect();
        let folders = binaries.iter().filter_map(|path| path.parent().map(Path::to_owned)).collect();
        let package = binaries
            .iter()
            .chain([&file.path])
            .map(|path| open_package(&package_path(path), budget))
            .find(|opened| !opened.as_ref().is_err_and(SymbolFileError::is_missing))
            .and_then(|opened| opened.map_err(|error| problems.add(error)).ok());
        SplitLoader { package, folders, roots: request.roots.clone(), budget: budget.clone() }
    }

    /// Returns the other part of a unit; `None` if it is nowhere.
    pub(super) fn load(
        &self,
        load: &SplitDwarfLoad<SourceReader>,
        problems: &Problems,
    ) -> Option<Arc<Dwarf<SourceReader>>> {
        if let Some(unit) = self.package.as_ref().and_then(|package| package.find_cu(load.dwo_id, &load.parent).ok()?) {
            return Some(Arc::new(unit));
        }
        let path = |reader: &Option<SourceReader>| Some(PathBuf::from(reader.as_ref()?.to_string().ok()?.into_owned()));
        let name = path(&load.path)?;
        let recorded = path(&load.comp_dir).unwrap_or_default().join(&name);
        let beside = self.folders.iter().filter_map(|folder| Some(folder.join(name.file_name()?)));
        // A relative path would be one of the current folder, which has nothing to do with it.
        let recorded = recorded.is_absolute().then(|| self.roots.places(&recorded)).into_iter().flatten();
        let found = recorded.chain(beside).find_map(|path| match self.open_unit(&path, load) {
            Ok(unit) => Some(unit),
            Err(error) => {
                if !error.is_missing() {
                    problems.add(error);
                }
                None
            }
        });
        if found.is_none() {
            problems.miss_split_unit(&name);
        }
        found
    }

    /// Opens a `.dwo` file and checks that it is the one of the unit.
    fn open_unit(
        &self,
        path: &Path,
        load: &SplitDwarfLoad<SourceReader>,
    ) -> Result<Arc<Dwarf<SourceReader>>, SymbolFileError> {
        let file = ElfFile::open(path, &self.budget)?;
        let mut dwarf = Dwarf::load(|id| id.dwo_name().map_or_else(no_section, |name| file.reader(name)))?;
        match unit_id(&dwarf) {
            Some(id) if id == load.dwo_id => {}
            Some(_) => return Err(SymbolFileError::OtherUnit { path: path.into() }),
            None => return Err(SymbolFileError::malformed(path, "unit")),
        }
        dwarf.make_dwo(&load.parent);
        Ok(Arc::new(dwarf))
    }
}

/// The error of loading a package.
enum PackageError {
    File(SymbolFileError),
    Dwarf,
}

impl From<gimli::Error> for PackageError {
    fn from(_: gimli::Error) -> PackageError {
        PackageError::Dwarf
    }
}

fn open_package(path: &Path, budget: &Arc<Budget>) -> Result<DwarfPackage<SourceReader>, SymbolFileError> {
    let file = ElfFile::open(path, budget)?;
    let section = |id: gimli::SectionId| id.dwo_name().map_or_else(no_section, |name| file.reader(name));
    DwarfPackage::load(|id| section(id).map_err(PackageError::File), SourceReader::none()).map_err(
        |error| match error {
            PackageError::File(error) => error,
            PackageError::Dwarf => SymbolFileError::malformed(path, "index of units"),
        },
    )
}

/// Returns the content of a section that such files never have.
fn no_section<E>() -> Result<SourceReader, E> {
    Ok(SourceReader::none())
}

fn unit_id(dwarf: &Dwarf<SourceReader>) -> Option<DwoId> {
    let header = dwarf.units().next().ok()??;
    dwarf.unit(header).ok()?.dwo_id
}

/// Returns the path of the package of a binary: its own, and `.dwp`.
fn package_path(binary: &Path) -> PathBuf {
    let mut path = OsString::from(binary);
    path.push(".dwp");
    path.into()
}

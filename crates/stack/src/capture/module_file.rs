//! The files of modules: where the file that was loaded can be opened.
//!
//! The running program is always reachable by its link in `/proc`, also when its file was deleted
//! or replaced. Of other modules the file may be another one by now, which the build id shows. The
//! same holds for a program that was started through the dynamic loader, which the link names then.

use std::path::{Path, PathBuf};

use super::modules::{LoadedModule, ObjectOwner, OtherOwner};
use super::symbolizer::EXECUTABLE;
use crate::symbols::SymbolFileError;
use crate::symbols::file::FileId;
use crate::symbols::roots::{OWN_ROOT, Roots};

/// Returns the root folders below which the debug files of a module are.
pub(super) fn roots(module: &LoadedModule) -> Roots {
    match &module.files.owner {
        ObjectOwner::Own => OWN_ROOT.clone(),
        ObjectOwner::Other(other) => Roots::of_other(&other.root),
    }
}

/// What was made of an opened file.
pub(super) struct Opened<T> {
    pub(super) value: T,
    /// The identity of the module's file.
    pub(super) id: FileId,
}

/// Calls `open` with each path at which a module's file may be, until one succeeds. `open` checks
/// the build id, if the module has one.
///
/// # Errors
///
/// That of the last path.
pub(super) fn open<T>(
    module: &LoadedModule,
    mut open: impl FnMut(&Path) -> Result<Opened<T>, SymbolFileError>,
) -> Result<T, SymbolFileError> {
    let path = &module.info.path;
    match &module.files.owner {
        ObjectOwner::Own if module.files.is_program => {
            open(Path::new(EXECUTABLE)).or_else(|_| open(path)).map(|opened| opened.value)
        }
        ObjectOwner::Own => open(path).map(|opened| opened.value),
        ObjectOwner::Other(other) => {
            let by_link = other.links.iter().find_map(|link| checked(module, other, link, &mut open).ok());
            by_link.map_or_else(|| checked(module, other, &path_in_root(path, other), open), Ok)
        }
    }
}

/// Opens a file of another process. Without a build id, the device and the number of the file have
/// to show that it is the one that is mapped.
fn checked<T>(
    module: &LoadedModule,
    other: &OtherOwner,
    path: &Path,
    mut open: impl FnMut(&Path) -> Result<Opened<T>, SymbolFileError>,
) -> Result<T, SymbolFileError> {
    let Opened { value, id } = open(path)?;
    if module.info.build_id.is_none() && (id.inode != other.inode || !is_device(id.device, &other.device)) {
        return Err(SymbolFileError::io(&module.info.path, std::io::Error::other("another file has its path by now")));
    }
    Ok(value)
}

/// Returns the path of a module of another process, in the mounts that this one sees.
fn path_in_root(path: &Path, other: &OtherOwner) -> PathBuf {
    other.root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns whether a device is the one that the mappings name as `major:minor`.
///
/// File systems without a device of their own (overlayfs, btrfs) have major number 0, and may give
/// other numbers in the mappings than for the file. There the number of the file has to suffice.
fn is_device(device: libc::dev_t, named: &str) -> bool {
    let hex = |text: &str| libc::c_uint::from_str_radix(text, 16).ok();
    let Some((major, minor)) = named.split_once(':').and_then(|(major, minor)| Some((hex(major)?, hex(minor)?))) else {
        return false;
    };
    let found = (libc::major(device), libc::minor(device));
    found == (major, minor) || found.0 == 0 || major == 0
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::super::modules::{Modules, ObjectFiles};
    use super::*;
    use crate::{BuildId, Module};

    #[test]
    fn devices_are_compared() {
        let device = libc::makedev(8, 0x11);
        assert!(is_device(device, "08:11") && !is_device(device, "08:12") && !is_device(device, "fe:11"));
        assert!(is_device(device, "00:1f") && is_device(libc::makedev(0, 31), "08:11"), "overlayfs");
        assert!(!is_device(device, "") && !is_device(device, "08"));
    }

    #[test]
    fn a_file_without_a_build_id_has_to_be_the_mapped_one() {
        let program = std::env::current_exe().unwrap();
        let inode = std::fs::metadata(&program).unwrap().ino();
        let mut module = Modules::current().list.iter().find(|module| module.files.is_program).unwrap().clone();
        let opened = |module: &LoadedModule, inode: u64| {
            let owner = OtherOwner {
                number: u64::MAX,
                root: "/".into(),
                links: vec![EXECUTABLE.into()],
                inode,
                device: "00:00".into(),
            };
            let mut module = module.clone();
            module.files = ObjectFiles { owner: ObjectOwner::Other(owner), ..module.files };
            let found = |path: &Path| {
                let metadata = std::fs::metadata(path).unwrap();
                FileId { device: metadata.dev(), inode: metadata.ino() }
            };
            open(&module, |path| Ok(Opened { value: path.to_owned(), id: found(path) })).ok()
        };
        let with_id = Module { path: program.clone(), build_id: Some(BuildId::new(&[1; 20]).unwrap()) };
        module.info = Arc::new(with_id);
        assert_eq!(opened(&module, inode + 1), Some(EXECUTABLE.into()), "the build id is checked by `open`");
        module.info = Arc::new(Module { path: program, build_id: None });
        assert_eq!(opened(&module, inode), Some(EXECUTABLE.into()));
        assert_eq!(opened(&module, inode + 1), None);
    }
}

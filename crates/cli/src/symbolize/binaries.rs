//! The files with symbols, and which module of the input each belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pollwatch_stack::{BuildId, Frame, SymbolFile};

use super::SymbolizeError;
use crate::text::note;

/// A module that the input names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InputModule {
    /// The file name.
    pub(super) name: String,
    /// The build id in hexadecimal, where the input has it.
    pub(super) build_id: Option<String>,
}

struct Binary {
    path: PathBuf,
    file: SymbolFile,
    is_used: bool,
}

/// The files, and what the input was found to need.
pub(super) struct Binaries {
    list: Vec<Binary>,
    /// The modules that have frames without symbols, and the index of the file that each belongs
    /// to.
    modules: BTreeMap<InputModule, Option<usize>>,
    unchecked: BTreeSet<String>,
}

impl Binaries {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Binaries, SymbolizeError> {
        let open = |path: &PathBuf| {
            let file = SymbolFile::open(path).map_err(SymbolizeError::Binary)?;
            for problem in file.take_problems() {
                note(&format!("pollwatch symbolize: {problem}"));
            }
            if !file.has_symbols() {
                return Err(SymbolizeError::NoSymbols { path: path.clone() });
            }
            Ok(Binary { path: path.clone(), file, is_used: false })
        };
        let list = paths.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Binaries { list, modules: BTreeMap::new(), unchecked: BTreeSet::new() })
    }

    /// Returns the functions at an offset of a module, the innermost first; none where no file
    /// belongs to the module or has a symbol for the offset.
    pub(super) fn frames(&mut self, module: &InputModule, offset: u64) -> Vec<Frame> {
        let index = match self.modules.get(module) {
            Some(&known) => known,
            None => {
                let index = self.find(module);
                self.modules.insert(module.clone(), index);
                index
            }
        };
        let Some(index) = index else { return Vec::new() };
        let binary = &mut self.list[index];
        binary.is_used = true;
        binary.file.frames(offset)
    }

    /// Finds the file of a module by its build id. A module without one is found by its name, which
    /// proves nothing.
    fn find(&mut self, module: &InputModule) -> Option<usize> {
        if let Some(id) = &module.build_id {
            let has_id = |binary: &Binary| binary.build_id().is_some_and(|own| own.to_string() == *id);
            return self.list.iter().position(has_id);
        }
        let index = self.list.iter().position(|binary| binary.has_name_of(module))?;
        self.unchecked.insert(format!(
            "the input has no build id of {}: that {} is of the same build is not checked",
            module.name,
            self.list[index].path.display()
        ));
        Some(index)
    }

    /// Checks that the files are those that the input needs.
    pub(super) fn check(&self) -> Result<(), SymbolizeError> {
        if self.modules.is_empty() {
            return Err(SymbolizeError::NoStack);
        }
        for binary in self.list.iter().filter(|binary| !binary.is_used) {
            let same_name =
                |(module, index): &(&InputModule, &Option<usize>)| index.is_none() && binary.has_name_of(module);
            if let Some(needed) = self.modules.iter().find(same_name).and_then(|(module, _)| module.build_id.clone()) {
                let has = binary.build_id().map_or("missing".into(), BuildId::to_string);
                return Err(SymbolizeError::OtherBuild { binary: binary.path.display().to_string(), has, needed });
            }
        }
        if self.list.iter().all(|binary| !binary.is_used) {
            let modules: Vec<_> = self.modules.keys().map(InputModule::to_string).collect();
            return Err(SymbolizeError::NothingMatches { modules: modules.join(", ") });
        }
        Ok(())
    }

    /// Returns what the user should know of the result.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let unused = self.list.iter().filter(|binary| !binary.is_used);
        let unused = unused.map(|binary| format!("{} is no module of the input: not used", binary.path.display()));
        let problems = self.list.iter().flat_map(|binary| binary.file.take_problems());
        self.unchecked.iter().cloned().chain(unused).chain(problems)
    }
}

impl Binary {
    fn build_id(&self) -> Option<&BuildId> {
        self.file.module().build_id.as_ref()
    }

    /// Returns whether the file is called like a module: `service`, `service.debug`,
    /// `service.unstripped`.
    fn has_name_of(&self, module: &InputModule) -> bool {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.strip_prefix(&module.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl std::fmt::Display for InputModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.build_id {
            Some(id) => write!(f, "{} (build id {id})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

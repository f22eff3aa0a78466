//! The files that an incident is written to: a bounded number of them, of which a process replaces
//! none of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::action::{ActionKind, IncidentRule};
use crate::model::event::Notice;
use crate::model::labels::ActionResult;
use crate::report::queues::ReportQueues;

/// The largest number of files beside one path.
const MAX_FILES: usize = 16;

/// The files beside one path that this process may still write.
#[derive(Debug)]
pub(super) struct EvidenceFiles {
    path: PathBuf,
    /// The paths that this process has created.
    created: Vec<PathBuf>,
}

impl EvidenceFiles {
    pub(super) fn new(path: PathBuf) -> EvidenceFiles {
        EvidenceFiles { path, created: Vec::new() }
    }

    /// Writes a file, and returns its path: the first of the names that is free. If all are taken,
    /// the oldest file of another process goes.
    pub(super) fn write(&mut self, text: &str) -> io::Result<PathBuf> {
        if self.created.len() == MAX_FILES {
            let problem = format!("this process has written {MAX_FILES} files beside {}", self.path.display());
            return Err(io::Error::other(problem));
        }
        let (path, mut file) = self.create()?;
        self.created.push(path.clone());
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    fn create(&self) -> io::Result<(PathBuf, File)> {
        if let Some(created) = self.create_free()? {
            return Ok(created);
        }
        let age = |path: &PathBuf| {
            fs::symlink_metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        if let Some(oldest) = self.names().filter(|name| !self.created.contains(name)).min_by_key(age) {
            fs::remove_file(oldest)?;
        }
        self.create_free()?.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// Creates the first file whose name is free. An existing file or link is never followed.
    fn create_free(&self) -> io::Result<Option<(PathBuf, File)>> {
        for path in self.names() {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Some((path, file))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn names(&self) -> impl Iterator<Item = PathBuf> {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("threads");
        let extension = self.path.extension().and_then(|extension| extension.to_str());
        (1..=MAX_FILES).map(move |number| {
            let name = match extension {
                Some(extension) => format!("{stem}-{number}.{extension}"),
                None => format!("{stem}-{number}"),
            };
            folder_of(&self.path).join(name)
        })
    }
}

/// The files beside one path, for all actions that write them.
#[derive(Debug)]
pub(super) struct PathEvidence {
    files: EvidenceFiles,
    /// The actions, by their index.
    rules: Vec<usize>,
    /// True once a problem was logged.
    has_failed: bool,
}

impl PathEvidence {
    /// Returns the files of all actions that write some, each path once.
    pub(super) fn of_rules(rules: &[IncidentRule]) -> Vec<PathEvidence> {
        let mut all: Vec<PathEvidence> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let ActionKind::WriteThreads(path) = &rule.action else { continue };
            match all.iter_mut().find(|known| known.files.path == *path) {
                Some(known) => known.rules.push(index),
                None => {
                    let files = EvidenceFiles::new(path.clone());
                    all.push(PathEvidence { files, rules: vec![index], has_failed: false });
                }
            }
        }
        all
    }

    /// Returns the number of the actions that are due, by their index.
    pub(super) fn count_due(&self, due: &[usize]) -> usize {
        self.rules.iter().filter(|rule| due.contains(rule)).count()
    }

    /// Writes a file. The first problem is logged.
    pub(super) fn write(&mut self, text: &str, queues: &ReportQueues) -> ActionResult {
        let problem = match self.files.write(text) {
            Ok(_) => return ActionResult::Done,
            Err(problem) => problem,
        };
        if !std::mem::replace(&mut self.has_failed, true) {
            let text = format!("the threads of an incident could not be written to a file: {problem}");
            queues.push_notice(Notice::Degraded(text));
        }
        ActionResult::Failed
    }
}

/// Returns the name of the file at a path, if it has one in UTF-8.
pub(super) fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Returns the folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::report::incidents::action::Action;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("pollwatch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
            let mut names: Vec<_> = fs::read_dir(&self.0).unwrap().map(name).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_process_writes_a_bounded_number_and_replaces_none_of_its_own() {
        let folder = Folder::new("evidence");
        let path = folder.0.join("threads.txt");
        let mut files = EvidenceFiles::new(path.clone());
        for number in 1..=MAX_FILES {
            let written = files.write(&number.to_string()).unwrap();
            assert_eq!(written, folder.0.join(format!("threads-{number}.txt")));
        }
        assert!(files.write("one more").unwrap_err().to_string().contains("16 files"));
        let first = |number| fs::read_to_string(folder.0.join(format!("threads-{number}.txt"))).unwrap();
        assert_eq!((first(1), first(16)), ("1".into(), "16".into()));
        // The next process replaces the oldest.
        let aged = File::options().write(true).open(folder.0.join("threads-5.txt")).unwrap();
        aged.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(EvidenceFiles::new(path).write("new").unwrap(), folder.0.join("threads-5.txt"));
        assert_eq!((first(5), folder.names().len()), ("new".into(), MAX_FILES));
    }

    /// Two actions write to one path, at different times.
    #[test]
    fn actions_of_one_path_share_its_files() {
        let folder = Folder::new("shared-evidence");
        let path = folder.0.join("threads.txt");
        let mut before = EvidenceFiles::new(path.clone());
        (0..MAX_FILES).for_each(|_| drop(before.write("before").unwrap()));
        let after = std::time::Duration::from_secs(1);
        let rule = |number, action| IncidentRule::new(number * after, action);
        let write = || Action::write_threads(&path);
        let other = Action::write_threads(folder.0.join("other.txt"));
        let rules = [rule(1, write()), rule(1, Action::print_threads()), rule(2, write()), rule(2, other)];
        let mut all = PathEvidence::of_rules(&rules);
        let indices: Vec<_> = all.iter().map(|evidence| evidence.rules.clone()).collect();
        assert_eq!(indices, [vec![0, 2], vec![3]]);
        assert_eq!((all[0].count_due(&[0, 1]), all[0].count_due(&[0, 2]), all[1].count_due(&[0])), (1, 2, 0));
        // Even if its time says so, a file of this process is never the oldest.
        let first = all[0].files.write("first").unwrap();
        File::options().write(true).open(&first).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        (1..MAX_FILES).for_each(|_| assert_ne!(all[0].files.write("later").unwrap(), first));
        assert_eq!(fs::read_to_string(first).unwrap(), "first");
        assert!(all[0].files.write("one more").is_err());
    }

    #[test]
    fn a_name_without_extension_and_a_folder_that_went() {
        let folder = Folder::new("plain-evidence");
        let mut files = EvidenceFiles::new(folder.0.join("threads"));
        files.write("").unwrap();
        assert_eq!(folder.names(), ["threads-1"]);
        fs::remove_dir_all(&folder.0).unwrap();
        assert_eq!(files.write("").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

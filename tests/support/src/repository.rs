//! Files of the repository, and scratch folders beside the build.

use std::path::{Path, PathBuf};

/// The path of a file of the repository.
pub fn path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this crate is tests/support");
    root.join(name)
}

/// The text of a file of the repository.
#[track_caller]
pub fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An empty folder below the target directory, for the caller to remove.
pub fn scratch(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test binary");
    let target = this.ancestors().nth(3).expect("target/PROFILE/deps/THIS");
    let folder = target.join("tmp").join(name);
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

/// The blocks of a document between fences that start with ```` ```LANGUAGE ````.
#[track_caller]
pub fn fenced(document: &str, language: &str) -> Vec<String> {
    let (text, opening) = (read(document), format!("```{language}\n"));
    let blocks = text.split(&opening).skip(1);
    let blocks: Vec<String> = blocks.map(|rest| rest.split_once("```").expect("a closing fence").0.into()).collect();
    assert!(!blocks.is_empty(), "no ```{language} in {document}");
    blocks
}

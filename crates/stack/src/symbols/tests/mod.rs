//! Symbols of programs whose debug information is in each of the places where it may be.
//!
//! The programs are built here by the compiler, and split by `objcopy`. The truth is what the
//! program itself prints: the offset of its function.

mod damaged;
mod remapped;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tables::{SymbolRequest, Tables};
use super::{SymbolFile, SymbolFileError, inlined};
use crate::Frame;

const LIMIT: u64 = 1 << 30;

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pollwatch-symbols-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: {command:?} cannot be run here: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A program, and the offset of its function `outer`.
struct Program {
    path: PathBuf,
    outer: u64,
}

/// Builds the program in a folder, with the given flags of the compiler.
fn build(folder: &Folder, flags: &[&str]) -> Option<Program> {
    let path = folder.path("app");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/symbols/tests/program.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    // The folder of the compilation is recorded in the program.
    rustc.current_dir(&folder.0).args(["--edition=2024", "-Copt-level=1", "-Cdebuginfo=2", "-o"]).arg(&path);
    run(rustc.args(flags).arg(source))?;
    let outer = run(&mut Command::new(&path))?.trim().parse().unwrap();
    Some(Program { path, outer })
}

fn objcopy(args: &[&str], files: &[&Path]) -> Option<()> {
    run(Command::new("objcopy").args(args).args(files)).map(drop)
}

/// Moves the debug information of a program to `debug`, and makes its `.gnu_debuglink` refer to it.
fn split_off(program: &Program, debug: &Path) -> Option<()> {
    objcopy(&["--only-keep-debug"], &[&program.path, debug])?;
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-all", &link], &[&program.path])
}

fn tables(program: &Program) -> Tables {
    Tables::open(&SymbolRequest::new(&program.path, LIMIT)).unwrap()
}

/// Returns the calls at the first instruction of `outer` at which `inlined` was inlined.
fn calls_in_outer(tables: &Tables, program: &Program) -> Vec<Frame> {
    let frames = |offset| inlined::frames(tables, offset, true, &Frame::default());
    let mut instructions = (program.outer..program.outer + 64).map(frames);
    instructions.find(|frames| frames.len() > 1).unwrap_or_default()
}

/// Checks function, file and line of `outer` and of what was inlined into it.
#[track_caller]
fn assert_full(program: &Program) {
    let tables = tables(program);
    let calls = calls_in_outer(&tables, program);
    let all: Vec<_> = calls.iter().map(|f| (f.name(), f.file.as_deref().unwrap_or(""), f.line.unwrap_or(0))).collect();
    let source = include_str!("program.rs");
    let line = |text: &str| source.lines().position(|line| line.contains(text)).unwrap() as u32 + 1;
    let problems = tables.problems.take().0;
    let [inner @ .., outer] = &all[..] else { panic!("no inlined function: {problems:?}") };
    // `black_box` may be an inlined function as well.
    let [.., inner] = inner else { panic!("{all:?}") };
    assert!(inner.0.ends_with("inlined") && inner.1.ends_with("program.rs"), "{all:?}");
    assert_eq!(inner.2, line("black_box(x) + 1"), "{all:?}");
    assert!(outer.0.ends_with("outer") && outer.1.ends_with("program.rs"), "{all:?}");
    assert_eq!(outer.2, line("let y = inlined(x)"), "{all:?}");
    assert!(problems.is_empty(), "{problems:?}");
}

/// Checks that nothing but the name of the function is known.
#[track_caller]
fn assert_name_only(program: &Program, tables: &Tables) {
    let frames = inlined::frames(tables, program.outer, true, &Frame::default());
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert!(frames[0].name().ends_with("outer"), "{frames:?}");
}

#[test]
fn debug_information_in_the_binary() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
    assert_full(&program);
    for kind in ["zlib", "zstd", "zlib-gnu"] {
        // Not every version of objcopy knows zstd.
        let args = format!("--compress-debug-sections={kind}");
        let packed = folder.path(kind);
        let status = Command::new("objcopy").arg(&args).args([&program.path, &packed]).output();
        if status.is_ok_and(|output| output.status.success()) {
            let elf = std::fs::read(&packed).unwrap().len();
            assert!(elf < std::fs::read(&program.path).unwrap().len(), "{kind}");
            assert_full(&Program { path: packed, ..program });
        } else {
            println!("skipped: objcopy does not support {kind} here");
        }
    }
}

#[test]
fn packed_split_debug_information() {
    let folder = Folder::new();
    let Some(mut program) = build(&folder, &["-Csplit-debuginfo=packed"]) else { return };
    assert_full(&program);
    // A package of another build has no unit with these ids.
    let other = Folder::new();
    let Some(built) = build(&other, &["-Csplit-debuginfo=packed", "-Copt-level=2", "-Cmetadata=other"]) else { return };
    std::fs::copy(other.path("app.dwp"), folder.path("app.dwp")).unwrap();
    let incomplete = tables(&program);
    assert!(calls_in_outer(&incomplete, &program).is_empty());
    let problems = incomplete.problems.take().0;
    assert!(problems.len() == 1 && problems[0].contains("split debug information is missing"), "{problems:?}");
    // Both files are moved together.
    let moved = Folder::new();
    for name in ["app", "app.dwp"] {
        std::fs::rename(other.path(name), moved.path(name)).unwrap();
    }
    program = Program { path: moved.path("app"), outer: built.outer };
    assert_full(&program);
}

#[test]
fn unpacked_split_debug_information() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=unpacked"]) else { return };
    assert_full(&program);
    // The program and its unit are elsewhere now, side by side.
    let moved = Folder::new();
    let unit = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
    let unit = unit.into_iter().find(|path| path.extension().is_some_and(|e| e == "dwo")).unwrap();
    std::fs::rename(&program.path, moved.path("app")).unwrap();
    let program = Program { path: moved.path("app"), ..program };
    let moved_unit = moved.path(unit.file_name().unwrap().to_str().unwrap());
    std::fs::rename(&unit, &moved_unit).unwrap();
    assert_full(&program);
    // A unit of another build is not used, and neither is a damaged one.
    let other = Folder::new();
    let flags = ["-Csplit-debuginfo=unpacked", "-Copt-level=2", "-Cmetadata=other"];
    if build(&other, &flags).is_none() {
        return;
    }
    let units = std::fs::read_dir(&other.0).unwrap().map(|entry| entry.unwrap().path());
    let foreign = units.into_iter().find(|path| path.extension().is_some_and(|e| e == "dwo")).unwrap();
    std::fs::copy(foreign, &moved_unit).unwrap();
    let incomplete = tables(&program);
    assert!(calls_in_outer(&incomplete, &program).is_empty());
    let (problems, unusable) = incomplete.problems.take();
    assert!(problems[0].contains("is of another build: the id of its unit"), "{problems:?}");
    assert_eq!(unusable, 1);
}

#[test]
fn debug_link_beside_the_binary_and_below() {
    for place in ["app.debug", ".debug/app.debug"] {
        let folder = Folder::new();
        let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
        std::fs::create_dir(folder.path(".debug")).unwrap();
        let debug = folder.path(place);
        if split_off(&program, &debug).is_none() {
            return;
        }
        assert_full(&program);
        std::fs::remove_file(debug).unwrap();
        assert!(tables(&program).is_empty() || !tables(&program).has_lines(), "stripped");
    }
}

#[test]
fn debug_file_in_the_folder_of_build_ids() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
    let Some(id) = tables(&program).build_id().map(ToString::to_string) else {
        return println!("skipped: the linker writes no build id here");
    };
    let place = folder.path("debug/.build-id").join(&id[..2]);
    std::fs::create_dir_all(&place).unwrap();
    let debug = place.join(format!("{}.debug", &id[2..]));
    if objcopy(&["--only-keep-debug"], &[&program.path, &debug]).is_none() {
        return;
    }
    objcopy(&["--strip-all"], &[&program.path]);
    let debug_folder = folder.path("debug");
    let request = SymbolRequest { debug_folder: &debug_folder, ..SymbolRequest::new(&program.path, LIMIT) };
    let tables = Tables::open(&request).unwrap();
    assert!(calls_in_outer(&tables, &program).len() > 1, "{:?}", tables.problems.take().0);
    assert!(tables.problems.take().0.is_empty());
}

#[test]
fn debug_file_of_another_build_is_not_used() {
    let (folder, other) = (Folder::new(), Folder::new());
    let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
    let Some(second) = build(&other, &["-Csplit-debuginfo=off", "-Copt-level=2", "-Cmetadata=other"]) else { return };
    let debug = folder.path("app.debug");
    if split_off(&program, &debug).is_none() {
        return;
    }
    objcopy(&["--only-keep-debug"], &[&second.path, &debug]);
    let stripped = tables(&program);
    assert!(!stripped.has_lines());
    let problems = stripped.problems.take().0;
    assert!(problems.len() == 1 && problems[0].contains("is of another build: its build id is"), "{problems:?}");
}

#[test]
fn checksum_decides_without_a_build_id() {
    let flags = ["-Csplit-debuginfo=off", "-Clink-arg=-Wl,--build-id=none"];
    let folder = Folder::new();
    let Some(program) = build(&folder, &flags) else { return };
    assert_eq!(tables(&program).build_id(), None);
    let debug = folder.path("app.debug");
    if split_off(&program, &debug).is_none() {
        return;
    }
    assert_full(&program);
    // The same content and one byte more.
    let mut bytes = std::fs::read(&debug).unwrap();
    bytes.push(0);
    std::fs::write(&debug, bytes).unwrap();
    let stripped = tables(&program);
    assert!(!stripped.has_lines());
    let problems = stripped.problems.take().0;
    assert!(problems.len() == 1 && problems[0].contains("its checksum is not the one"), "{problems:?}");
}

#[test]
fn stripped_program_by_its_unstripped_file() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
    let stripped = folder.path("stripped");
    if objcopy(&["--strip-all"], &[&program.path, &stripped]).is_none() {
        return;
    }
    let captured = SymbolFile::open(&stripped).unwrap();
    assert!(!captured.has_symbols() && captured.frames(program.outer).is_empty());
    let file = SymbolFile::open(&program.path).unwrap();
    let Some(id) = captured.module().build_id.clone() else {
        return println!("skipped: the linker writes no build id here");
    };
    file.check_build_id(&id).unwrap();
    let frames = file.frames(program.outer);
    assert!(frames.last().unwrap().name().ends_with("outer"), "{frames:?}");
    assert_eq!((frames[0].module.as_deref(), frames[0].offset), (Some("app"), program.outer));
    let other = "00ff".parse().unwrap();
    assert!(matches!(file.check_build_id(&other), Err(SymbolFileError::OtherBuild { .. })));
}

#[test]
fn names_alone_where_lines_take_too_much_memory() {
    // The folder's name is part of the file, so that each build has other pages. What a look-up
    // needs may be in a page that opening has read.
    for _ in 0..16 {
        let folder = Folder::new();
        let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
        let full = tables(&program);
        // What opening takes, and no byte for a look-up.
        let limit = full.bytes();
        assert!(calls_in_outer(&full, &program).len() > 1);
        assert!(!full.is_over_budget());
        if limit < full.bytes() {
            return assert_names_alone(&program, &full, limit);
        }
    }
    panic!("no look-up reads anything");
}

fn assert_names_alone(program: &Program, full: &Tables, limit: u64) {
    assert!(full.bytes() < std::fs::metadata(&program.path).unwrap().len(), "only parts are read");
    let tables = Tables::open(&SymbolRequest::new(&program.path, limit)).unwrap();
    let _ = calls_in_outer(&tables, program);
    assert!(tables.is_over_budget() && tables.bytes() <= limit, "{} of {limit}", tables.bytes());
    // The symbolizer reads the names alone then.
    let names = SymbolRequest { names_only: true, ..SymbolRequest::new(&program.path, limit) };
    let tables = Tables::open(&names).unwrap();
    assert_name_only(program, &tables);
    assert!(!tables.is_over_budget() && tables.bytes() < limit, "{} of {limit}", tables.bytes());
}

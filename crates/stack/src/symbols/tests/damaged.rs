//! Files that are truncated or written by an enemy: an error, never a panic, and bounded memory.

use super::*;
#[cfg(feature = "capture")]
use crate::random::rounds;

/// Opens a file and looks several offsets up. It returns whether it could be opened.
fn use_file(path: &Path, offsets: &[u64]) -> bool {
    let Ok(tables) = Tables::open(&SymbolRequest::new(path, 64 << 20)) else { return false };
    for &offset in offsets {
        let _ = inlined::frames(&tables, offset, true, &Frame::default());
    }
    assert!(tables.bytes() <= 64 << 20);
    true
}

#[test]
fn truncated_files() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=packed"]) else { return };
    let offsets = [program.outer, program.outer + 5];
    for name in ["app", "app.dwp"] {
        let path = folder.path(name);
        let whole = std::fs::read(&path).unwrap();
        for part in 0..40 {
            std::fs::write(&path, &whole[..whole.len() * part / 40]).unwrap();
            use_file(&program.path, &offsets);
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert_full(&program);
}

#[test]
fn file_that_is_truncated_while_it_is_open() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=packed"]) else { return };
    let tables = tables(&program);
    // The package is open. A build that writes it again truncates it first.
    std::fs::File::options().write(true).open(folder.path("app.dwp")).unwrap().set_len(0).unwrap();
    for offset in program.outer..program.outer + 64 {
        let _ = inlined::frames(&tables, offset, true, &Frame::default());
    }
    assert_name_only_or_line(&tables, &program);
}

/// Checks that the symbol table still names the function.
fn assert_name_only_or_line(tables: &Tables, program: &Program) {
    let frames = inlined::frames(tables, program.outer, true, &Frame::default());
    assert!(frames.last().is_some_and(|frame| frame.name().ends_with("outer")), "{frames:?}");
}

#[test]
fn no_file_and_no_elf_file() {
    let folder = Folder::new();
    let path = folder.path("file");
    assert!(matches!(SymbolFile::open(&path), Err(SymbolFileError::Io { .. })));
    assert!(matches!(SymbolFile::open(&folder.0), Err(SymbolFileError::Io { .. })), "a folder");
    for content in [&b""[..], b"\x7fELF", b"\x7fELF\x01\x01\x01", &[0xff; 4096]] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(SymbolFile::open(&path), Err(SymbolFileError::NotElf { .. })), "{content:?}");
    }
    let fifo = folder.path("fifo");
    if run(Command::new("mkfifo").arg(&fifo)).is_some() {
        assert!(matches!(SymbolFile::open(&fifo), Err(SymbolFileError::Io { .. })), "opening it does not wait");
    }
}

/// A file of zeroes that claims to be 1 TiB long.
#[test]
fn sparse_file_of_any_length() {
    let folder = Folder::new();
    let path = folder.path("huge");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap_or_default();
    assert!(Tables::open(&SymbolRequest::new(&path, 64 << 20)).is_err());
}

/// A section that says that it is 1 TiB long once it is decompressed.
#[test]
fn compressed_section_that_claims_any_length() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=off"]) else { return };
    let packed = folder.path("packed");
    if objcopy(&["--compress-debug-sections=zlib"], &[&program.path, &packed]).is_none() {
        return;
    }
    let mut bytes = std::fs::read(&packed).unwrap();
    // Compression headers of zlib: type 1, a word of 0, the length, the alignment.
    let headers: Vec<usize> = (0..bytes.len() - 26)
        .filter(|&at| bytes[at..at + 8] == [1, 0, 0, 0, 0, 0, 0, 0] && bytes[at + 24] == 0x78)
        .collect();
    assert!(!headers.is_empty());
    for length in [1u64 << 40, u64::MAX, 1] {
        headers.iter().for_each(|&at| bytes[at + 8..at + 16].copy_from_slice(&length.to_le_bytes()));
        std::fs::write(&packed, &bytes).unwrap();
        let tables = Tables::open(&SymbolRequest::new(&packed, 64 << 20)).unwrap();
        assert_name_only(&program, &tables);
        assert_eq!(tables.problems.take().1, 1);
    }
}

#[test]
#[cfg(feature = "capture")]
fn overwritten_bytes() {
    let folder = Folder::new();
    let Some(program) = build(&folder, &["-Csplit-debuginfo=packed"]) else { return };
    let files = ["app", "app.dwp"].map(|name| (folder.path(name), std::fs::read(folder.path(name)).unwrap()));
    let mut opened = 0u64;
    rounds("overwritten_bytes", |random| {
        let (path, whole) = &files[random.below(files.len())];
        let mut bytes = whole.clone();
        for _ in 0..=random.size(64) {
            // The headers, at both ends of the file, decide on most of the rest.
            let at = match random.below(4) {
                0 => random.below(64),
                1 => bytes.len() - 1 - random.below(4096),
                _ => random.below(bytes.len()),
            };
            bytes[at] = random.next() as u8;
        }
        std::fs::write(path, &bytes).unwrap();
        opened += u64::from(use_file(&program.path, &[program.outer, program.outer + 5, random.next() % 400_000]));
        std::fs::write(path, whole).unwrap();
    });
    assert!(opened > 0);
    assert_full(&program);
}

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;

const TABLES: [(&str, &[SyscallRow]); 2] = [("x86_64", x86_64::TABLE), ("aarch64", aarch64::TABLE)];

/// Returns the rows of one processor.
fn rows(own: &'static [SyscallRow]) -> impl Iterator<Item = &'static SyscallRow> {
    own.iter().chain(common::TABLE)
}

/// Returns the sources of the locked version of the crate libc, where cargo has unpacked it here.
fn libc_sources() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))) else {
        return Vec::new();
    };
    let below = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let registries: Vec<_> = below(&home.join("registry/src")).collect();
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap_or_default();
    let version = lock.split_once("name = \"libc\"\nversion = \"").and_then(|(_, rest)| rest.split_once('"'));
    let folder = version.map(|(version, _)| format!("libc-{version}"));
    let is_libc = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()) == folder.as_deref();
    registries.iter().flat_map(|registry| below(registry)).filter(is_libc).collect()
}

/// Returns the constants `SYS_name: c_long = number;` of libc's source files for one processor.
fn constants(libc: &Path, processor: &str) -> BTreeMap<String, i64> {
    let folder = libc.join("src/unix/linux_like/linux/gnu/b64").join(processor);
    let texts = ["mod.rs", "not_x32.rs", "lp64.rs"].map(|file| std::fs::read_to_string(folder.join(file)));
    let parse = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("pub const SYS_")?.split_once(": c_long = ")?;
        Some((name.to_owned(), rest.strip_suffix(';')?.parse().ok()?))
    };
    texts.iter().flatten().flat_map(|text| text.lines().filter_map(parse)).collect()
}

#[test]
fn all_constants_of_libc_are_in_the_table() {
    let sources = libc_sources();
    if sources.is_empty() {
        return println!("SKIPPED: cargo has unpacked no libc here");
    }
    for (libc, (processor, own)) in sources.iter().flat_map(|libc| TABLES.map(|table| (libc, table))) {
        let constants = constants(libc, processor);
        assert!(constants.len() > 280, "{} {processor}: {} constants", libc.display(), constants.len());
        for (name, number) in constants {
            let found = rows(own).find(|row| row.number == number).map(|row| row.name);
            assert_eq!(found, Some(&*name), "{processor}, number {number}, {}", libc.display());
        }
    }
}

/// The numbers of libc for this processor, where its source is not to be had.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn numbers_of_this_processor() {
    for (number, name, purpose) in [
        (libc::SYS_read, "read", Purpose::Io),
        (libc::SYS_clock_nanosleep, "clock_nanosleep", Purpose::Sleep),
        (libc::SYS_copy_file_range, "copy_file_range", Purpose::Io),
        (libc::SYS_openat, "openat", Purpose::File),
        (libc::SYS_connect, "connect", Purpose::Socket),
        (libc::SYS_epoll_pwait, "epoll_pwait", Purpose::Poll),
        (libc::SYS_wait4, "wait4", Purpose::Child),
        (libc::SYS_flock, "flock", Purpose::FileLock),
        (libc::SYS_futex, "futex", Purpose::Futex),
        (libc::SYS_futex_waitv, "futex_waitv", Purpose::Futex),
        (libc::SYS_munmap, "munmap", Purpose::Memory),
        (libc::SYS_clone, "clone", Purpose::Spawn),
        (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", Purpose::Signal),
        (libc::SYS_semtimedop, "semtimedop", Purpose::Ipc),
        (libc::SYS_io_uring_enter, "io_uring_enter", Purpose::AsyncIo),
    ] {
        assert_eq!(describe(number), (name.into(), purpose));
    }
}

#[test]
fn numbers_ascend_and_names_occur_once() {
    for (processor, own) in TABLES {
        let numbers: Vec<i64> = rows(own).map(|row| row.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{processor}: binary search needs ascending numbers");
        let names: BTreeSet<&str> = rows(own).map(|row| row.name).collect();
        assert_eq!(names.len(), numbers.len(), "{processor}");
        for row in rows(own) {
            let table = if row.number < common::TABLE[0].number { own } else { common::TABLE };
            assert_eq!(find_in(table, row.number).map(|found| found.name), Some(row.name), "{processor}");
        }
    }
}

/// A call has one purpose on all processors, and no row lacks one.
#[test]
fn purposes_agree() {
    let mut purposes = BTreeMap::new();
    for row in TABLES.into_iter().flat_map(|(_, own)| rows(own)) {
        assert_ne!(row.purpose, Purpose::Unknown, "{}", row.name);
        assert_eq!(*purposes.entry(row.name).or_insert(row.purpose), row.purpose, "{}", row.name);
    }
}

#[test]
fn a_call_outside_the_table_is_named_by_its_number() {
    for number in [-5, 423, 471, i64::MAX] {
        assert_eq!(describe(number), (format!("syscall {number}").into(), Purpose::Unknown));
    }
}

//! Symbols of a running program whose files are stripped, split, deleted or replaced.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::raw::unknown;
use super::*;

const ROLE: &str = "POLLWATCH_TEST_SYMBOLS";

/// A folder with a copy of this test binary, removed at the end of the test.
struct Copied {
    folder: PathBuf,
    program: PathBuf,
}

impl Copied {
    fn new(name: &str) -> Copied {
        let folder = std::env::temp_dir().join(format!("pollwatch-program-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = folder.canonicalize().unwrap();
        let program = folder.join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        Copied { folder, program }
    }

    /// Moves the symbols to a debug file. Returns its path, or `None` where `objcopy` is missing.
    fn split_off(&self) -> Option<PathBuf> {
        let debug = self.folder.join("program.debug");
        let link = format!("--add-gnu-debuglink={}", debug.display());
        let objcopy = |args: [&std::ffi::OsStr; 3]| Command::new("objcopy").args(args).output();
        match objcopy(["--only-keep-debug".as_ref(), self.program.as_ref(), debug.as_ref()]) {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                println!("skipped: objcopy cannot be run here: {error}");
                return None;
            }
        }
        let output = objcopy(["--strip-all".as_ref(), link.as_ref(), self.program.as_ref()]).unwrap();
        assert!(output.status.success(), "{output:?}");
        Some(debug)
    }

    /// Runs the test `own_stack` in the copy, which does `role` to its own file first. Returns what
    /// it prints.
    fn run(&self, role: &str) -> String {
        let test = format!("{}::own_stack", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(&self.program);
        command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the copies run: it prints the stack of a thread that sleeps.
#[test]
fn own_stack() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let program = std::env::current_exe().unwrap();
    match &*role {
        "delete" => std::fs::remove_file(&program).unwrap(),
        "replace" => {
            let other = program.with_extension("new");
            std::fs::copy("/proc/self/exe", &other).unwrap();
            // The same file with another build id.
            let modules = Modules::current();
            let id = unknown(&modules, own_stack as *const () as u64)[0].module_info.clone().unwrap().build_id.clone();
            let mut bytes = std::fs::read(&other).unwrap();
            if let Some(id) = id {
                let at = bytes.windows(id.as_bytes().len()).position(|window| window == id.as_bytes()).unwrap();
                bytes[at] ^= 0xff;
            }
            std::fs::write(&other, bytes).unwrap();
            std::fs::rename(&other, &program).unwrap();
        }
        _ => {}
    }
    let subject = Subject::start(sleeps);
    let (mut capturer, start) = (Capturer::new(), Instant::now());
    let raw = loop {
        match subject.capture(&mut capturer) {
            Ok(raw) if raw.is_complete() && is_on(&raw, sleeps as *const () as usize) => break raw,
            result => assert!(start.elapsed() < Duration::from_secs(30), "{result:?}"),
        }
    };
    let mut symbolizer = Symbolizer::new();
    let stack = symbolizer.symbolize(&raw);
    println!("{stack:#}");
    println!("first: {}", stack.user_frames()[0]);
    let module = stack.user_frames()[0].module_info.clone().unwrap();
    println!("module: {}", module.path.display());
    symbolizer.take_problems().iter().for_each(|problem| println!("problem: {problem}"));
    println!("unusable: {}", symbolizer.unusable_files());
    assert!(symbolizer.take_problems().is_empty(), "each problem is returned once");
    // Without symbols, the same addresses have offsets, and no name.
    let plain = raw.without_symbols();
    assert!(plain.frames().iter().all(|frame| frame.function.is_none() && frame.module.is_some()), "{plain:#}");
    let offsets = |stack: &Stack| stack.frames().iter().map(|frame| frame.offset).collect::<Vec<_>>();
    let mut with_symbols = offsets(&stack);
    with_symbols.dedup();
    assert_eq!(with_symbols, offsets(&plain), "symbols add inlined functions alone");
}

fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {key}: {text}"))
}

/// Checks that the sleeping function has its file and line.
#[track_caller]
fn assert_full(text: &str) {
    let first = value(text, "first");
    assert!(first.contains("::sleeps (") && first.contains("tests/mod.rs:"), "{text}");
    assert_eq!(value(text, "unusable"), "0", "{text}");
    assert!(!text.contains("problem:"), "{text}");
}

#[test]
fn debug_file_beside_a_stripped_program() {
    let copied = Copied::new("debuglink");
    let Some(debug) = copied.split_off() else { return };
    assert_full(&copied.run(""));
    // A truncated debug file: the stack has offsets, and one text says why.
    let whole = std::fs::read(&debug).unwrap();
    std::fs::write(&debug, &whole[..whole.len() / 2]).unwrap();
    let text = copied.run("");
    assert!(value(&text, "first").starts_with("program+0x"), "{text}");
    assert!(value(&text, "problem").contains("program.debug is truncated or damaged"), "{text}");
    assert_eq!(value(&text, "unusable"), "1");
    assert!(text.contains("program has build id "), "{text}");
    // No debug file at all is no problem.
    std::fs::remove_file(&debug).unwrap();
    let text = copied.run("");
    assert!(value(&text, "first").starts_with("program+0x") && !text.contains("problem:"), "{text}");
}

#[test]
fn deleted_and_replaced_programs() {
    for role in ["delete", "replace"] {
        let copied = Copied::new(role);
        let text = copied.run(role);
        assert_full(&text);
        assert_eq!(value(&text, "module"), copied.program.to_str().unwrap(), "{role}");
    }
}

/// Loads a library and returns the address of its function.
fn load(path: &Path) -> u64 {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library has no initializers that do anything.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: the library is never unloaded.
    unsafe { libc::dlsym(library, c"answer".as_ptr()) as u64 }
}

#[test]
fn deleted_and_replaced_libraries() {
    let folder = Copied::new("library");
    let build = |name: &str, answer: u32| {
        let (source, library) = (folder.folder.join("library.rs"), folder.folder.join(name));
        std::fs::write(&source, format!("#[unsafe(no_mangle)]\npub extern \"C\" fn answer() -> u32 {{ {answer} }}\n"))
            .unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut rustc = Command::new(rustc);
        rustc.args(["--edition=2024", "--crate-type=cdylib", "-g", "-o"]).arg(&library).arg(&source);
        let output = rustc.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        library
    };
    let library = build("libanswer.so", 42);
    let address = load(&library);
    let modules = Modules::current();
    let frames = Symbolizer::new().look_up(&modules, address);
    assert_eq!((frames[0].name(), frames[0].line), ("answer".into(), Some(2)), "{frames:?}");
    assert!(frames[0].library, "it is not the program");
    let id = frames[0].module_info.as_ref().unwrap().build_id.clone();
    // Replaced, as an update does it.
    let other = build("libother.so", 43);
    std::fs::rename(&other, &library).unwrap();
    let mut symbolizer = Symbolizer::new();
    if let Some(id) = id {
        let frames = symbolizer.look_up(&modules, address);
        assert!(frames[0].name().starts_with("libanswer.so+0x"), "{frames:?}");
        let problems = symbolizer.take_problems();
        let expected = format!("not {id}");
        assert!(problems.len() == 1 && problems[0].contains("is of another build"), "{problems:?}");
        assert!(problems[0].ends_with(&expected), "{problems:?}");
    } else {
        println!("skipped: the linker writes no build id here");
    }
    std::fs::remove_file(&library).unwrap();
    let mut symbolizer = Symbolizer::new();
    assert!(symbolizer.look_up(&modules, address)[0].function.is_none());
    assert!(symbolizer.take_problems()[0].contains("libanswer.so cannot be read"), "deleted");
    assert_eq!(symbolizer.unusable_files(), 1);
}

/// Tables are held for longer each time that they are needed again, and never more than once at a
/// time.
#[test]
fn tables_are_released_and_loaded_again() {
    let modules = Modules::current();
    let address = computes as *const () as u64;
    let mut symbolizer = Symbolizer::new();
    symbolizer.look_up(&modules, address);
    let held = symbolizer.bytes_held();
    assert!(held > 0 && symbolizer.holds_tables());
    symbolizer.release_unused();
    assert_eq!(symbolizer.bytes_held(), held, "they were used just now");
    symbolizer.release_all();
    assert!(!symbolizer.holds_tables() && symbolizer.bytes_held() == 0);
}

//! Symbols of a program whose paths were remapped (`--remap-path-prefix`), as distributions and
//! reproducible builds do it. Who owns a function does not depend on it.

use super::*;

/// A crate that is inlined into the program: its name, the folder of its source, and its function.
struct Inlined {
    name: &'static str,
    folder: &'static str,
    function: &'static str,
}

const REGISTRY: &str = "home/registry/src";
const INDEX: &str = "home/registry/src/index.crates.io-0123456789abcdef";
const TOOLCHAIN: &str = "home/rustc-1.85.0";

const CRATES: [Inlined; 3] = [
    Inlined { name: "of_language", folder: "home/rustc-1.85.0/library/core/src", function: "slices" },
    Inlined { name: "tokio", folder: "tokio-1.54.1/src", function: "parks" },
    Inlined { name: "ureq", folder: "ureq-3.0.0/src", function: "fetches" },
];

impl Inlined {
    fn folder(&self) -> String {
        if self.folder.starts_with("home") { self.folder.into() } else { format!("{INDEX}/{}", self.folder) }
    }

    /// Compiles the crate to a library beside the program.
    fn build(&self, folder: &Folder, flags: &[String]) -> Option<()> {
        let source = folder.path(&self.folder());
        std::fs::create_dir_all(&source).unwrap();
        let text = format!(
            "#[inline(always)]\npub fn {}(x: u64) -> u64 {{\n    std::hint::black_box(x) + 1\n}}\n",
            self.function
        );
        std::fs::write(source.join("lib.rs"), text).unwrap();
        let mut rustc = rustc(folder, flags);
        rustc.args(["--crate-type=rlib", "--crate-name", self.name]).arg(source.join("lib.rs"));
        run(&mut rustc).map(drop)
    }
}

fn rustc(folder: &Folder, flags: &[String]) -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(&folder.0).args(["--edition=2024", "-Copt-level=1"]).args(flags);
    rustc
}

/// Builds a program into whose function `outer` one function of each crate is inlined.
fn build_with_crates(folder: &Folder, flags: &[String]) -> Option<Program> {
    CRATES.iter().try_for_each(|each| each.build(folder, flags))?;
    let calls = CRATES.map(|each| format!("    let x = {}::{}(x);\n", each.name, each.function)).concat();
    let program = include_str!("program.rs").replace("    let y = inlined(x);\n", &format!("{calls}    let y = x;\n"));
    std::fs::create_dir_all(folder.path("app/src")).unwrap();
    let (source, path) = (folder.path("app/src/main.rs"), folder.path("app/app"));
    std::fs::write(&source, program).unwrap();
    let mut rustc = rustc(folder, flags);
    rustc.args(CRATES.iter().flat_map(|each| ["--extern", each.name]));
    run(rustc.args(["-L", ".", "-o"]).arg(&path).arg(&source))?;
    let outer = run(&mut Command::new(&path))?.trim().parse().unwrap();
    Some(Program { path, outer })
}

/// Returns the frame of each crate's function, and that of the program's.
fn frames_of(program: &Program) -> Vec<Frame> {
    let tables = tables(program);
    let at = |offset| inlined::frames(&tables, offset, true, &Frame::default());
    let all: Vec<Frame> = (program.outer..program.outer + 256).flat_map(at).collect();
    let named = |name: &str| all.iter().find(|frame| frame.name().rsplit("::").next() == Some(name)).cloned();
    let names = CRATES.iter().map(|each| each.function).chain(["outer"]);
    names.map(|name| named(name).unwrap_or_else(|| panic!("no `{name}`: {all:#?}"))).collect()
}

#[test]
fn ownership_does_not_depend_on_how_paths_are_spelled() {
    let remaps: [&[(&str, &str)]; 5] = [
        &[],
        &[(REGISTRY, "/deps"), (TOOLCHAIN, "/usr/src/rustc-1.97.1")],
        // Relative ones, as of cargo's `trim-paths`.
        &[("", "."), (INDEX, ""), (TOOLCHAIN, "/rustc/0123abcd")],
        &[("home", "/h"), ("app", "/app")],
        &[("", "")],
    ];
    for remap in remaps {
        for debug in ["1", "2"] {
            let folder = Folder::new();
            let prefix = |from: &str, to: &str| {
                let from = folder.path(from).display().to_string();
                // A prefix that is removed takes its separator along.
                let from = if to.is_empty() { format!("{}/", from.trim_end_matches('/')) } else { from };
                format!("--remap-path-prefix={from}={to}")
            };
            let mut flags: Vec<String> = remap.iter().map(|(from, to)| prefix(from, to)).collect();
            flags.push(format!("-Cdebuginfo={debug}"));
            let Some(program) = build_with_crates(&folder, &flags) else { return };
            let frames = frames_of(&program);
            let owners: Vec<_> = frames.iter().map(|f| (f.library, f.dependency, f.package.as_deref())).collect();
            let expected =
                [(true, false, None), (true, true, Some("tokio")), (false, true, Some("ureq")), (false, false, None)];
            assert_eq!(owners, expected, "{flags:?}: {frames:#?}");
            let files: Vec<_> = frames.iter().filter_map(|frame| frame.file.as_deref()).collect();
            let portable = ["library/core/src/lib.rs", "tokio-1.54.1/src/lib.rs", "ureq-3.0.0/src/lib.rs"];
            assert_eq!(files[..3], portable, "{flags:?}");
            assert!(files[3].ends_with("src/main.rs"), "{flags:?}: {files:?}");
        }
    }
}

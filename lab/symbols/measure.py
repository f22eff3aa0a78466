#!/usr/bin/env python3
"""Measures the memory and the time of symbols, with a program of at least 200 MB of debug information.

    lab/symbols/measure.py DIR                      builds the program in DIR and prints a table
    lab/symbols/measure.py DIR --modules 100        a smaller program
    lab/symbols/measure.py DIR --stack CHECKOUT     with the pollwatch-stack of another checkout

The source code is generated into DIR, where all that cargo builds goes as well. docs/symbols.md has
the figures. Needs python3 and readelf.
"""

import argparse
import os
import subprocess

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

MANIFEST = """
[package]
name = "symbols"
edition = "2024"
[dependencies]
libc = "0.2"
pollwatch-stack = {{ path = "{stack}" }}
[profile.dev]
debug = true
codegen-units = 256
[profile.dev.package."*"]
opt-level = 3
[workspace]
"""

# One type and one function of a module. The closures and iterators are what debug information of real
# programs consists of.
ITEM = """
#[derive(Debug, Clone, Default, PartialEq)]
pub struct T{n} {{ pub a: Vec<u64>, pub b: Option<String>, pub c: std::collections::BTreeMap<u32, [u16; {n}]> }}
#[inline(never)]
pub fn f{n}(t: &mut T{n}, x: u64) -> u64 {{
    t.a.push(x);
    let text = format!("{{t:?}}").chars().rev().filter(|c| c.is_ascii_digit()).collect::<String>();
    t.b = t.b.take().map(|b| b + &text).filter(|b| b.len() < 100);
    t.c.entry(x as u32).and_modify(|v| v[0] = {n}).or_insert_with(|| [0; {n}]);
    let sum = t.a.iter().copied().zip(1..).map(|(a, b): (u64, u64)| a ^ b).fold(0, u64::wrapping_add);
    sum + t.c.values().flat_map(|v| v.iter()).map(|&v| u64::from(v)).max().unwrap_or(0)
}}
"""

MODULE_END = """
pub fn all(x: u64) -> u64 {{ {all} }}
#[inline(always)]
fn between(depth: usize, then: &dyn Fn()) {{
    crate::call(depth, then);
    std::hint::black_box(depth);
}}
#[inline(never)]
pub fn enter(depth: usize, then: &dyn Fn()) {{
    between(depth, then);
    std::hint::black_box(depth);
}}
"""


def generate(folder, modules, items, stack):
    source = os.path.join(folder, "src")
    os.makedirs(source, exist_ok=True)
    with open(os.path.join(folder, "Cargo.toml"), "w", encoding="utf-8") as file:
        file.write(MANIFEST.format(stack=os.path.join(stack, "crates/stack")))
    for module in range(modules):
        text = "".join(ITEM.format(n=n) for n in range(1, items + 1))
        calls = " + ".join(f"f{n}(&mut T{n}::default(), x)" for n in range(1, items + 1))
        with open(os.path.join(source, f"m{module}.rs"), "w", encoding="utf-8") as file:
            file.write(text + MODULE_END.format(all=calls))
    with open(os.path.join(ROOT, "lab/symbols/program.rs"), encoding="utf-8") as file:
        main = file.read()
    main += "".join(f"mod m{module};\n" for module in range(modules))
    entries = ", ".join(f"m{module}::enter" for module in range(modules))
    main += f"static ENTRIES: &[fn(usize, &dyn Fn())] = &[{entries}];\n"
    every = ", ".join(f"m{module}::all" for module in range(modules))
    main += f"static ALL: &[fn(u64) -> u64] = &[{every}];\n"
    with open(os.path.join(source, "main.rs"), "w", encoding="utf-8") as file:
        file.write(main)


def debug_megabytes(program):
    text = subprocess.run(["readelf", "-SW", program], capture_output=True, check=True, text=True).stdout
    total = 0
    for line in text.splitlines():
        fields = line.replace("[ ", "[").split()
        if len(fields) > 5 and fields[1].startswith(".debug_"):
            total += int(fields[5], 16)
    return total / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--modules", type=int, default=150)
    parser.add_argument("--items", type=int, default=25, help="types of a module")
    parser.add_argument("--stack", default=ROOT, help="a checkout of pollwatch")
    parser.add_argument("--old", action="store_true", help="a checkout from before Symbolizer::release_all")
    args = parser.parse_args()
    folder = os.path.abspath(args.folder)
    generate(folder, args.modules, args.items, os.path.abspath(args.stack))
    flags = ["--cfg", "old"] if args.old else []
    env = dict(os.environ, RUSTFLAGS=" ".join(flags + ["-Aunexpected_cfgs"]))
    build = ["cargo", "build", "--quiet", "--manifest-path", os.path.join(folder, "Cargo.toml")]
    subprocess.run(build, check=True, env=env, cwd=folder)
    program = os.path.join(folder, "target/debug/symbols")
    print(f"debug information: {debug_megabytes(program):.0f} MB", flush=True)
    subprocess.run([program], check=True)


if __name__ == "__main__":
    main()

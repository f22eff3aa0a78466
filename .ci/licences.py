"""Reads `cargo metadata` of the workspace. Fails if a dependency of any member is under none of the licences
below, if it needs a newer Rust than the members, or if a member that is published lacks what its page on crates.io
shows: the project's licence, with its text, a description, a README, keywords and categories.
"""

import json
import re
import sys
from pathlib import Path

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "Zlib",
}  # fmt: skip
PROJECT = "MIT OR Apache-2.0"


def is_allowed(expression):
    """An SPDX expression needs every part of an AND and one part of an OR; `A/B` is the old form of OR."""
    tokens = re.findall(r"[()]|[^\s()]+(?:\s+WITH\s+[^\s()]+)?", expression.replace("/", " OR "))

    def alternatives():
        value = parts()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = parts() or value
        return value

    def parts():
        value = part()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = part() and value
        return value

    def part():
        token = tokens.pop(0)
        if token != "(":
            return token in ALLOWED
        value = alternatives()
        tokens.pop(0)
        return value

    return alternatives()


packages = json.load(sys.stdin)["packages"]
# Members of the workspace have no source. `publish = false` is an empty list of registries.
members = [p for p in packages if not p["source"] and p["publish"] != []]
dependencies = [p for p in packages if p["source"]]
members_rust = {p["rust_version"] for p in members}


def version(text):
    """1.88 and 1.88.0 are the same version."""
    numbers = [int(part) for part in text.split("-")[0].split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def lacks(member):
    """Yields what the package of a member lacks."""
    if member["license"] != PROJECT:
        yield f"the licence {PROJECT}"
    yield from (key for key in ["description", "readme", "documentation", "keywords", "categories"] if not member[key])
    folder = Path(member["manifest_path"]).parent
    yield from (name for name in ["LICENSE-APACHE", "LICENSE-MIT"] if not (folder / name).is_file())


problems = [f"{p['name']} {p['version']}: {p['license']}" for p in dependencies if not is_allowed(p["license"] or "none")]
problems += [f"{p['name']} lacks {what}" for p in members for what in lacks(p)]
if len(members_rust) == 1 and None not in members_rust:
    rust = members_rust.pop()
    problems += [
        f"{p['name']} {p['version']} needs Rust {p['rust_version']}, the project has {rust}"
        for p in dependencies
        if p["rust_version"] and version(p["rust_version"]) > version(rust)
    ]
else:
    problems.append("the published packages have no or several values of rust-version")
print(f"{len(dependencies)} dependencies of {len(members)} published packages, {len(problems)} problems")
sys.exit("\n".join(problems) or 0)

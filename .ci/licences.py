"""Reads `cargo metadata` of the workspace. Fails if a dependency of any member is under none of the licences
below, or if a member that is published names another licence than the project's.
"""

import json
import re
import sys

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
refused = [p for p in dependencies if not is_allowed(p["license"] or "none")]
refused += [p for p in members if p["license"] != PROJECT]
print(f"{len(dependencies)} dependencies of {len(members)} published packages, {len(refused)} refused")
sys.exit("\n".join(f"{p['name']} {p['version']}: {p['license']}" for p in refused) if refused else 0)

"""Reads `cargo metadata` and fails if a dependency cannot be taken under one of the licences below."""

import json
import re
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT",
    "MIT-0", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "Zlib",
}  # fmt: skip


def is_allowed(expression):
    """SPDX: every part of an AND, one part of an OR; `A/B` is the old way to write OR."""
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


packages = [p for p in json.load(sys.stdin)["packages"] if p["source"]]
refused = [f"{p['name']} {p['version']}: {p['license']}" for p in packages if not is_allowed(p["license"] or "none")]
print(f"{len(packages)} dependencies, {len(refused)} refused")
sys.exit("\n".join(refused) if refused else 0)

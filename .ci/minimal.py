#!/usr/bin/env python3
"""Checks each published crate with the lowest version of each dependency that its Cargo.toml allows.

    .ci/minimal.py                     in target-minimal
    .ci/minimal.py pollwatch-shed      only this crate
    .ci/minimal.py --resolve           only whether there are such versions, which takes seconds

A failure means that a lower bound in a Cargo.toml has to be raised. Each crate is taken from its package and is
resolved alone, without the dependencies of its tests: nothing else may decide about its versions. What it depends on
takes the lowest version that is allowed, and what that depends on the newest one. cargo finds them with an unstable
option, which RUSTC_BOOTSTRAP allows to the stable one.
"""

import argparse
import re
import shutil

from package import ROOT, UNSTABLE, cargo, published, unpack

TARGET = ROOT / "target-minimal"
# The feature sets that are checked, where they are not the default one and all of them.
FEATURES = {"pollwatch": [["--no-default-features"], [], ["--all-features"]]}
# The tables of a manifest that concern tests only.
TESTS = re.compile(r"\[(\[(bench|test|example)\]|(target\..*\.)?dev-dependencies[.\]])")


def without_tests(manifest):
    tables = re.split(r"(?m)^(?=\[)", manifest)
    return "".join(table for table in tables if not TESTS.match(table))


def isolate(name, folders):
    """Makes a copy of a package into a workspace of its own, which finds the other packages by their folders."""
    alone = TARGET / name
    shutil.rmtree(alone, ignore_errors=True)
    shutil.copytree(folders[name], alone, ignore=shutil.ignore_patterns("Cargo.lock"))
    others = "".join(f'{other} = {{ path = "{folder}" }}\n' for other, folder in folders.items() if other != name)
    manifest = without_tests((alone / "Cargo.toml").read_text())
    (alone / "Cargo.toml").write_text(f"{manifest}\n[workspace]\n\n[patch.crates-io]\n{others}")
    return alone


def main():
    packages = {package["name"]: package for package in published()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolve", action="store_true", help="compile nothing")
    parser.add_argument("crates", nargs="*", metavar="CRATE", help="all of them if none is named")
    options = parser.parse_args()
    if unknown := set(options.crates) - packages.keys():
        parser.error(f"no such crate: {', '.join(unknown)}; there are {', '.join(packages)}")
    folders = unpack(packages.values(), TARGET)
    environment = {
        "CARGO_TARGET_DIR": str(TARGET / "build"),
        "CARGO_UNSTABLE_DIRECT_MINIMAL_VERSIONS": "true",
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": UNSTABLE,
    }
    for name in options.crates or packages:
        alone = isolate(name, folders)
        cargo("generate-lockfile", folder=alone, **environment)
        default = [[], ["--all-features"]] if packages[name]["features"] else [[]]
        for features in [] if options.resolve else FEATURES.get(name, default):
            cargo("check", "--locked", *features, folder=alone, **environment)
        print(f"{name}: well", flush=True)


main()

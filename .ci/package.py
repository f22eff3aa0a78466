#!/usr/bin/env python3
"""Builds every published crate from its own package, as a user or docs.rs gets it.

    .ci/package.py

Packages the members of the workspace that are published, checks the files in them, and unpacks them in
target-package. The unpacked crates depend on each other and on the versions of Cargo.lock, and on no file of this
repository. Each one is checked alone, so that it has only the features that it asks for, and documented with the
flags that its manifest gives to docs.rs.

Crates of others that were compiled for the repository are not compiled again: their artifacts are in target and
target-stable. cargo also runs this file as its rustdoc. docs.rs has a nightly compiler, as which RUSTC_BOOTSTRAP
makes the stable one pass. cargo itself must not have it: build scripts would run again because of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "target-package"
UNPACKED = TARGET / "unpacked"
UNSTABLE = "--cfg tokio_unstable"
# The folders in which the repository itself is compiled with these flags.
ARTIFACTS = {UNSTABLE: ROOT / "target", "": ROOT / "target-stable"}
AS_RUSTDOC = "POLLWATCH_AS_RUSTDOC"
# What every package has, and what some have in addition.
WANTED = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"]
WANTED_OF = {
    "pollwatch": [
        "CHANGELOG.md",
        "dashboards/alerts.yml",
        "dashboards/pollwatch.json",
        "dashboards/rules.yml",
        "docs/live.schema.json",
        "docs/metrics.md",
    ],
    "pollwatch-actix": ["examples/actix.rs"],
    "pollwatch-shed": ["examples/shed.rs"],
}
# What belongs to the repository only.
UNWANTED = re.compile(r"^(\.ci|\.cargo|benches|lab|target[^/]*|tests)/")


def cargo(*arguments, folder=ROOT, **environment):
    """Runs cargo and returns its output. What it prints on the standard error is shown only when it fails."""
    command = ["cargo", *arguments]
    print(*command, flush=True)
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{done.stdout}")
    return done.stdout


def published():
    """The members of the workspace that are published. `publish = false` is an empty list of registries."""
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--locked", "--no-deps"))
    return [package for package in metadata["packages"] if package["publish"] != []]


def unpack(packages, target):
    """Packages the crates, unpacks them into the folder `unpacked` of the target, and returns the folder of each."""
    names = [argument for package in packages for argument in ("-p", package["name"])]
    # The verification of `cargo package` compiles all dependencies of each crate again, which takes minutes.
    cargo("package", "--locked", "--no-verify", "--allow-dirty", "--target-dir", str(target), *names)
    shutil.rmtree(target / "unpacked", ignore_errors=True)
    folders = {}
    for package in packages:
        name = f"{package['name']}-{package['version']}"
        with tarfile.open(target / "package" / f"{name}.crate") as archive:
            archive.extractall(target / "unpacked", filter="data")
        # All files in a package are of 2006. cargo would take what it has compiled of another one for up to date.
        for path in (target / "unpacked" / name).rglob("*"):
            os.utime(path)
        folders[package["name"]] = target / "unpacked" / name
    return folders


def check_files(name, folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    problems = [f"{file} is not in the package" for file in WANTED + WANTED_OF.get(name, []) if file not in files]
    problems += [f"{file} does not belong in the package" for file in sorted(files) if UNWANTED.match(file)]
    if problems:
        sys.exit("\n".join(f"{name}: {problem}" for problem in problems))
    print(f"{name}: {len(files)} files")


def locked():
    """The packages of a lock file that come from a registry, each with its version."""
    entries = re.findall(r'name = "(.+)"\nversion = "(.+)"\nsource = ', (UNPACKED / "Cargo.lock").read_text())
    return set(entries)


def join(folders):
    """Makes a workspace of the unpacked crates, in which each finds the others as if from the registry."""
    members = ", ".join(f'"{folder.name}"' for folder in folders.values())
    patches = "".join(f'{name} = {{ path = "{folder.name}" }}\n' for name, folder in folders.items())
    # With other profiles, all crates would be compiled again.
    profiles = re.findall(r"(?m)^\[profile\..+\]\n(?:[^\[].*\n)+", (ROOT / "Cargo.toml").read_text())
    text = f'[workspace]\nresolver = "3"\nmembers = [{members}]\n\n[patch.crates-io]\n{patches}\n{"".join(profiles)}'
    (UNPACKED / "Cargo.toml").write_text(text)
    shutil.copy(ROOT / "Cargo.lock", UNPACKED)
    before = locked()
    # Removes the packages that only the rest of the repository uses.
    cargo("metadata", "--format-version", "1", folder=UNPACKED)
    if added := locked() - before:
        sys.exit(f"not the versions of Cargo.lock: {sorted(added)}")


def build(command, *arguments, flags, **environment):
    if flags not in ARTIFACTS:
        sys.exit(f"this script does not know in which folder the flags {flags!r} are used")
    environment |= {"CARGO_TARGET_DIR": str(ARTIFACTS[flags]), "RUSTFLAGS": flags}
    cargo(command, "--locked", *arguments, folder=UNPACKED, **environment)


def document(name, package):
    """Documents a crate as docs.rs does, by the table of its manifest."""
    docs = (package["metadata"] or {}).get("docs", {}).get("rs", {})
    if unknown := docs.keys() - {"all-features", "rustc-args", "rustdoc-args"}:
        sys.exit(f"{name}: this script does not know the keys {sorted(unknown)} of its table for docs.rs")
    build(
        *["rustdoc", "--lib", "-p", name],
        *(["--all-features"] if docs.get("all-features") else []),
        flags=" ".join(docs.get("rustc-args", [])),
        DOCS_RS="1",
        RUSTDOC=__file__,
        RUSTDOCFLAGS=" ".join([*docs.get("rustdoc-args", []), "--cfg", "docsrs", "-D", "warnings"]),
        **{AS_RUSTDOC: os.environ.get("RUSTDOC", "rustdoc")},
    )


def rustdoc(arguments):
    """Runs rustdoc as docs.rs does. The documentation of the repository in the folder of artifacts stays as it is."""
    for at, argument in enumerate(arguments):
        if argument in ["-o", "--out-dir"]:
            arguments[at + 1] = str(TARGET / "doc")
    os.environ["RUSTC_BOOTSTRAP"] = "1"
    os.execvp(os.environ[AS_RUSTDOC], [os.environ[AS_RUSTDOC], *arguments])


def main():
    packages = {package["name"]: package for package in published()}
    folders = unpack(packages.values(), TARGET)
    for name, folder in folders.items():
        check_files(name, folder)
    join(folders)
    for name, package in packages.items():
        started = time.monotonic()
        build("check", "-p", name, flags="")
        checked = time.monotonic()
        # A crate that has only a program has no page on docs.rs.
        if any({"lib", "proc-macro"} & set(target["kind"]) for target in package["targets"]):
            document(name, package)
        print(f"{name}: checked in {checked - started:.1f} s, documented in {time.monotonic() - checked:.1f} s")


if __name__ == "__main__":
    if AS_RUSTDOC in os.environ:
        rustdoc(sys.argv[1:])
    main()

#!/usr/bin/env python3
"""What each feature of pollwatch adds to an axum service: crates, CPU time of a cold release build, and the
size of the stripped program. Prints the tables of docs/overhead.md.

    lab/size/measure.py            all of it: some 6 minutes of CPU time
    lab/size/measure.py --crates   only the crates, in a second; names those that the default features add
    lab/size/measure.py server     only the row of this feature; `defaults` is that of the default features

cargo runs this file as its RUSTC_WRAPPER, too. That measures the compiler's own user and system time for each
crate, also its part of the work on other threads. Waiting is not counted, so that a busy machine changes little.
"""

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target-size"
LOG = "POLLWATCH_SIZE_LOG"
PACKAGE = ["--locked", "-p", "pollwatch-size"]
BARE = ""
DEFAULT = "defaults"
FEATURES = ["none", "capture", "server", "route", "spans", "attach", "prometheus", "tower", "serde", "delays"]
# The names that differ from those of pollwatch: a feature of this package cannot have the name of a dependency.
SHOWN = {"none": "none of them", "route": "`axum`", DEFAULT: "**default**"}


def wrap(command):
    """Runs rustc and logs the CPU time of the crate, by the hash that its files have in their names."""
    code = subprocess.run(command).returncode
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    names = [arg for arg in command if arg.startswith("extra-filename=")]
    if names:
        line = f"{names[0].removeprefix('extra-filename=')} {usage.ru_utime + usage.ru_stime}\n"
        log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line.encode())
        os.close(log)
    sys.exit(code)


def crates(feature):
    command = ["cargo", "tree", *PACKAGE, "-e", "normal", "--prefix", "none", "--format", "{p}"]
    command += ["--features", feature] if feature else []
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # A crate in two versions counts twice.
    return {" ".join(line.split()[:2]) for line in output.splitlines() if line}


class Build:
    """The CPU seconds of all crates of a cold build, and the bytes of its program."""

    def __init__(self, feature, log):
        program = "watched" if feature else "bare"
        command = ["cargo", "build", "-q", *PACKAGE, "--release", "--bin", program, "--target-dir", str(TARGET)]
        command += ["--message-format=json"]
        command += ["--features", feature] if feature else []
        environment = os.environ | {
            "RUSTC_WRAPPER": __file__,
            LOG: str(log),
            "CARGO_BUILD_JOBS": "2",
            "CARGO_PROFILE_RELEASE_STRIP": "true",
            "CARGO_PROFILE_RELEASE_DEBUG": "false",
        }
        output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        # Every crate is compiled once for all variants. What a cold build of one would take is the sum over its crates.
        seconds = dict(line.split() for line in log.read_text().splitlines())
        units = set()
        for message in map(json.loads, output.splitlines()):
            if message["reason"] == "compiler-artifact":
                files = [Path(file) for file in message["filenames"]]
                units |= {unit for unit in seconds for file in files if unit in file.stem}
                if message["target"]["name"] == program:
                    # The program itself has a name without the hash.
                    self.bytes = Path(message["executable"]).stat().st_size
                    units |= {unit for unit in seconds if (TARGET / f"release/deps/{program}{unit}").exists()}
                if message["target"]["kind"] == ["custom-build"]:
                    units |= {f"-{file.parent.name.rpartition('-')[2]}" for file in files} & seconds.keys()
        self.seconds = sum(float(seconds[unit]) for unit in units)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crates", action="store_true", help="only the crates")
    parser.add_argument("features", nargs="*", metavar="FEATURE", help="all if none is named")
    options = parser.parse_args()
    if unknown := set(options.features) - {*FEATURES, DEFAULT}:
        parser.error(f"no such feature: {', '.join(unknown)}; there are {', '.join([*FEATURES, DEFAULT])}")
    only_crates = options.crates
    bare = crates(BARE)
    print(f"{len(bare) - 1} crates without pollwatch\n")
    print("| feature | crates added |" + ("" if only_crates else " CPU seconds added | KB added |"))
    print("|---|---|" + ("" if only_crates else "---|---|"))
    if not only_crates:
        TARGET.mkdir(exist_ok=True)
        (TARGET / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
        log = TARGET / "cpu-seconds"
        bare_build = Build(BARE, log)
    for feature in options.features or [*FEATURES, DEFAULT]:
        row = [SHOWN.get(feature, f"`{feature}`"), f"{len(crates(feature) - bare)}"]
        if not only_crates:
            build = Build(feature, log)
            row += [f"{build.seconds - bare_build.seconds:.1f}", f"{(build.bytes - bare_build.bytes) / 1000:.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)
    if not only_crates:
        print(f"\nWithout pollwatch: {bare_build.seconds:.1f} s, {bare_build.bytes / 1000:.0f} KB")
    added = sorted(crates(DEFAULT) - bare)
    print(f"\nThe default adds {len(added)}: {', '.join(added)}")
    versions = collections.Counter(name.split()[0] for name in crates(DEFAULT))
    print(f"In two versions: {', '.join(name for name, count in versions.items() if count > 1) or 'none'}")


if os.environ.get(LOG):
    wrap(sys.argv[1:])
main()

"""The kinds of builds, and the ways in which a program is run, that `run builds` tries."""

import collections
import os
import shutil
import subprocess
import tempfile

import scene

TOKIO = "1.54"

# A build: the profile, settings of it, flags of rustc, and arguments of pollwatch.
Build = collections.namedtuple("Build", "profile settings flags more", defaults=["release", (), "", ()])

LINES = 'debug="line-tables-only"'

BUILDS = {
    "debug": Build("debug"),
    "release": Build(settings=["debug=false"]),
    "line-tables": Build(settings=[LINES]),
    "limited": Build(settings=['debug="limited"']),
    "packed": Build(settings=["debug=2", 'split-debuginfo="packed"']),
    # Its calls of `block_in_place` are inlined, which only the file that is left behind shows.
    "moved-without-dwp": Build(settings=["debug=2", 'split-debuginfo="packed"', 'lto="fat"', "codegen-units=1"]),
    "unpacked": Build(settings=["debug=2", 'split-debuginfo="unpacked"']),
    "strip-debuginfo": Build(settings=[LINES, 'strip="debuginfo"']),
    "stripped": Build(settings=["debug=false", "strip=true"]),
    "stripped-all-threads": Build(settings=["debug=false", "strip=true"], more=["--all-threads"]),
    "lto-abort": Build(settings=[LINES, 'lto="fat"', "codegen-units=1", 'panic="abort"']),
    "lto-abort-no-debug": Build(settings=["debug=false", 'lto="fat"', "codegen-units=1", 'panic="abort"']),
    "static-pie": Build(settings=[LINES], flags="-C target-feature=+crt-static"),
    "static": Build(settings=[LINES], flags="-C target-feature=+crt-static -C relocation-model=static"),
    "opt-z": Build(settings=[LINES, 'opt-level="z"']),
    "v0-mangling": Build(settings=[LINES], flags="-C symbol-mangling-version=v0"),
}

# The builds of which no block has to be found. False stalls are wrong there as well.
UNKNOWN = ["stripped", "stripped-all-threads", "moved-without-dwp"]

# How the program of the build `line-tables` is run.
RUNS = ["deleted", "replaced", "namespaces"]

NAMES = list(BUILDS) + RUNS


def example(result):
    """Returns how the location of a stall is printed."""
    located = [stall for stall in result.stalls if stall.get("stack")]
    if not located:
        return "no stack"
    frame = scene.innermost(located[-1])
    if not frame:
        frame = located[-1]["stack"]["frames"][0]
    if frame.get("file"):
        return f"`{frame['function']}` ({frame['file']}:{frame.get('line')})"
    name = f"`{frame['function']}` in " if frame.get("function") else ""
    return f"{name}{frame.get('module')}+{frame.get('offset') or 0:#x}"


def attach_in_namespaces(program):
    """Runs the program as the first process of a pid namespace, from a file system of its own."""
    script = 'mount -t tmpfs none /mnt && cp "$1" /mnt/versions-target && exec /mnt/versions-target'
    outer = program.start(["unshare", "-mpf", "--mount-proc", "sh", "-c", script, "sh", program.program])
    try:
        children = subprocess.run(["pgrep", "-P", str(outer.pid)], capture_output=True, text=True, check=True)
        return program.attach(int(children.stdout.split()[0]))
    finally:
        outer.stdin.close()
        outer.wait()


def attach_to_copy(program, change):
    """Runs a copy of the program, which is deleted, or replaced by another file, meanwhile. One that
    was moved has no files beside it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "versions-target")
        shutil.copy(program.program, copy)
        child = program.start([copy])
        try:
            if change in RUNS:
                os.remove(copy)
            if change == "replaced":
                # Another program, with other functions at these addresses.
                shutil.copy(program.cli, copy)
            return program.attach(child.pid)
        finally:
            child.stdin.close()
            child.wait()


def run(chosen, scene_of):
    print("| build | " + scene.HEADER + " | a location |")
    print("|---|" + "---|" * scene.HEADER.count("|") + "---|---|", flush=True)
    good = True
    for name in chosen or NAMES:
        build = BUILDS.get(name, BUILDS["line-tables"])
        program = scene_of(TOKIO, build.profile, build.settings, build.flags, "builds-static" if build.flags else "builds")
        if name == "namespaces":
            result = attach_in_namespaces(program)
        elif name in RUNS or name.startswith("moved"):
            result = attach_to_copy(program, name)
        else:
            result = program.check(program.program, *build.more)
        print(f"| {name} | {result.row()} | {example(result)} |", flush=True)
        for line in result.logs + result.errors.splitlines():
            print(f"  {name}: {line}", flush=True)
        good = good and (result.is_right() or name in UNKNOWN and not result.false)
    return good

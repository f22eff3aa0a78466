"""Builds the program with one version of tokio, runs it, and compares what is reported of it."""

import collections
import json
import os
import re
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
THRESHOLD = "20ms"
# A program blocks for 60 ms in 90. A loaded machine sees less of it.
MIN_FOUND = 10

MANIFEST = """\
[package]
name = "versions-target"
version = "0.0.0"
edition = "2021"

[workspace]

[dependencies]
tokio = {{ version = "~{tokio}", features = ["net", "rt-multi-thread", "time"] }}

[profile.release]
debug = "line-tables-only"
"""

# The functions of the program that block, their causes, and the lines of their calls.
Place = collections.namedtuple("Place", "function line is_found")

# The threads that block. The first one is any worker of its runtime.
BLOCKED_THREADS = ["blocked", "root", "local"]

HEADER = "blocks observed, of which with the right line | without a location | suspected of them | observed, but false"


def places():
    """Reads the marks in the source of the program."""
    found, function = [], None
    with open(os.path.join(HERE, "program.rs"), encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            start = re.match(r"fn (\w+)", line)
            function = start[1] if start else function
            mark = re.search(r"// (found|silent)$", line.rstrip())
            if mark:
                found.append(Place(function, number, mark[1] == "found"))
    return found


class Result:
    """The stalls that were reported of one run of the program."""

    def __init__(self, output, errors, code):
        self.errors, self.code = errors, code
        events = [json.loads(line) for line in output.splitlines()]
        # The latest report of each.
        self.stalls = list({e["id"]: e for e in events if e["event"] == "stall"}.values())
        self.logs = [e["message"] for e in events if e["event"] == "log"]
        self.summary = next((e for e in events if e["event"] == "summary"), None)
        self.observed, self.lines = collections.Counter(), collections.Counter()
        self.suspected, self.false, self.suspected_false = collections.Counter(), [], []
        self.unlocated = 0
        known = {place.function: place for place in places() if place.is_found}
        for stall in self.stalls:
            frame = innermost(stall)
            function = (frame.get("function") or "").rsplit("::", 1)[-1]
            is_observed = stall["certainty"] == "observed"
            if not function and stall["thread"] in BLOCKED_THREADS:
                self.unlocated += 1
            elif function not in known:
                (self.false if is_observed else self.suspected_false).append(stall)
            elif is_observed:
                self.observed[function] += 1
                self.lines[function] += frame.get("line") == known[function].line
            else:
                self.suspected[function] += 1
        self.missed = [name for name in known if self.observed[name] < MIN_FOUND]

    def is_right(self):
        return not self.missed and not self.false

    def row(self):
        names = [place.function for place in places() if place.is_found]
        seen = ", ".join(f"{self.observed[name]}/{self.lines[name]}" for name in names)
        return f"{seen} | {self.unlocated} | {sum(self.suspected.values())} + {len(self.suspected_false)} false | {len(self.false)}"


def innermost(stall):
    """Returns the innermost frame of the program, or an empty one."""
    stack = stall.get("stack") or {}
    frames = [stack["frames"][index] for index in stack.get("user_frames") or []]
    return (frames or [{}])[0]


class Scene:
    """The program, as it is built in one way."""

    def __init__(self, folder, cli, seconds, tokio, profile, settings, flags, cache):
        self.cli, self.seconds = cli, seconds
        self.folder = os.path.join(folder, f"{cache}-{tokio}")
        os.makedirs(os.path.join(self.folder, "src"), exist_ok=True)
        shutil.copy(os.path.join(HERE, "program.rs"), os.path.join(self.folder, "src", "main.rs"))
        with open(os.path.join(self.folder, "Cargo.toml"), "w", encoding="utf-8") as manifest:
            manifest.write(MANIFEST.format(tokio=tokio))
        target = os.path.join(folder, "target", cache)
        environment = dict(os.environ, CARGO_TARGET_DIR=target, RUSTFLAGS=flags)
        command = ["cargo", "build", "--quiet"] + (["--release"] if profile == "release" else [])
        for setting in settings:
            command += ["--config", f"profile.{'dev' if profile == 'debug' else profile}.{setting}"]
        subprocess.run(command, cwd=self.folder, env=environment, check=True)
        with open(os.path.join(self.folder, "Cargo.lock"), encoding="utf-8") as lock:
            self.tokio = re.search(r'name = "tokio"\nversion = "([^"]+)"', lock.read())[1]
        self.program = os.path.join(target, profile, "versions-target")

    def start(self, command):
        """Starts the program, and returns it when it runs. It ends with its standard input."""
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if child.stdout.readline() != "ready\n":
            raise SystemExit(f"{command} did not start")
        return child

    def attach(self, pid, *more):
        command = [self.cli, "attach", "--json", "--threshold", THRESHOLD, "--duration", f"{self.seconds}s"]
        done = subprocess.run(command + [*more, str(pid)], capture_output=True, text=True)
        return Result(done.stdout, done.stderr, done.returncode)

    def check(self, program, *more):
        """Runs the program and attaches to it."""
        child = self.start([program])
        try:
            return self.attach(child.pid, *more)
        finally:
            child.stdin.close()
            child.wait()

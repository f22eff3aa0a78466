"""Fetches the source of a program, adds pollwatch to it, and builds it."""

import glob
import json
import os
import re
import shutil
import subprocess

from description import all_edits

# All programs are built alike, whatever their own profiles say, so that they share what they
# depend on.
PROFILE = {
    "DEBUG": "limited",
    "STRIP": "none",
    "LTO": "off",
    "CODEGEN_UNITS": "16",
    "PANIC": "unwind",
    "OPT_LEVEL": "3",
}


RESOLVER = re.compile(r'resolver = "[0-9]"$')


def append(path, lines):
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(lines) + "\n")


def fetch(name, version):
    """Makes cargo download a package, and returns the folder that cargo unpacked it into."""
    home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    pattern = os.path.join(home, "registry", "src", "*", f"{name}-{version}")
    if not glob.glob(pattern):
        subprocess.run(["cargo", "info", "--quiet", f"{name}@{version}"], check=True, stdout=subprocess.DEVNULL)
    found = glob.glob(pattern)
    if not found:
        raise SystemExit(f"cargo has not unpacked {name} {version}: name its source by SOURCE=DIR")
    return found[0]


class Tree:
    """The changed source of one program."""

    def __init__(self, program, root, folder):
        self.program = program
        self.root = root
        self.source = os.path.join(folder, "source", os.path.basename(program.folder))
        self.target = os.path.join(folder, "build")
        self.results = os.path.join(folder, "results", os.path.basename(program.folder))

    def prepare(self, source):
        """Copies the source, from the registry unless a folder is given, and changes it. A copy
        that has these changes already is kept, so that it is not compiled again."""
        wanted = str(source)
        for path in [os.path.join(self.program.folder, "program.toml"), __file__]:
            with open(path, encoding="utf-8") as file:
                wanted += "\n" + file.read()
        stamp = os.path.join(self.source, "lab-stamp")
        if os.path.exists(stamp):
            with open(stamp, encoding="utf-8") as file:
                if file.read() == wanted:
                    return
        if os.path.exists(self.source):
            shutil.rmtree(self.source)
        ignored = shutil.ignore_patterns("target", ".git")
        shutil.copytree(source or fetch(self.program.crate, self.program.version), self.source, ignore=ignored)
        for name, version in self.program.patched.items():
            shutil.copytree(fetch(name, version), os.path.join(self.source, name), ignore=ignored)
        for edit in all_edits(self.program):
            self.apply(edit)
        self.add_dependency()
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(wanted)

    def apply(self, edit):
        path = os.path.join(self.source, edit.file)
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
        places = [number for number, line in enumerate(lines) if line.strip() == edit.anchor().strip()]
        if len(places) < (edit.nth or 1) or (len(places) > 1 and edit.nth is None):
            raise SystemExit(f"{edit.file} has {len(places)} lines `{edit.anchor()}`")
        place = places[(edit.nth or 1) - 1]
        start, end = (place + 1, place + 1) if edit.after else (place, place if edit.before else place + 1)
        lines[start:end] = edit.insert
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))

    def add_dependency(self):
        """Adds pollwatch to `Cargo.toml`, and prefers the versions of pollwatch's own lock file."""
        pollwatch = [f'path = "{self.root}"']
        if self.program.features is not None:
            pollwatch += ["default-features = false", f"features = {json.dumps(self.program.features)}"]
        block = [f'path = "{self.root}/lab/programs/block"']
        added = ["[dependencies.pollwatch]", *pollwatch, "[dependencies.lab-block]", *block]
        if self.program.actix:
            added += ["[dependencies.pollwatch-actix]", f'path = "{self.root}/crates/actix"']
        added += ["[workspace]", 'resolver = "1"']
        for name in self.program.patched:
            append(os.path.join(self.source, name, "Cargo.toml"), ["[dependencies.lab-block]", *block])
            added += [f"[patch.crates-io.{name}]", f'path = "{name}"']
        manifest = os.path.join(self.source, "Cargo.toml")
        with open(manifest, encoding="utf-8") as file:
            text = file.read()
        with open(manifest, "w", encoding="utf-8") as file:
            # The workspace says the same.
            file.write("\n".join(line for line in text.split("\n") if not RESOLVER.match(line)))
        append(manifest, added)
        shutil.copy(os.path.join(self.root, "Cargo.lock"), os.path.join(self.source, "Cargo.lock"))

    def build(self):
        env = dict(os.environ, CARGO_TARGET_DIR=self.target, RUSTFLAGS="--cfg tokio_unstable")
        env.update({f"CARGO_PROFILE_RELEASE_{key}": value for key, value in PROFILE.items()})
        subprocess.run(["cargo", "build", "--release", *self.program.build], cwd=self.source, env=env, check=True)
        # Examples of two packages may have one name.
        os.makedirs(self.results, exist_ok=True)
        shutil.copy(os.path.join(self.target, "release", self.program.binary), self.binary())

    def binary(self):
        return os.path.join(self.results, os.path.basename(self.program.binary))

    def marked_line(self, mark):
        """Returns the file and the line that end with the comment of a mark."""
        for edit in all_edits(self.program):
            path = os.path.join(self.source, edit.file)
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.rstrip().endswith(f"// lab: {mark}"):
                        return edit.file, number
        raise SystemExit(f"no line is marked `// lab: {mark}`")

"""Reads a `program.toml`."""

import os
import tomllib
from dataclasses import dataclass, field


@dataclass
class Edit:
    """A change of one file: lines that are inserted beside a line, or that replace it."""

    file: str
    insert: list
    # One of the three is the whole line, without the blanks around it.
    after: str = None
    before: str = None
    replace: str = None
    # Which of such lines it is, from 1 on, if there are several.
    nth: int = None

    def anchor(self):
        return self.after or self.before or self.replace


@dataclass
class Expected:
    """What is reported of one block: each field that is not None has to be equal."""

    cause: str
    reason: str
    certainty: str = "measured"
    # The frame of the program that is named: the line that ends with the comment `// lab: MARK`
    # of an edit, or the end of a function's name.
    mark: str = None
    function: str = None
    # The mark of the line of the program that called this frame.
    caller: str = None
    route: str = None
    runtime: str = None
    holder: str = None


@dataclass
class Block:
    """A way to block the program."""

    name: str
    # What one block is reported as.
    expect: list
    # What may be reported besides, as often as it happens.
    also: list = field(default_factory=list)
    # Arguments of the program, after its own, and how many connections load it beside the blocks.
    args: list = field(default_factory=list)
    connections: int = None
    # False where a block is several stalls, or none: then at least one has to be reported.
    exact: bool = True
    # The lines that block.
    edits: list = field(default_factory=list)


@dataclass
class Program:
    folder: str
    crate: str
    version: str
    build: list
    binary: str
    run: list
    client: str
    edits: list
    blocks: list
    # What may be reported besides where the machine has too few CPUs, so that other stalls are
    # starved: a thread lost its CPU while it held a lock, and others wait for it.
    busy: list = field(default_factory=list)
    # The features of pollwatch; None for those that are on by default.
    features: list = None
    # Packages that it depends on, with their versions, which are changed as well. Each is copied
    # into a folder of its name below the program's source.
    patched: dict = field(default_factory=dict)
    # Whether it needs pollwatch-actix as well.
    actix: bool = False
    env: dict = field(default_factory=dict)
    connections: int = 8
    # The folder in which it runs.
    cwd: str = "{folder}"
    # A second program that the first one needs. It runs without pollwatch.
    companion: list = None


def read(folder):
    with open(os.path.join(folder, "program.toml"), "rb") as file:
        data = tomllib.load(file)
    data["edits"] = [Edit(**edit) for edit in data.get("edits", [])]
    data["blocks"] = [block_of(block) for block in data.get("blocks", [])]
    data["busy"] = [Expected(**expected) for expected in data.get("busy", [])]
    return Program(folder=folder, **data)


def all_edits(program):
    return program.edits + [edit for block in program.blocks for edit in block.edits]


def block_of(data):
    for key in ["expect", "also"]:
        data[key] = [Expected(**expected) for expected in data.get(key, [])]
    data["edits"] = [Edit(**edit) for edit in data.get("edits", [])]
    return Block(**data)

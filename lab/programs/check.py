"""Compares what was reported with what a `program.toml` expects."""

import collections
from dataclasses import dataclass, field

# Causes that blame no task: the thread got no CPU. They say something about the machine.
EXCUSED = ("starved", "paused")
# The counters of stalls that are not in `stalls_total`.
COUNTERS = ["pollwatch_suspected_stalls_total", "pollwatch_root_stalls_total"]


@dataclass
class Verdict:
    """What a run has shown, and what was wrong with it."""

    seconds: float = 0
    requests: int = 0
    polls: float = 0
    blocks: int = 0
    found: int = 0
    without_stack: int = 0
    # Stalls that blame no task, and stalls that ended before they were examined on a machine that
    # has such stalls.
    excused: int = 0
    unexamined: int = 0
    resident_kib: int = 0
    wrong: list = field(default_factory=list)
    kinds: collections.Counter = field(default_factory=collections.Counter)

    def is_right(self):
        return not self.wrong

    def is_complete(self, block):
        """Returns whether each block was reported. One that had no CPU meanwhile may be starved."""
        if not block.exact:
            return self.found > 0
        return self.found <= self.blocks <= self.found + self.unexamined + self.excused

    def text(self, program, run):
        words = "right" if self.is_right() else "WRONG"
        lines = [
            f"{program} {run}: {words}; {self.seconds:.0f} s, {self.requests} requests, {self.polls:.0f} polls, "
            f"{self.resident_kib // 1024} MiB; {self.blocks} blocks, {self.found} reported"
            f" ({self.without_stack} without a stack); {self.excused} starved or paused, {self.unexamined} not examined"
        ]
        lines += [f"    {count} x {kind}" for kind, count in self.kinds.most_common()]
        lines += [f"    WRONG: {reason}" for reason in self.wrong]
        return "\n".join(lines)


def own_frames(stall):
    """Returns the frames of the program itself, innermost first."""
    frames = (stall["stack"] or {}).get("frames", [])
    return [frame for frame in frames if not frame["library"] and not frame["dependency"]]


def location(frame):
    return f"{frame['function']} ({frame['file']}:{frame['line']})"


def describe(stall):
    frames = own_frames(stall)
    place = location(frames[0]) if frames else "no stack" if not stall["stack"] else "no frame of the program"
    holder = holder_of(stall)
    parts = [f"{stall['certainty']} {stall['cause']}: {stall['reason'] or '-'}", f"at {place}"]
    parts += [f"route {stall['route']}"] if stall["route"] else []
    parts += [f"held {holder}"] if holder else []
    return ", ".join(parts)


def holder_of(stall):
    """Returns where the thread is that holds the lock, as text; None if nothing is said of it."""
    holder = (stall["lock"] or {}).get("holder")
    if not isinstance(holder, dict):
        return None if holder == "unknown" else holder
    stack = holder["thread"].get("stack") or {}
    frames = [f for f in stack.get("frames", []) if not f["library"] and not f["dependency"]]
    return location(frames[0]) if frames else "by " + holder["thread"]["name"]


def matches(stall, expected, tree, needs_stack):
    """Returns whether a stall is the one that is expected."""
    for key in ["certainty", "cause", "route", "runtime"]:
        wanted = getattr(expected, key)
        if wanted is not None and stall[key] != wanted:
            return False
    if not stall["stack"] and not needs_stack:
        return True
    if stall["reason"] != expected.reason:
        return False
    # Who holds a lock is not always found, but never somebody else.
    if expected.holder is not None and expected.holder not in (holder_of(stall) or expected.holder):
        return False
    frames = own_frames(stall)
    at = [(frame["function"] or "", frame["file"] or "", frame["line"]) for frame in frames[:2]]
    if expected.function is not None and not (at and at[0][0].endswith(expected.function)):
        return False
    for index, mark in enumerate([expected.mark, expected.caller]):
        if mark is not None:
            file, line = tree.marked_line(mark)
            if len(at) <= index or not at[index][1].endswith(file) or at[index][2] != line:
                return False
    return True


def judge(program, tree, block, result):
    """Returns the verdict about one run."""
    verdict = Verdict(result.seconds, result.requests, result.metric("pollwatch_polls_total"), result.blocks)
    verdict.resident_kib = result.resident_kib
    expected, also = (block.expect, block.also) if block else ([], [])
    verdict.excused = sum(stall["cause"] in EXCUSED for stall in result.stalls)
    if verdict.excused:
        also = also + program.busy
    for stall in result.stalls:
        verdict.kinds[describe(stall)] += 1
        # A stall that ended before it was examined has no reason and no stack.
        is_examined = stall["cause"] != "unknown" or stall["stack"] is not None
        needs_stack = block is not None and stall["id"] not in result.first_ids
        if stall["cause"] in EXCUSED:
            continue
        if verdict.excused and not is_examined:
            verdict.unexamined += 1
        elif any(matches(stall, one, tree, needs_stack) for one in expected):
            verdict.found += 1
            verdict.without_stack += stall["stack"] is None
        elif not any(matches(stall, one, tree, needs_stack) for one in also):
            verdict.wrong.append(f"reported, and not expected: stall {stall['id']}, {describe(stall)}")
    if block and not verdict.is_complete(block):
        verdict.wrong.append(f"{result.blocks} blocks, and {verdict.found} of them reported")
    if verdict.without_stack * 10 > result.blocks + 10:
        verdict.wrong.append(f"{verdict.without_stack} stalls have no stack")
    counted = sum(result.metric(name) for name in ["pollwatch_stalls_total", *COUNTERS])
    if counted != len(result.stalls) and len(result.stalls) < 256:
        verdict.wrong.append(f"{counted:.0f} stalls are counted, and {len(result.stalls)} are listed")
    if verdict.polls == 0:
        verdict.wrong.append("no poll was measured")
    return verdict

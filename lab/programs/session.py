"""Runs a program under load, and collects what pollwatch reports of it."""

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass

import clients

# The time in which the first blocks of a run wait for pollwatch to load the program's symbols.
SYMBOLS_SECONDS = 120
# The time in which the stacks of the last stalls have to come.
SETTLE_SECONDS = 60
# The pause of a connection between two requests.
PAUSE_SECONDS = 0.001


@dataclass
class Result:
    """What a run has brought."""

    seconds: float
    requests: int
    blocks: int
    first_ids: set
    stalls: list
    metrics: str
    log: str
    resident_kib: int

    def metric(self, name):
        """Returns the sum of a metric over its labels."""
        lines = [line for line in self.metrics.splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class Load(threading.Thread):
    """A connection that sends one request after the other."""

    def __init__(self, client, place):
        super().__init__(daemon=True)
        self.client, self.place = client, place
        self.requests, self.stopped, self.error = 0, False, None

    def run(self):
        try:
            client = self.client(self.place)
            while not self.stopped:
                client.request()
                self.requests += 1
                time.sleep(PAUSE_SECONDS)
        except Exception as error:
            self.error = error


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
        return response.read().decode()


class Companion:
    """The second program, which is started again until the first one listens."""

    def __init__(self, command, folder):
        self.command, self.folder, self.process = command, folder, None

    def keep_running(self):
        if self.command and (self.process is None or self.process.poll() is not None):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            env = dict(os.environ, POLLWATCH="off")
            self.process = subprocess.Popen(self.command, cwd=self.folder, env=env, **quiet)

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def wait_until_ready(process, companion, client, place, log):
    """Waits until the program answers its first request."""
    end = time.monotonic() + 60
    while True:
        companion.keep_running()
        try:
            client(place).request()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the program does not answer: {error}\n{open(log).read()[-2000:]}")
            time.sleep(0.2)


def run(program, tree, block, options):
    """Starts the program, loads it, with a block or without, and ends it."""
    os.makedirs(tree.results, exist_ok=True)
    stem = os.path.join(tree.results, block.name if block else "healthy")
    with tempfile.TemporaryDirectory(prefix="pollwatch-lab-") as folder:
        place = clients.Place(port=free_port(), folder=folder, block=block.name if block else None)
        client, pages = clients.find(program.client), free_port()
        client.set_up(place, program)
        env = dict(os.environ, POLLWATCH_LISTEN=f"127.0.0.1:{pages}")
        env.update(place.environment())
        words = dict(vars(place), binary=tree.binary(), here=program.folder)
        env.update({name: value.format(**words) for name, value in program.env.items()})
        command = [word.format(**words) for word in program.run + (block.args if block else [])]
        companion = Companion([word.format(**words) for word in program.companion or []], folder)
        with open(stem + ".log", "w") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=program.cwd.format(**words))
        try:
            wait_until_ready(process, companion, client, place, stem + ".log")
            result = load(program, client, place, block, pages, options)
            result.resident_kib = resident_kib(process.pid)
        finally:
            companion.end()
            process.kill()
            process.wait()
            place.close()
    with open(stem + ".log", errors="replace") as log:
        result.log = log.read()
    with open(stem + ".json", "w") as file:
        json.dump(result.stalls, file, indent=1)
    with open(stem + ".metrics", "w") as file:
        file.write(result.metrics)
    return result


def load(program, client, place, block, pages, options):
    connections = program.connections
    if block and block.connections is not None:
        connections = block.connections
    loads = [Load(client, place) for _ in range(connections)]
    start = time.monotonic()
    for one in loads:
        one.start()
    blocks, first_ids = 0, set()
    if block is None:
        time.sleep(options.seconds)
    else:
        blocking = client(place)
        blocks, first_ids = load_symbols(blocking, pages)
        for _ in range(options.blocks):
            blocking.block()
            time.sleep(0.1)
        blocks += options.blocks
    for one in loads:
        one.stopped = True
    for one in loads:
        one.join(30)
    seconds = time.monotonic() - start
    errors = [str(one.error) for one in loads if one.error]
    if errors:
        raise SystemExit(f"a client failed: {errors[0]}")
    stalls = settled(pages)
    requests = sum(one.requests for one in loads)
    return Result(seconds, requests, blocks, first_ids, stalls, get(pages, "/metrics"), "", 0)


def load_symbols(blocking, pages):
    """Blocks until a stall has a stack, which the first stalls of a process have not. Returns the
    number of blocks, and the stalls so far."""
    end, blocks = time.monotonic() + SYMBOLS_SECONDS, 0
    while True:
        blocking.block()
        blocks += 1
        time.sleep(1)
        stalls = json.loads(get(pages, "/stalls?limit=256"))
        if any(stall["stack"] for stall in stalls) or time.monotonic() > end:
            return blocks, {stall["id"] for stall in stalls}


def settled(pages):
    """Returns the stalls once all have the stacks that they are going to have. The thread that
    resolves symbols may lack a CPU."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        time.sleep(1)
        stalls = json.loads(get(pages, "/stalls?limit=256"))
        waiting = [s for s in stalls if s["segments"] and s["cause"] in ("cpu", "syscall", "lock") and not s["stack"]]
        if not waiting or time.monotonic() > end:
            return stalls


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

#!/usr/bin/env python3
"""Times the dashboard's row on the fleet for many instances: lab/fleet/history.py [--instances 200,1000,10000].

Writes one hour of the series that this row reads, a sample each 30 s, as large fleets are scraped: recorded series of each instance and
each job, and the gauge of blocked workers. Values are made up; the number of series and samples is that of a real fleet. promtool makes
blocks of them for Prometheus, VictoriaMetrics imports them. Then the row is timed as in measure.py. Needs the same packages.
"""

import argparse
import math
import pathlib
import subprocess
import tempfile
import time
import urllib.request

import expressions
from engines import PATIENCE, Engine, VictoriaMetrics, free_port
from measure import milliseconds, time_row

HOUR, STEP = 3600, 30
JOBS, SITES, ROUTES = ["shop", "billing"], 60, 50
CAUSES = ["cpu", "syscall", "lock", "starved", "paused", "unknown"]


class StoredPrometheus(Engine):
    """A Prometheus that scrapes nothing, and answers from what is stored."""

    def __init__(self, directory):
        port = free_port()
        (directory / "prometheus.yml").write_text("{}\n")
        super().__init__(directory, "prometheus-server", [
            "prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ], "/-/ready", port)


def families(instances):
    """The name of each metric, and the labels of its series."""
    each = [f'instance="{JOBS[n % 2]}-{n}:9464",job="{JOBS[n % 2]}",runtime="main"' for n in range(instances)]
    jobs = [f'job="{job}",runtime="main"' for job in JOBS]
    return {
        "pollwatch_blocked_workers": each,
        "instance_runtime:pollwatch_stalled:ratio_rate5m": each,
        "job_runtime:pollwatch_stalled:ratio_rate5m": jobs,
        "job_runtime:pollwatch_poll_duration_seconds:p99_rate5m": jobs,
        "job_runtime:pollwatch_schedule_delay_seconds:p99_rate5m": jobs,
        "job_runtime_cause:pollwatch_stall_seconds:rate5m": [f'cause="{cause}",{job}' for job in jobs for cause in CAUSES],
        "job_runtime_site:pollwatch_site_stall_seconds:rate5m": [f'{job},site="src/a.rs:{n}:9"' for job in jobs for n in range(SITES)],
        "job_route:pollwatch_route_stall_seconds:rate5m": [f'job="{job}",route="/a/{n}"' for job in JOBS for n in range(ROUTES)],
    }


def write(file, instances, end):
    """Writes OpenMetrics, with times in seconds, and returns the number of series."""
    series = 0
    with open(file, "w") as out:
        for name, labels in families(instances).items():
            out.write(f"# TYPE {name} gauge\n")
            for n, label in enumerate(labels):
                series += 1
                for at in range(end - HOUR, end + 1, STEP):
                    out.write(f"{name}{{{label}}} {abs(math.sin(n + at / 600)):.4f} {at}\n")
        out.write("# EOF\n")
    return series


def store(victoria, file):
    """Sends the same samples to VictoriaMetrics, which reads times in milliseconds."""
    lines = []

    def send():
        request = urllib.request.Request(f"{victoria.address}/api/v1/import/prometheus", "".join(lines).encode(), method="POST")
        urllib.request.urlopen(request, timeout=PATIENCE).close()
        lines.clear()

    with open(file) as samples:
        for line in samples:
            if not line.startswith("#"):
                lines.append(line.rstrip("\n") + "000\n")
                if len(lines) == 200_000:
                    send()
    send()


def run(instances, directory):
    end = int(time.time()) // STEP * STEP - 60
    samples = directory / "samples.txt"
    series = write(samples, instances, end)
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(samples), str(directory / "prometheus")]
    subprocess.run(blocks, check=True, stdout=subprocess.DEVNULL)
    servers = [StoredPrometheus(directory)]
    try:
        servers.append(VictoriaMetrics(directory))
        store(servers[1], samples)
        row = [e for e in expressions.dashboard(STEP, "1h") if e.source == "row Fleet"]
        for engine in servers:
            # Recently received samples are not found before they are flushed.
            deadline = time.time() + PATIENCE
            while engine.value("count(pollwatch_blocked_workers)", end) != instances and time.time() < deadline:
                time.sleep(1)
            print(f"{instances} instances, {series} series, one hour, {engine.name}: {milliseconds(time_row(engine, row, end))}", flush=True)
    finally:
        for server in servers:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", default="200,1000,10000")
    for instances in parser.parse_args().instances.split(","):
        with tempfile.TemporaryDirectory(prefix="pollwatch-history-") as directory:
            run(int(instances), pathlib.Path(directory))


if __name__ == "__main__":
    main()

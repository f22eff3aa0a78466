#!/usr/bin/env python3
"""Runs every expression of dashboards/ in Prometheus and in VictoriaMetrics, on fleets of emulated instances, and measures what they cost.

    lab/fleet/run                                       50, 100 and 200 instances, 8 minutes each
    lab/fleet/run --instances 20                        one small fleet
    lab/fleet/run --keep DIR                            keeps the engines' data and logs

The exit code is 1 if an engine rejects an expression, if results differ, or if a result is empty that must not be.
Needs python3, and Debian's packages prometheus and victoria-metrics.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

import expressions
from engines import REPOSITORY, RULES, Prometheus, Server, VictoriaMetrics, cpu_seconds, fetch, free_port, memory

# How often each query and each page is timed.
REPEATS = 9
# The time range of the dashboard, and its step.
RANGE, STEP = 3600, 15
# Samples arrive in VictoriaMetrics a little later.
LATENCY = 45


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/fleet", help="the fleet's program")
    parser.add_argument("--instances", default="50,100,200", help="the sizes of the fleets, one after the other")
    parser.add_argument("--minutes", type=float, default=8, help="how long each is scraped; in 8, the windows of 5 minutes start after the counters")
    parser.add_argument("--interval", type=int, default=15, help="the scrape interval in seconds")
    parser.add_argument("--keep", help="a folder for the engines' data and logs")
    return parser.parse_args()


def milliseconds(times):
    return f"{statistics.median(times) * 1e3:.0f} ms, at most {max(times) * 1e3:.0f} ms"


def timed(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def moment(prometheus):
    """The latest moment at which all workers of an instance have been blocked for a while. They are free for some seconds at a time."""
    latest = int(time.time()) - LATENCY
    for at in range(latest, latest - 60, -5):
        if prometheus.instant("pollwatch_oldest_stall_seconds > 10", at) and prometheus.instant("pollwatch_blocked_workers > 1", at):
            return at
    return latest


def check_rules_by_vmalert():
    """Has vmalert parse the rules and the templates of the alerts."""
    if shutil.which("vmalert") is None:
        return ["vmalert is not installed"]
    command = ["vmalert", "-dryRun"] + [f"-rule={REPOSITORY / file}" for file in RULES]
    done = subprocess.run(command, capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stderr[-2000:]]


def compare(engines, rules, interval, at):
    """Runs every expression in both engines at one moment, prints the differences, and returns what is wrong."""
    wanted = expressions.dashboard(interval, "5m") + expressions.of_rules(rules)
    problems, sources = [], {}
    for expression in wanted:
        comparison = expressions.Comparison(expression, engines, at, interval)
        sources.setdefault(expression.source, []).append(comparison)
        problems += [f"{expression.source}, {expression.title}: {p}\n    {expression.text}" for p in comparison.problems]
    for selector, label in expressions.variables(interval, "5m"):
        values = [set(engine.api(f"label/{label}/values", {"match[]": selector, "start": at - 300, "end": at})) for engine in engines]
        if values[0] != values[1] or not values[0]:
            problems.append(f"variable {label}: {len(values[0])} values and {len(values[1])}")
    empty = sorted({c.expression.title for found in sources.values() for c in found if c.series == 0})
    print(f"empty, as allowed: {', '.join(empty)}")
    print(f"{'expressions of':<32} {'number':>6} {'empty':>6} {'series':>6}  differences: {'as written':>17}  over the same samples")
    for source, found in sources.items():
        shown = ""
        for differences in [[d for c in found for d in c.written], [d for c in found for d in c.differences]]:
            shown += f" {expressions.typical(differences):>15.3%} {max(differences, default=0):>7.1%}"
        print(f"{source:<32} {len(found):>6} {sum(c.series == 0 for c in found):>6} {sum(c.series for c in found):>6} {shown}")
    return problems


def time_row(engine, row, at):
    """Times all queries of a row, one after the other, several times."""
    def queries():
        for expression in row:
            if expression.is_range:
                engine.over_time(expression.text, at - RANGE, at, STEP)
            else:
                engine.instant(expression.text, at)
    return [timed(queries) for _ in range(REPEATS)]


def query_times(engines, interval, at):
    """Times each row of the dashboard: its queries one after the other."""
    rows = {}
    for expression in expressions.dashboard(interval, "1h"):
        rows.setdefault(expression.source, []).append(expression)
    for name in ["row Fleet", "row Overview"]:
        for engine in engines:
            print(f"{name}, {len(rows[name])} queries, {engine.name}: {milliseconds(time_row(engine, rows[name], at))}")


def print_storage(engine, sizes, seconds, cpu):
    samples = max(sizes["samples"], 1)
    print(f"{engine.name}: {samples / 1e6:.2f} M samples, {sizes['chunks'] / samples:.2f} bytes per sample, index {sizes['index'] / 1e6:.1f} MB, "
          f"{memory(engine.process) / 1e6:.0f} MB of memory, {cpu / seconds:.2f} CPUs")


def pages(fleet):
    """Times the pages of the real services, and prints their sizes."""
    print(f"{'service':<18} {'series':>6} {'KB':>6} {'KB in gzip':>10}  time of /metrics")
    for line in fetch(f"{fleet.address}/services").decode().splitlines():
        kind, address = line.split()
        url = f"http://{address}/metrics"
        body = fetch(url)
        sent = fetch(url, headers={"Accept-Encoding": "gzip"})
        is_compressed = sent[:2] == b"\x1f\x8b"
        series = sum(not line.startswith(b"#") for line in body.splitlines())
        times = [timed(lambda: fetch(url)) for _ in range(5 * REPEATS)]
        packed = len(sent) if is_compressed else len(gzip.compress(body))
        note = "" if is_compressed else " (not offered)"
        print(f"{kind:<18} {series:>6} {len(body) / 1e3:>6.1f} {packed / 1e3:>10.1f}  {milliseconds(times)}{note}")


def profile(fleet, directory):
    """Fetches the pprof profile of the service whose routes block."""
    for line in fetch(f"{fleet.address}/services").decode().splitlines():
        kind, address = line.split()
        if kind == "Stalling":
            body = fetch(f"http://{address}/debug/pprof/stalls")
            (directory / "stalls.pb.gz").write_bytes(body)
            print(f"profile of stalls: {len(body)} bytes in gzip, {len(gzip.decompress(body))} unpacked")


def run(program, instances, options, directory):
    """Scrapes one fleet, and returns what is wrong."""
    port = free_port()
    command = [str(pathlib.Path(program).resolve()), "--instances", str(instances), "--listen", f"127.0.0.1:{port}"]
    servers = [Server(directory, "fleet", command, "/targets", port)]
    try:
        victoria = VictoriaMetrics(directory)
        servers.append(victoria)
        prometheus = Prometheus(directory, servers[0], options.interval, f"{victoria.address}/api/v1/write")
        servers.append(prometheus)
        engines, started = [prometheus, victoria], time.time()
        before = [cpu_seconds(engine.process) for engine in engines]
        time.sleep(options.minutes * 60)
        at, seconds = moment(prometheus), time.time() - started
        used = [cpu_seconds(engine.process) - earlier for engine, earlier in zip(engines, before)]
        scraped = lambda query: prometheus.value(query, at)
        print(f"\n== {instances} instances, each {options.interval} s, for {seconds / 60:.1f} minutes\n")
        print(f"{scraped('count(up)'):.0f} targets, {scraped('sum(up)'):.0f} answer; {scraped('sum(scrape_samples_scraped)'):.0f} series, "
              f"{scraped('avg(scrape_samples_scraped)'):.0f} each; {scraped('avg(scrape_body_size_bytes)') / 1e3:.0f} KB for each scrape")
        rules = prometheus.rules()
        recorded = "|".join(sorted({rule["name"] for rule in rules if rule["type"] == "recording"}))
        count = f'count({{__name__=~"{recorded}"}})'
        print(f"{scraped(count):.0f} recorded series; evaluation of all rules "
              f"{sum(rule['evaluationTime'] for rule in rules):.2f} s")
        problems = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
        problems += compare(engines, rules, options.interval, at)
        print()
        query_times(engines, options.interval, at)
        print()
        for engine, cpu in zip(engines, used):
            print_storage(engine, engine.storage(), seconds, cpu)
        print()
        pages(servers[0])
        profile(servers[0], directory)
        return problems
    finally:
        for server in reversed(servers):
            server.stop()


def main():
    options = arguments()
    # So that a run that is ended stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: exit("ended"))
    problems = check_rules_by_vmalert()
    for instances in options.instances.split(","):
        if options.keep:
            directory = pathlib.Path(options.keep).resolve() / instances
            directory.mkdir(parents=True)
            found = run(options.program, int(instances), options, directory)
        else:
            with tempfile.TemporaryDirectory(prefix="pollwatch-fleet-") as temporary:
                found = run(options.program, int(instances), options, pathlib.Path(temporary))
        print("\n" + "\n".join(found), flush=True)
        problems += found
    print(f"{len(problems)} problems" if problems else "Both engines agree, and no expression fails.")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()

"""The programs that a run starts, and requests to them: the fleet, Prometheus and VictoriaMetrics."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RULES = ["dashboards/rules.yml", "dashboards/alerts.yml"]
# The limit of a request, and of the start of a program.
PATIENCE = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(url, parameters=None, method="GET", headers=None):
    """Returns the body of a response, also of one that reports an error as JSON."""
    data = urllib.parse.urlencode(parameters or {})
    if method == "GET" and data:
        url, data = f"{url}?{data}", None
    request = urllib.request.Request(url, data.encode() if data else None, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        return error.read()


def cpu_seconds(process):
    """The CPU time of a process so far."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process):
    """The bytes of memory of a process, without pages of files."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class QueryError(Exception):
    """An engine has rejected an expression."""


class Server:
    """A program that answers on a port of its own until the run ends."""

    def __init__(self, directory, name, command, ready, port):
        self.name, self.address = name, f"http://127.0.0.1:{port}"
        self.log = open(directory / f"{name}.log", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=directory)
        deadline = time.time() + PATIENCE
        while True:
            try:
                fetch(self.address + ready)
                return
            except OSError:
                if self.process.poll() is not None or time.time() > deadline:
                    raise SystemExit(f"{name} does not start: {directory / (name + '.log')}")
                time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Engine(Server):
    """An engine with the query API of Prometheus."""

    # Parameters of each query.
    extra = {}

    def api(self, path, parameters, method="GET"):
        body = fetch(f"{self.address}/api/v1/{path}", {**parameters, **self.extra}, method)
        try:
            answer = json.loads(body)
        except ValueError:
            raise QueryError(body[:300].decode(errors="replace"))
        if answer.get("status") != "success":
            raise QueryError(answer.get("error", str(answer)[:300]))
        return answer["data"]

    def instant(self, expression, at):
        return self.api("query", {"query": expression, "time": at})["result"]

    def over_time(self, expression, start, end, step):
        return self.api("query_range", {"query": expression, "start": start, "end": end, "step": step})["result"]

    def value(self, expression, at):
        result = self.instant(expression, at)
        return float(result[0]["value"][1]) if result else None


class Prometheus(Engine):
    def __init__(self, directory, fleet, interval, remote_write):
        port = free_port()
        config = {
            "global": {"scrape_interval": f"{interval}s", "scrape_timeout": f"{min(interval, 10)}s", "evaluation_interval": f"{interval}s"},
            "rule_files": [str(REPOSITORY / file) for file in RULES],
            "scrape_configs": [{"job_name": "fleet", "http_sd_configs": [{"url": f"{fleet.address}/targets"}]}],
            "remote_write": [{"url": remote_write}],
        }
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(config, indent=1))
        self.data = directory / "prometheus"
        super().__init__(directory, "prometheus-server", [
            "prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={self.data}",
            f"--web.listen-address=127.0.0.1:{port}", "--web.enable-admin-api", "--enable-feature=extra-scrape-metrics",
        ], "/-/ready", port)

    def rules(self):
        """All rules, with the expressions as Prometheus prints them."""
        return [rule for group in self.api("rules", {})["groups"] for rule in group["rules"]]

    def storage(self):
        """Writes all samples to a block, as Prometheus does each two hours, and returns the sizes of its parts."""
        name = self.api("admin/tsdb/snapshot", {}, "POST")["name"]
        blocks = [path.parent for path in (self.data / "snapshots" / name).glob("*/meta.json")]
        sizes = {"samples": 0, "series": 0, "chunks": 0, "index": 0}
        for block in blocks:
            stats = json.loads((block / "meta.json").read_text())["stats"]
            sizes["samples"] += stats["numSamples"]
            sizes["series"] = max(sizes["series"], stats["numSeries"])
            sizes["chunks"] += sum(chunk.stat().st_size for chunk in (block / "chunks").iterdir())
            sizes["index"] += (block / "index").stat().st_size
        shutil.rmtree(self.data / "snapshots")
        return sizes


class VictoriaMetrics(Engine):
    # The cache of responses would answer a repeated query.
    extra = {"nocache": "1"}

    def __init__(self, directory):
        port = free_port()
        super().__init__(directory, "victoria-metrics", [
            "victoria-metrics", f"-storageDataPath={directory / 'victoria'}", f"-httpListenAddr=127.0.0.1:{port}",
            # By default the last 30 s are hidden, which Prometheus shows.
            "-search.latencyOffset=0s",
        ], "/health", port)

    def metrics(self):
        """The engine's own metrics, each sum over all series of a name and a type."""
        sums = {}
        for line in fetch(f"{self.address}/metrics").decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series:
                sums[series] = float(value)
        return sums

    def storage(self):
        """Has the engine merge what it has stored, and returns the sizes of its parts."""
        fetch(f"{self.address}/internal/force_flush")
        fetch(f"{self.address}/internal/force_merge")
        deadline = time.time() + PATIENCE
        while time.time() < deadline:
            time.sleep(3)
            metrics = self.metrics()
            if not any(value for series, value in metrics.items() if series.startswith("vm_active_merges{")):
                break
        sizes = {"samples": 0, "chunks": 0, "index": 0}
        for series, value in metrics.items():
            if series.startswith('vm_rows{type="storage/'):
                sizes["samples"] += value
            elif series.startswith('vm_data_size_bytes{type="storage/'):
                sizes["chunks"] += value
            elif series.startswith('vm_data_size_bytes{type="indexdb'):
                sizes["index"] += value
        return sizes

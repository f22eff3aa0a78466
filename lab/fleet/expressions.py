"""Every expression of dashboards/, and the comparison of two engines' results."""

import json
import math
import re
import statistics

from engines import REPOSITORY, QueryError

# Expressions whose result is empty in a fleet like this, by their alert or by their series.
MAY_BE_EMPTY = re.compile(
    # Nothing of the kind occurs, or not on every machine.
    r"^(PollwatchAbsent|PollwatchCapturesFailing|PollwatchReportsLost|PollwatchOverslept|PollwatchBlindSpot|PollwatchStarved"
    # It compares with the hour before.
    r"|PollwatchTasksGrowing)$"
    # The fleet is built without tokio's feature schedule-latency.
    r"|pollwatch_(task_delay|stall_victim|site_delay|route_delay|lost_delays)"
)  # fmt: skip

# These functions depend on which samples a window has.
WINDOWED = re.compile(r"\b(rate|increase)\(")
# A window in an expression, and an increase over one. No selector of dashboards/ contains a bracket.
WINDOW = re.compile(r"\[(\d+)([smh])\]")
INCREASE = re.compile(r"\bincrease\((\w+(?:\{[^}]*\})?)\[(\d+)s\]( @ end\(\))?\)")
SECONDS = {"s": 1, "m": 60, "h": 3600}
# The longest window that a run fills.
LONGEST = 300
# Stored values have to be equal up to the digits that VictoriaMetrics keeps. Rates over the same samples have to be equal as a rule.
SAME, TYPICAL = 1e-9, 0.01


def shortened(text):
    """The expression with no window longer than a run, and with the times of PollwatchTasksGrowing in proportion."""
    if " offset 1h)" in text and "min_over_time" in text:
        text = text.replace("[30m]", "[1m]").replace("offset 1h", "offset 2m")
    return WINDOW.sub(lambda w: f"[{min(int(w[1]) * SECONDS[w[2]], LONGEST)}s]", text)


def windows(text):
    """The lengths of the windows of a shortened expression."""
    return [int(window[1]) for window in WINDOW.finditer(text)]


def same_samples(text, interval):
    """The expression for Prometheus that uses the samples that VictoriaMetrics uses for a shortened one.

    The start of a window is the first sample in it for Prometheus, and the last sample before it for VictoriaMetrics. A window that is
    longer by one interval begins with that sample. The rate of Prometheus is then the same; its increase is extrapolated to the longer
    window, so it is written as a rate.
    """
    text = INCREASE.sub(lambda i: f"(rate({i[1]}[{i[2]}s]{i[3] or ''}) * {i[2]})", text)
    return re.sub(r"(\brate\(\w+(?:\{[^}]*\})?)\[(\d+)s\]", lambda r: f"{r[1]}[{int(r[2]) + interval}s]", text)


class Expression:
    def __init__(self, source, title, text, is_range):
        self.source, self.title, self.text, self.is_range = source, title, text, is_range

    @property
    def may_be_empty(self):
        return bool(MAY_BE_EMPTY.search(self.title) or MAY_BE_EMPTY.search(self.text))


def fill(text, interval, window):
    """Replaces the dashboard's variables, as Grafana does: all jobs, instances and runtimes."""
    values = {"$job": ".*", "$instance": ".*", "$runtime": ".*", "$top": "10", "$__rate_interval": f"{4 * interval}s", "$__range": window}
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(name, values[name])
    assert "$" not in text, text
    return text


def dashboard(interval, window):
    """The expressions of the dashboard, by the row that they are in."""
    board = json.loads((REPOSITORY / "dashboards/pollwatch.json").read_text())
    row, found = "", []
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"].split(":")[0].split(" (")[0]
            continue
        for target in panel["targets"]:
            text = fill(target["expr"], interval, window)
            found.append(Expression(f"row {row}", panel["title"], text, target["range"]))
    for annotation in board["annotations"]["list"]:
        found.append(Expression("annotation", annotation["name"], fill(annotation["expr"], interval, window), True))
    return found


def variables(interval, window):
    """The selector and the label of each variable of the dashboard that has a query."""
    board = json.loads((REPOSITORY / "dashboards/pollwatch.json").read_text())
    definitions = [v["definition"] for v in board["templating"]["list"] if "definition" in v]
    inside = [fill(d.removeprefix("label_values(").removesuffix(")"), interval, window) for d in definitions]
    return [tuple(part.strip() for part in text.rsplit(",", 1)) for text in inside]


def of_rules(rules):
    """The expressions of rules.yml and alerts.yml."""
    kinds = {"recording": "rules.yml", "alerting": "alerts.yml"}
    return [Expression(kinds[rule["type"]], rule["name"], rule["query"], False) for rule in rules]


def by_labels(result):
    """The values by their labels. MetricsQL keeps names where Prometheus drops them, so that names do not count."""
    return {
        tuple(sorted((k, v) for k, v in series["metric"].items() if k != "__name__")): float(series["value"][1])
        for series in result
    }  # fmt: skip


def difference(a, b):
    if a == b or math.isnan(a) and math.isnan(b):
        return 0.0
    return abs(a - b) / max(abs(a), abs(b)) if math.isfinite(a) and math.isfinite(b) else math.inf


class Comparison:
    """The results of one expression in two engines at one moment."""

    def __init__(self, expression, engines, at, interval):
        self.expression, self.problems, self.series, self.differences, self.written = expression, [], 0, [], []
        prometheus, victoria = engines
        short = shortened(expression.text)
        try:
            self.engine = prometheus
            ours = self.results(expression.text, at)
            same = self.results(same_samples(short, interval), at)
            self.engine = victoria
            theirs = self.results(expression.text, at)
            theirs_short = self.results(short, at)
        except QueryError as error:
            self.problems.append(f"{self.engine.name}: {error}")
            return
        self.written = [difference(ours[labels], theirs[labels]) for labels in ours if labels in theirs]
        # Prometheus extrapolates to the edges of a window, but not for a series that starts within it or that would be negative there.
        self.largest = 1.01 * interval / (min(windows(short), default=LONGEST) + interval)
        self.compare(same, theirs_short)

    def results(self, text, at):
        """The result at one moment. That a range query is accepted, too, is checked for what a panel draws over time."""
        if self.expression.is_range:
            self.engine.over_time(text, at - LONGEST, at, 15)
        return by_labels(self.engine.instant(text, at))

    def compare(self, ours, theirs):
        self.series = len(ours)
        if not ours and not self.expression.may_be_empty:
            self.problems.append("is empty")
        if "topk" in self.expression.text:
            # Which of several equal values are among the first is not defined.
            if len(ours) != len(theirs):
                self.problems.append(f"{len(ours)} series and {len(theirs)}")
            pairs = zip(sorted(ours.values()), sorted(theirs.values()))
        else:
            only = [sorted(set(a) - set(b)) for a, b in [(ours, theirs), (theirs, ours)]]
            for labels, where in zip(only, ["Prometheus", "VictoriaMetrics"]):
                if labels:
                    self.problems.append(f"{len(labels)} of {len(ours)} series only in {where}, such as {dict(labels[0])}")
            pairs = [(ours[labels], theirs[labels]) for labels in ours if labels in theirs]
        self.differences = [difference(a, b) for a, b in pairs]
        limits = (TYPICAL, self.largest) if WINDOWED.search(self.expression.text) else (SAME, SAME)
        found = typical(self.differences), max(self.differences, default=0)
        if any(value > limit for value, limit in zip(found, limits)):
            self.problems.append(f"values differ by {found[0]:.2%}, at most by {found[1]:.2%}")


def typical(differences):
    return statistics.median(differences) if differences else 0

"""Grafana's JSON for panels, rows and variables. make.py defines what the dashboard contains."""

import json

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def over_time(expr, legend):
    """A range query: one value for each point of a line."""
    return {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "range": True, "instant": False}


def instant(expr, legend="__auto"):
    """An instant query at the end of the time shown."""
    return {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "range": False, "instant": True}


def panel(kind, size, title, description, unit, targets, options, **rest):
    width, height = size
    defaults = {"unit": unit, "color": rest.pop("color", {"mode": "palette-classic"}), **rest.pop("defaults", {})}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": [{"refId": chr(ord("A") + i), **target} for i, target in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": rest.pop("overrides", [])},
        "options": options,
        **rest,
    }


def steps(yellow=None, red=None):
    limits = [("green", None), ("yellow", yellow), ("red", red)]
    return {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in limits if c == "green" or v is not None]}


REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(title, description, unit, expr, yellow=None, red=None):
    return panel(
        "stat", (3, 4), title, description, unit, [instant(expr, "")],
        {"reduceOptions": REDUCE, "orientation": "auto", "colorMode": "value", "graphMode": "none", "justifyMode": "auto",
         "textMode": "value", "wideLayout": True, "showPercentChange": False, "percentChangeColorMode": "standard"},
        color={"mode": "thresholds"}, defaults={"thresholds": steps(yellow, red), "noValue": "no data"},
    )  # fmt: skip


def lines(title, description, unit, *targets, stacked=False):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if stacked else 10, "showPoints": "auto",
              "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}  # fmt: skip
    return panel(
        "timeseries", (12, 8), title, description, unit, targets,
        {"legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"]},
         "tooltip": {"mode": "multi", "sort": "desc"}},
        defaults={"min": 0, "custom": custom},
    )  # fmt: skip


def bars(title, description, unit, *targets, top=None):
    limits = {"min": 0} if top is None else {"min": 0, "max": top}
    return panel(
        "bargauge", (8, 8), title, description, unit, targets,
        {"reduceOptions": REDUCE, "orientation": "horizontal", "displayMode": "basic", "valueMode": "text", "namePlacement": "auto",
         "showUnfilled": True, "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
         "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []}},
        defaults=limits,
    )  # fmt: skip


def table(title, description, unit, columns, *targets, wide=False, link=None):
    """columns: the name of a query's value, its title, and its unit if it differs from the panel's."""
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": own}]}
        for _, name, own in columns if own
    ]  # fmt: skip
    if link:
        field, url = link
        overrides.append({
            "matcher": {"id": "byName", "options": field},
            "properties": [{"id": "links", "value": [{"title": "Show it alone", "url": url}]}],
        })
    names = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {field: name for field, name, _ in columns}}
    return panel(
        "table", (WIDTH if wide else 8, 8), title, description, unit, [{**t, "format": "table"} for t in targets],
        {"showHeader": True, "cellHeight": "sm", "frameIndex": 0, "sortBy": [{"displayName": columns[0][1], "desc": True}]},
        color={"mode": "thresholds"},
        defaults={"custom": {"align": "auto", "inspect": False, "cellOptions": {"type": "auto"}, "filterable": True}},
        overrides=overrides,
        transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": names}],
    )  # fmt: skip


def heatmap(title, description, expr):
    target = {**over_time(expr, "{{le}}"), "format": "heatmap"}
    return panel(
        "heatmap", (12, 8), title, description, "cps", [target],
        {"calculate": False, "cellGap": 1, "cellValues": {"unit": "cps"}, "showValue": "never",
         "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential", "exponent": 0.5, "steps": 64,
                   "reverse": False},
         "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": True},
         "rowsFrame": {"layout": "auto"}, "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
         "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"}},
        color={"mode": "thresholds"},
    )  # fmt: skip


def row(title, *panels):
    return title, panels


def variable(name, label, query, description):
    """One or several values of a label, or all. All is the pattern `.*`, since a list of 1,000 instances is too long for a query."""
    return {
        "type": "query", "name": name, "label": label, "description": description, "datasource": SOURCE,
        "definition": query, "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def choice(name, label, description, values=None):
    if values is None:
        return {"type": "datasource", "name": name, "label": label, "description": description, "query": "prometheus", "regex": "",
                "refresh": 1}  # fmt: skip
    default = values[1]
    return {
        "type": "custom", "name": name, "label": label, "description": description, "query": ",".join(values),
        "options": [{"text": v, "value": v, "selected": v == default} for v in values],
        "current": {"text": default, "value": default},
    }  # fmt: skip


def alerts(expr):
    return {
        "name": "Alerts", "datasource": SOURCE, "enable": True, "iconColor": "red", "expr": expr,
        "titleFormat": "{{alertname}}", "textFormat": "{{instance}} {{runtime}}", "step": "60s",
    }  # fmt: skip


def arranged(rows):
    """Panels from left to right, a new line where the next does not fit or is of another height; numbered."""
    placed, y = [], 0
    for title, panels in rows:
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        y, x, height = y + 1, 0, 0
        for entry in panels:
            size = entry["gridPos"]
            if x and (x + size["w"] > WIDTH or size["h"] != height):
                x, y = 0, y + height
            height = size["h"]
            placed.append({**entry, "gridPos": {"x": x, "y": y, **size}})
            x += size["w"]
        y += height
    return [{"id": i, **entry} for i, entry in enumerate(placed, 1)]


def dashboard(title, description, variables, annotation, rows):
    whole = {
        "uid": "pollwatch",
        "title": title,
        "description": description,
        "tags": ["pollwatch", "tokio"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": [annotation]},
        "links": [],
        "panels": arranged(rows),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)

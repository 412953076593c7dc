#!/usr/bin/env python3
"""Checks the metrics that dashboards, alerts and autoscalers name: ci/queries.py SCRAPE PATH…

SCRAPE is what a running pod answers to /metrics; with an empty one only the syntax of PromQL is
checked. Each PATH is a YAML or JSON file, or a folder of them. Metrics of others (Kubernetes,
Pub/Sub) are listed and not checked. It must never pass a query that it cannot parse.
"""
import json
import pathlib
import re
import sys

import promql_parser
import yaml

# What a pod exports itself.
OWN = ("relay_", "process_")
# Keys under which dashboards and rules hold PromQL.
QUERIES = ("expr", "query", "prometheusQuery")
# A metric as Cloud Monitoring names it, for the autoscaler.
MONITORED = re.compile(r"prometheus\.googleapis\.com[/|]([\w:]+)[/|](gauge|counter|histogram|summary|unknown)")

exported, types = set(), {}
faults, own, others = [], set(), set()


def read_scrape(path):
    for line in path.read_text().splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            types[name] = kind
            exported.add(name)
        elif line and not line.startswith("#"):
            exported.add(re.match(r"[\w:]+", line)[0])


def check_metric(name, where):
    if not name.startswith(OWN):
        others.add(name)
        return
    own.add(name)
    if exported and name not in exported:
        faults.append(f"{where}: metric {name} does not exist")


def check_query(text, where):
    """Checks one PromQL expression, in which a dashboard's variables may stand."""
    text = re.sub(r"\$\{?__(?:rate_interval|interval|range)\}?", "5m", text)
    text = re.sub(r"\$\{?\w+(?::\w+)?\}?", "x", text)
    try:
        check_node(promql_parser.parse(text), where)
    except ValueError as error:
        faults.append(f"{where}: PromQL: {error}: {text[:80]}")


def check_node(node, where):
    if isinstance(node, promql_parser.VectorSelector):
        named = [m.value for m in node.matchers.matchers if m.name == "__name__"]
        check_metric(node.name or (named or ["?"])[0], where)
    children = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param")]
    for child in children + list(getattr(node, "args", None) or []):
        if child is not None and not isinstance(child, (str, int, float)):
            check_node(child, where)


def check_monitored(text, where):
    for name, kind in MONITORED.findall(text):
        check_metric(name, where)
        if types.get(name, kind) != kind:
            faults.append(f"{where}: {name} is a {types[name]}, not a {kind}")


def check_tree(node, where):
    """Checks every query and every metric's name in a document, at any depth."""
    if isinstance(node, list):
        for item in node:
            check_tree(item, where)
    # The `query` of a dashboard's data source is the name of a product.
    elif isinstance(node, dict) and node.get("type") != "datasource":
        for key, value in node.items():
            if key in QUERIES and isinstance(value, str):
                check_query(value, f"{where}: {node.get('alert', key)}")
            else:
                check_tree(value, where)
    elif isinstance(node, str):
        check_monitored(node, where)


def main():
    scrape, *paths = map(pathlib.Path, sys.argv[1:])
    read_scrape(scrape)
    files = [f for path in paths for f in ([path] if path.is_file() else sorted(path.rglob("*")))]
    for file in files:
        # A chart's templates are no YAML; ci/chart shows that they render to what the overlays have.
        if "templates" in file.parts:
            continue
        if file.suffix == ".json":
            check_tree(json.loads(file.read_text()), file.name)
        elif file.suffix in (".yaml", ".yml"):
            check_tree(list(yaml.safe_load_all(file.read_text())), file.name)
    for fault in faults:
        print(f"ERROR {fault}")
    print(f"{len(own)} metrics of a pod named, {len(faults)} faults; of others: {', '.join(sorted(others)) or 'none'}")
    sys.exit(bool(faults))


main()

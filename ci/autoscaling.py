#!/usr/bin/env python3
"""A model of the deployment and of Kubernetes' autoscaler, with the numbers of the manifests.

It has what is special about WebSockets. Sockets stay on their pod when pods are added. The balancer
spreads new sockets evenly. A draining pod ends its own over RELAY_DRAIN_SPREAD. With a control
secret, pods above the mean end some of theirs after growth. The autoscaler sees an old value of the metric. The model is deterministic, in steps of a second. It must never hold a
number that a manifest has.
"""
import argparse
import collections
import math
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "docs/autoscaling.svg"

# Facts of Kubernetes and Google that no manifest has; each on the cautious side.
SYNC = 15  # s between two decisions: the controller's default
TOLERANCE = 0.1  # of the ratio, within which the controller changes nothing: its default
METRIC_AGE = 90  # s: 15 for the scrape, the rest for ingestion and adapter
START = 90  # s from a wanted pod to a ready one: Autopilot creates a node first
CPU_IDLE, CPU_CONNECTION = 0.02, 20e-6  # cores: an idle pod; a connection with two events/s at 10 µs
CPU_ARRIVAL = 0.5e-3  # cores for one new connection/s: handshake, token, subscribe, replay


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


HPA = read("k8s/overlays/gke/horizontalpodautoscaler.yaml")["spec"]
MANIFEST = read("k8s/base/deployment.yaml")["spec"]
SETTINGS = dict(re.findall(r"^(RELAY_\w+)=(.*)$", (ROOT / "k8s/base/settings.env").read_text(), re.M))
LIMIT = int(SETTINGS["RELAY_MAX_CONNECTIONS"])
DELAY, SPREAD = (int(SETTINGS[f"RELAY_DRAIN_{n}"].rstrip("s")) for n in ("DELAY", "SPREAD"))
CONNECTIONS = next(int(m["pods"]["target"]["averageValue"]) for m in HPA["metrics"] if m["type"] == "Pods")
CPU = next(m["resource"]["target"]["averageUtilization"] / 100 for m in HPA["metrics"] if m["type"] == "Resource")
CORES = float(MANIFEST["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
SURGE = int(MANIFEST["strategy"]["rollingUpdate"]["maxSurge"].rstrip("%")) / 100


def rust(path, name):
    """Returns the number of a constant of the program."""
    text = (ROOT / path).read_text()
    return float(re.search(rf"const {name}: \w+ = (?:Duration::from_secs\()?([\d.]+)", text)[1])


BALANCE = "src/membership/balance.rs"
INTERVALS, ABOVE, STEP, MOST = (rust(BALANCE, name) for name in ("QUIET", "TOLERANCE", "STEP", "MOST"))
HEARTBEAT = int(re.search(r'"RELAY_HEARTBEAT_INTERVAL",\s*Is\("(\d+)s"\)', (ROOT / "src/cli/config/table.rs").read_text())[1])
QUIET = INTERVALS * HEARTBEAT  # s
ROUND = int(rust("src/pod/rebalance.rs", "INTERVALS")) * HEARTBEAT  # s
BALANCED = 1.2  # most connections of a pod, as a share of the mean, BALANCE_TIME after the last growth
MOST_MOVES = 0.01  # share of all connections that may move in one second
BALANCE_TIME = QUIET + 15 * ROUND


class Pod:
    """One pod: when it gets ready, its connections, and since when it drains."""

    def __init__(self, revision, ready_at):
        self.revision, self.ready_at, self.held, self.drain_at = revision, ready_at, 0.0, None
        self.arrivals, self.moving, self.first = 0.0, 0.0, 0.0
        self.past = collections.deque(maxlen=METRIC_AGE)

    def remember(self):
        self.past.append((self.held, CPU_IDLE + CPU_CONNECTION * self.held + CPU_ARRIVAL * self.arrivals))
        self.arrivals = 0.0

    def seen(self):
        """Returns the values that the autoscaler has of this pod: none while the pod is younger
        than the metric."""
        return self.past[0] if len(self.past) == METRIC_AGE else None


class Autoscaler:
    """The horizontal pod autoscaler, v2: ratio, tolerance, missing pods, windows and policies."""

    def __init__(self):
        self.wishes, self.changes = collections.deque(), collections.deque()

    def wish(self, now, pods, replicas):
        return max(self.by_metric(now, pods, replicas, 0, CONNECTIONS), self.by_metric(now, pods, replicas, 1, CPU * CORES))

    @staticmethod
    def by_metric(now, pods, replicas, which, target):
        """Returns the replicas that one metric asks for, as the controller's
        `calcPlainMetricReplicas` does."""
        pending = sum(p.ready_at > now for p in pods)
        known = [p.seen()[which] for p in pods if p.seen()]
        missing = len(pods) - pending - len(known)
        if not known:
            return replicas
        first = sum(known) / len(known) / target
        counted = known
        # Pods without a value count as idle when there seem to be too few, as on target when there
        # seem to be too many.
        if first > 1:
            counted = known + [0] * (missing + pending)
        elif first < 1:
            counted = known + [target] * missing
        ratio = sum(counted) / len(counted) / target
        wish = math.ceil(ratio * len(counted) - 1e-9)
        # Nothing that the missing values could turn round: neither the ratio's side nor the
        # direction of the change.
        turned = (first > 1) != (ratio > 1) or (ratio < 1 and wish > replicas) or (ratio > 1 and wish < replicas)
        return replicas if turned or abs(ratio - 1) <= TOLERANCE else wish

    def decide(self, now, pods, replicas):
        wish = self.wish(now, pods, replicas)
        self.wishes.append((now, wish))
        up, down = HPA["behavior"]["scaleUp"], HPA["behavior"]["scaleDown"]
        within = lambda window: [w for t, w in self.wishes if t > now - window] or [wish]
        low, high = min(within(up["stabilizationWindowSeconds"])), max(within(down["stabilizationWindowSeconds"]))
        wish = min(max(replicas, low), high) if low <= high else replicas
        while self.wishes and self.wishes[0][0] < now - 3600:
            self.wishes.popleft()
        if wish > replicas:
            wish = min(wish, self.allowed(now, replicas, up, +1))
        elif wish < replicas:
            wish = max(wish, self.allowed(now, replicas, down, -1))
        wish = min(max(wish, HPA["minReplicas"]), HPA["maxReplicas"])
        if wish != replicas:
            self.changes.append((now, wish - replicas))
        return wish

    def allowed(self, now, replicas, rules, sign):
        bounds = []
        for policy in rules["policies"]:
            recent = sum(n for t, n in self.changes if t > now - policy["periodSeconds"] and n * sign > 0)
            before = replicas - recent
            step = policy["value"] if policy["type"] == "Pods" else math.ceil(before * policy["value"] / 100)
            bounds.append(before + sign * step)
        widest = max if sign > 0 else min
        narrowest = min if sign > 0 else max
        return (narrowest if rules.get("selectPolicy") == "Min" else widest)(bounds)


class Deployment:
    """The pods behind a balancer that spreads new connections evenly over the ready ones."""

    def __init__(self, rebalances):
        self.rebalances = rebalances
        self.now, self.revision, self.replicas = 0, 0, HPA["minReplicas"]
        self.pods = [Pod(0, 0) for _ in range(self.replicas)]
        self.autoscaler, self.history, self.refused = Autoscaler(), [], 0.0
        self.members, self.has_grown, self.changed = frozenset(self.pods), False, 0
        self.moves, self.spreads = {}, {}

    def serving(self):
        return [p for p in self.pods if p.ready_at <= self.now and p.drain_at is None]

    def kept(self):
        return [p for p in self.pods if p.drain_at is None]

    def connect(self, count):
        """Connects clients in even shares. A full pod refuses (1013), and the client gets
        another pod."""
        while count > 1e-6:
            open_pods = [p for p in self.serving() if p.held < LIMIT - 1e-6]
            if not open_pods:
                self.refused += count
                return
            share = min(count / len(open_pods), min(LIMIT - p.held for p in open_pods))
            for pod in open_pods:
                pod.held += share
                pod.arrivals += share
            count -= share * len(open_pods)

    def step(self, wanted):
        self.now += 1
        held = sum(p.held for p in self.pods)
        moved = self.leave()
        if wanted > held:
            self.connect(wanted - held)
        elif held:
            for pod in self.pods:  # clients that leave are on all pods
                pod.held *= wanted / held
        self.connect(moved)
        if self.rebalances:
            self.connect(self.rebalance())
        for pod in self.serving():
            pod.remember()
        if self.now % SYNC == 0:
            self.replicas = self.autoscaler.decide(self.now, self.kept(), self.replicas)
        self.roll_out()
        serving = self.serving()
        self.history.append((self.now, wanted, len(serving), self.replicas, max(p.held for p in serving), min(p.held for p in serving)))

    def rebalance(self):
        """Returns the connections that pods end in this second, as src/membership/balance.rs has it."""
        serving = self.serving()
        members = frozenset(p for p in self.pods if p.ready_at <= self.now)
        is_calm = len(serving) == len(members) and len({p.revision for p in members}) == 1
        if members != self.members:
            more = len(members) - len(self.members)
            self.has_grown = more > 0 or (self.has_grown and more == 0)
        if members != self.members or not is_calm:
            self.members, self.changed = members, self.now
        mean = sum(p.held for p in members) / len(members)
        may = self.has_grown and is_calm and self.now - self.changed >= QUIET
        if self.now % ROUND == 0 or not may:
            for pod in self.pods:
                surplus = pod.held - mean if may and pod.held > mean * (1 + ABOVE) else 0.0
                pod.first = max(pod.first, surplus) if surplus else 0.0
                pod.moving = math.ceil(min(surplus * STEP, pod.first * MOST))
        moved = 0.0
        for pod in serving:
            part = min(pod.held, pod.moving / ROUND)
            pod.held -= part
            moved += part
        if moved:
            self.moves[self.now] = moved
        if may and self.now - self.changed >= BALANCE_TIME:
            self.spreads[self.now] = max(p.held for p in serving) / max(1, mean)
        return moved

    def leave(self):
        moved = 0.0
        for pod in [p for p in self.pods if p.drain_at is not None]:
            since = self.now - pod.drain_at - DELAY
            if since > 0:
                part = pod.held / max(1, SPREAD - since + 1)
                pod.held -= part
                moved += part
            if since >= SPREAD:
                self.pods.remove(pod)
        return moved

    def roll_out(self):
        """Adds and drains pods until there are as many as wanted. A rollout never leaves fewer
        ready ones."""
        kept = self.kept()
        old = [p for p in kept if p.revision != self.revision]
        room = self.replicas + (math.ceil(SURGE * self.replicas) if old else 0) - len(kept)
        for _ in range(max(0, min(room, self.replicas - len(kept) + len(old)))):
            self.pods.append(Pod(self.revision, self.now + START))
        spare = len(self.serving()) - self.replicas
        # The youngest first, as a ReplicaSet does; in a rollout, those of the old revision.
        for pod in (old if old else sorted(self.serving(), key=lambda p: -p.ready_at))[: max(0, spare)]:
            pod.drain_at = self.now


def scenario(minute):
    """Returns the connections wanted: a ramp to 100,000 in 30 minutes, a plateau, a drop to a
    fifth, quiet."""
    points = [(0, 0), (30, 100_000), (150, 100_000), (155, 20_000), (360, 20_000)]
    for (a, low), (b, high) in zip(points, points[1:]):
        if minute <= b:
            return low + (high - low) * (minute - a) / (b - a)
    return points[-1][1]


DEPLOY, END = 90, 360  # minutes


def run(rebalances):
    deployment = Deployment(rebalances)
    for second in range(1, END * 60 + 1):
        if second == DEPLOY * 60:
            deployment.revision += 1
        deployment.step(scenario(second / 60))
    return deployment


def verdict(deployment):
    faults = []
    fullest = max(deployment.history, key=lambda h: h[4])
    if fullest[4] >= LIMIT:
        faults.append(f"a pod reached its limit of {LIMIT} after {fullest[0] // 60} min")
    if deployment.refused:
        faults.append(f"{deployment.refused:.0f} connections found no pod")
    directions = [(t, n > 0) for t, n in deployment.autoscaler.changes]
    turns = [t // 60 for (_, before), (t, after) in zip(directions, directions[1:]) if before != after]
    if len(turns) != 1 or turns[0] < 150:
        faults.append(f"it flaps: turns after {turns} min, where one, after the drop, is right")
    if any(s < HPA["minReplicas"] for _, _, s, *_ in deployment.history):
        faults.append("fewer pods than minReplicas serve")
    during = {r for t, _, _, r, *_ in deployment.history if DEPLOY * 60 <= t < 150 * 60}
    if len(during) != 1:
        faults.append(f"the deploy moves the autoscaler: {sorted(during)}")
    if deployment.rebalances:
        faults += balance(deployment)
    peak, last = max(h[3] for h in deployment.history), deployment.history[-1]
    print(f"peak {peak} pods; fullest pod {fullest[4]:.0f} of {LIMIT} after {fullest[0] // 60} min; at the end {last[3]} pods")
    return faults


def balance(deployment):
    """Returns what is wrong with how connections move to new pods."""
    faults, moves = [], deployment.moves
    if not moves or not deployment.spreads:
        return ["nothing moves after growth, or the membership is never quiet"]
    worst = max(deployment.spreads.items(), key=lambda at: at[1])
    if worst[1] > BALANCED:
        faults.append(f"a pod has {worst[1]:.2f} of the mean after {worst[0] // 60} min, though the membership is quiet")
    wanted = {t: count for t, count, *_ in deployment.history}
    if any(count > MOST_MOVES * wanted[t] for t, count in moves.items()):
        faults.append(f"a second moves more than {MOST_MOVES:.0%} of all connections")
    if any(DEPLOY * 60 <= t < DEPLOY * 60 + QUIET for t in moves):
        faults.append("connections move while pods are replaced")
    print(f"{sum(moves.values()):.0f} connections move to new pods, {max(moves.values()):.0f} a second at most; "
          f"{BALANCE_TIME / 60:.0f} min after growth a pod has {worst[1]:.2f} of the mean at most")
    return faults


def chart(deployment):
    width, height, left, gap = 900, 210, 70, 60
    rows = deployment.history[::30]
    x = lambda t: left + t / (END * 60) * (width - left - 20)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {3 * height + 3 * gap + 20}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="#fff"/>']

    def panel(number, title, top, lines, step):
        base = number * (height + gap) + gap - 15 + height
        y = lambda v: base - v / top * height
        svg.append(f'<text x="{left}" y="{base - height - 12}" font-weight="bold">{title}</text>')
        for value in range(0, top + 1, step):
            svg.append(f'<path d="M{left} {y(value):.0f}H{width - 20}" stroke="#ddd"/><text x="{left - 8}" y="{y(value) + 4:.0f}" text-anchor="end">{value:,}</text>')
        for minute in range(0, END + 1, 60):
            svg.append(f'<text x="{x(minute * 60):.0f}" y="{base + 18}" text-anchor="middle">{minute // 60} h</text>')
        svg.append(f'<path d="M{x(DEPLOY * 60):.0f} {base}V{base - height}" stroke="#999" stroke-dasharray="4"/>'
                   f'<text x="{x(DEPLOY * 60) + 4:.0f}" y="{base - height + 12}" fill="#666">deploy</text>')
        for place, (label, colour, column) in enumerate(lines):
            points = " ".join(f"{x(r[0]):.1f},{y(column(r)):.1f}" for r in rows)
            svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                       f'<text x="{left + 250 + 200 * place}" y="{base - height - 12}" fill="{colour}">{label}</text>')

    panel(0, "connections", 120_000, [("wanted", "#1f77b4", lambda r: r[1])], 20_000)
    panel(1, "pods", HPA["maxReplicas"], [("serving", "#2ca02c", lambda r: r[2]), ("wanted by the autoscaler", "#d62728", lambda r: r[3])], 10)
    panel(2, "connections of a pod", LIMIT, [("fullest", "#d62728", lambda r: r[4]), ("emptiest", "#1f77b4", lambda r: r[5]),
                                             (f"target {CONNECTIONS:,}", "#999", lambda r: CONNECTIONS)], 5_000)
    return "\n".join([*svg, "</svg>", ""])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--write", action="store_true")
    write = arguments.parse_args().write
    deployment = run(False)
    faults = verdict(deployment)
    faults += [f"with RELAY_REBALANCE: {fault}" for fault in verdict(run(True))]
    drawn = chart(deployment)
    if write:
        CHART.write_text(drawn)
    elif not CHART.exists() or CHART.read_text() != drawn:
        faults.append("docs/autoscaling.svg shows other numbers: ci/autoscaling --write")
    for fault in faults:
        print(f"ERROR {fault}")
    sys.exit(bool(faults))


main()

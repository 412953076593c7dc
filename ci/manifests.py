#!/usr/bin/env python3
"""Checks the project's numbers and names across rendered manifests: ci/manifests.py RENDERED.yaml

An API server accepts each object alone. That the drain fits into the grace period, or that the
balancer keeps a draining pod's connections, shows only in the numbers together. It must never hold
such a number itself: it compares the ones that it reads. ci/references.py has the rules for any
service.
"""
import math
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
# After the drain's deadline the pod deletes its feed, flushes the publisher, and flushes telemetry
# (`AFTER_DEADLINE` of the code).
waits = dict(re.findall(r"const (\w+): Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/pod/drain.rs").read_text()))
AFTER_DEADLINE = 2 * int(waits["CLOSE_STEP_TIMEOUT"]) + int(waits["TELEMETRY_TIMEOUT"])

objects = [o for o in yaml.safe_load_all(open(sys.argv[1])) if o]
faults = []


def promise(kept, text):
    if not kept:
        faults.append(text)


def all_of(kind):
    return [o for o in objects if o["kind"] == kind]


def one(kind, name="relay"):
    found = [o for o in all_of(kind) if o["metadata"]["name"] == name]
    promise(len(found) == 1, f"{len(found)} {kind}/{name}, not 1")
    return found[0] if found else None


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", str(text)).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


deployment = one("Deployment")
pod = deployment["spec"]["template"]["spec"]
labels = deployment["spec"]["template"]["metadata"]["labels"]
relay = next(c for c in pod["containers"] if c["name"] == "relay")
ports = {p["name"]: p["containerPort"] for p in relay["ports"]}
grace = pod.get("terminationGracePeriodSeconds", 30)

config_name = relay["envFrom"][0]["configMapRef"]["name"]
config = one("ConfigMap", config_name)
settings = config["data"] if config else {}
delay, spread, deadline = (seconds(settings[f"RELAY_DRAIN_{n}"]) for n in ("DELAY", "SPREAD", "DEADLINE"))

# The drain.
promise(delay + spread < deadline, f"drain: delay {delay} + spread {spread} must end before the deadline {deadline}")
promise(deadline + AFTER_DEADLINE <= grace, f"drain: deadline {deadline} + {AFTER_DEADLINE} to close must fit into the grace {grace}")

# Settings: each exists, and the pod accepts it.
known = set(re.findall(r"`(RELAY_[A-Z_]+|PUBSUB_EMULATOR_HOST)`", (ROOT / "docs/CONFIG.md").read_text()))
for name in settings:
    promise(name in known or name.startswith("OTEL_"), f"settings: {name} is no setting of docs/CONFIG.md")
topic = r"pubsub://[a-z][^/]{2,}/[A-Za-z][^/]{2,}|postgres://[^/]+/[A-Za-z][^/]+"
promise(re.fullmatch(topic, settings.get("RELAY_BROKER", "")), "settings: RELAY_BROKER names no topic")
promise(settings.get("RELAY_AUTH") == "jwt" or "PUBSUB_EMULATOR_HOST" in settings, "settings: the real Pub/Sub needs RELAY_AUTH=jwt")
keys = [n for n in ("RELAY_JWT_JWKS", "RELAY_JWT_SECRET", "RELAY_JWT_SECRET_FILE") if settings.get(n)]
# Without these, the keys of the issuer are discovered.
keys = keys or [n for n in ("RELAY_JWT_ISSUER",) if settings.get(n)]
promise(len(keys) == (settings.get("RELAY_AUTH") == "jwt"), f"settings: {keys or 'nothing'} to check tokens with")
secrets = {v["name"]: v.get("secret", {}).get("secretName") for v in pod.get("volumes", [])}
mounts = {m["mountPath"]: secrets.get(m["name"]) for m in relay.get("volumeMounts", [])}
for name, path in settings.items():
    if name.endswith("_FILE"):
        folder = pathlib.PurePosixPath(path).parent
        promise(mounts.get(str(folder)) == folder.name, f"settings: {name} is in no volume of the pod with the Secret {folder.name}")
leaves = [rule for policy in all_of("NetworkPolicy") for rule in policy["spec"].get("egress", [])]
for name, url in settings.items():
    if name.startswith("OTEL_") and name.endswith("_ENDPOINT") and leaves:
        namespace, port = re.fullmatch(r"https?://[^./]+\.([^./]+)\.svc\.cluster\.local:(\d+)", url).groups()
        to = [t.get("namespaceSelector", {}) for rule in leaves if {"port": int(port)} in rule["ports"] for t in rule.get("to", [])]
        promise({"matchLabels": {"kubernetes.io/metadata.name": namespace}} in to, f"settings: no policy lets the pods out to {name}")
for port, name in (("http", "RELAY_LISTEN"), ("admin", "RELAY_ADMIN_LISTEN")):
    promise(settings[name] == f"[::]:{ports.get(port)}", f"{name} is {settings[name]}, the container's port {port} {ports.get(port)}")

# The database's proxy: the pod finds it, it finds the database, and nothing is a placeholder.
if settings.get("RELAY_BROKER", "").startswith("postgres://127.0.0.1/"):
    proxies = [c for c in pod.get("initContainers", []) if c.get("restartPolicy") == "Always" and "--port=5432" in c["args"]]
    promise(len(proxies) == 1, f"database: {len(proxies)} proxies beside the pod, not 1")
    for proxy in proxies:
        promise(re.fullmatch(r"[^:]+:[^:]+:[^:]+", proxy["args"][0]), f"database: {proxy['args'][0]} is no PROJECT:REGION:INSTANCE")
        promise(not {"startupProbe"} - proxy.keys() and "livenessProbe" not in proxy, "database: the proxy needs a startup probe, and an outage must not restart it")
    account = one("ServiceAccount")["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account", "")
    promise(account == f"{settings.get('RELAY_BROKER_USER')}.gserviceaccount.com", f"database: the pods act as {account}, and log in as {settings.get('RELAY_BROKER_USER')}")
    promise(any({"port": 3307} in rule["ports"] for rule in leaves), "database: no policy lets the pods out to Cloud SQL")
    ranges = [t["ipBlock"]["cidr"] for rule in leaves if {"port": 3307} in rule["ports"] for t in rule["to"]]
    variables = ROOT / "terraform/variables.tf"
    if variables.exists():
        promise(all(f'"{cidr}"' in variables.read_text() for cidr in ranges), f"database: terraform has another range than {ranges}")

# The pod.
promise(not relay["image"].endswith((":unset", ":latest")), f"image: {relay['image']} says nothing")
promise(pod.get("serviceAccountName") == "relay", "service account: IAM knows the pods as relay")
promise(deployment["metadata"].get("namespace") == "pubsub-relay", "namespace: IAM knows the pods in pubsub-relay")
resources = relay["resources"]
promise(resources["requests"]["memory"] == resources["limits"]["memory"], "memory: requested and allowed must be the same")
for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
    get = relay.get(probe, {}).get("httpGet", {})
    promise(ports.get(get.get("port")) == ports.get("admin") and get.get("path") == path, f"{probe}: must ask {path} on admin")
promise(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "rollout: never fewer pods than there were")

# Selectors.
service = one("Service")
promise(service["spec"]["selector"].items() <= labels.items(), "service: selects other pods")
promise(all(ports.get(p["targetPort"]) == ports["http"] for p in service["spec"]["ports"]), "service: must lead to the port http")
for kind, at in (("PodDisruptionBudget", "selector"), ("PodMonitoring", "selector"), ("NetworkPolicy", "podSelector")):
    for o in all_of(kind):
        promise(o["spec"][at]["matchLabels"].items() <= labels.items(), f"{kind}: selects other pods")

# The autoscaler.
for hpa in all_of("HorizontalPodAutoscaler"):
    spec = hpa["spec"]
    target = spec["scaleTargetRef"]
    promise((target["kind"], target["name"]) == ("Deployment", "relay"), f"autoscaler: scales {target['kind']}/{target['name']}")
    promise("replicas" not in deployment["spec"], "autoscaler: the deployment's replicas fight it")
    average = next((int(m["pods"]["target"]["averageValue"]) for m in spec["metrics"] if m["type"] == "Pods"), None)
    promise(average, "autoscaler: no metric of the pods' connections")
    # The balancer spreads new sockets evenly and moves none. So much the oldest pods reach when the
    # number of pods grows slowly from the least to the most.
    oldest = (average or 0) * (1 + math.log(spec["maxReplicas"] / spec["minReplicas"]))
    promise(oldest <= int(settings["RELAY_MAX_CONNECTIONS"]), f"autoscaler: the oldest pods reach {oldest:.0f}, above RELAY_MAX_CONNECTIONS")

# The balancer.
backends = {b["name"] for r in all_of("HTTPRoute") for rule in r["spec"]["rules"] for b in rule.get("backendRefs", [])}
for name in backends:
    policies = [p for p in all_of("GCPBackendPolicy") if p["spec"]["targetRef"]["name"] == name]
    promise(len(policies) == 1, f"balancer: {len(policies)} backend policies for {name}")
    for policy in (p["spec"]["default"] for p in policies):
        promise(policy.get("timeoutSec", 30) >= 3600, f"balancer: ends every WebSocket after {policy.get('timeoutSec', 30)} s")
        draining = policy.get("connectionDraining", {}).get("drainingTimeoutSec", 0)
        promise(draining >= grace, f"balancer: cuts connections {draining} s after removal, within the pod's grace {grace}")
    checks = [c for c in all_of("HealthCheckPolicy") if c["spec"]["targetRef"]["name"] == name]
    promise(len(checks) == 1, f"balancer: {len(checks)} health checks for {name}")
    for check in (c["spec"]["default"] for c in checks):
        get = check["config"]["httpHealthCheck"]
        asks = (get.get("portSpecification"), get.get("port"), get.get("requestPath"))
        promise(asks == ("USE_FIXED_PORT", ports["admin"], "/readyz"), f"balancer: asks {asks}")
        notices = check["checkIntervalSec"] * check["unhealthyThreshold"] + check["timeoutSec"]
        promise(notices <= delay, f"balancer: notices after {notices} s, the pod serves on for {delay}")
if backends and (ROOT / "terraform/providers.tf").exists():
    opened = re.search(r"ports = \{ http = (\d+), admin = (\d+) \}", (ROOT / "terraform/providers.tf").read_text())
    promise(opened and tuple(map(int, opened.groups())) == (ports["http"], ports["admin"]), "firewall: terraform opens other ports")
for gateway in all_of("Gateway"):
    policies = [p["spec"]["default"] for p in all_of("GCPGatewayPolicy") if p["spec"]["targetRef"]["name"] == gateway["metadata"]["name"]]
    promise(len(policies) == 1 and policies[0].get("sslPolicy"), "balancer: takes any version of TLS")
for route in all_of("HTTPRoute"):
    promise("HOST" not in route["spec"]["hostnames"], "route: HOST was not filled in")

for fault in faults:
    print(f"ERROR {fault}")
print(f"{len(objects)} objects, {len(faults)} broken promises")
sys.exit(bool(faults))

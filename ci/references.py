#!/usr/bin/env python3
"""Checks that the objects of rendered manifests fit together: ci/references.py RENDERED.yaml

An API server accepts each object alone. A selector that selects nothing, a port that is not there,
or a network policy without the load balancer show only in the cluster. These are rules for any
service on GKE; the project's own names and numbers are in ci/manifests.py.
"""
import ipaddress
import re
import sys

import yaml

# Google's load balancers and their health checks connect from these ranges:
# https://cloud.google.com/load-balancing/docs/health-check-concepts#ip-ranges
FRONT_ENDS = [ipaddress.ip_network(cidr) for cidr in ("130.211.0.0/22", "35.191.0.0/16")]
ANYWHERE = ipaddress.ip_network("0.0.0.0/0")
METADATA_SERVER = ipaddress.ip_network("169.254.169.254/32")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

with open(sys.argv[1]) as rendered:
    objects = [document for document in yaml.safe_load_all(rendered) if document]
faults = []


def require(kept, about, text):
    """Records a fault of the object `about` unless `kept` is true."""
    if not kept:
        faults.append(f"{about['kind']}/{about['metadata']['name']}: {text}")


def of(*kinds):
    return [o for o in objects if o["kind"] in kinds]


def namespace(o):
    return o["metadata"].get("namespace", "default")


def find(kind, within, name):
    return next((o for o in of(kind) if (namespace(o), o["metadata"]["name"]) == (within, name)), None)


def selects(selector, labels):
    """Returns whether a label selector matches; an empty selector matches everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, values = labels.get(rule["key"]), rule.get("values", [])
        holds = {"In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None}
        if not holds[rule["operator"]]:
            return False
    return True


def template(deployment):
    return deployment["spec"]["template"]


def labels(deployment):
    return template(deployment)["metadata"].get("labels", {})


def selected(selector, within):
    return [d for d in of("Deployment") if namespace(d) == within and selects(selector, labels(d))]


def containers(deployment):
    spec = template(deployment)["spec"]
    return spec["containers"] + spec.get("initContainers", [])


def ports(deployment):
    """Returns the container ports by name."""
    return {p.get("name"): p["containerPort"] for c in containers(deployment) for p in c.get("ports", [])}


def number(port, deployment):
    """Returns the number of a port, given by name or number; None if no container has it."""
    known = ports(deployment)
    return known.get(port) if isinstance(port, str) else port if port in known.values() else None


def quantity(text):
    """Returns the value of a Kubernetes quantity (`500m`, `1Gi`), or None if it is not one."""
    parts = re.fullmatch(r"([0-9.]+)([mkMGT]?|[KMGT]i)", str(text))
    return float(parts[1]) * UNITS[parts[2]] if parts else None


def check_deployment(d):
    spec, within = template(d)["spec"], namespace(d)
    rollout = d["spec"].get("strategy", {}).get("rollingUpdate", {})
    stuck = all(rollout.get(key) in (0, "0%") for key in ("maxSurge", "maxUnavailable"))
    require(not stuck, d, "maxSurge and maxUnavailable are both 0: a rollout cannot proceed")
    account = spec.get("serviceAccountName", "default")
    require(account == "default" or find("ServiceAccount", within, account), d, f"service account {account} is not defined")
    require(selects(d["spec"]["selector"], labels(d)), d, "the selector does not match the pod's labels")
    for spread in spec.get("topologySpreadConstraints", []):
        require(selects(spread.get("labelSelector"), labels(d)), d, "a spread constraint does not select its own pods")
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            require(find("ConfigMap", within, name), d, f"volume {volume['name']}: ConfigMap {name} is not defined")
    for container in containers(d):
        check_container(d, container)
        check_environment(d, container)
    for container in spec["containers"]:
        check_probes(d, container)


def check_container(d, container):
    spec, image = template(d)["spec"], container["image"]
    pinned = "@sha256:" in image or (":" in image.split("/")[-1] and not image.endswith(":latest"))
    require(pinned, d, f"image {image} has no tag or digest that stays")
    volumes = {v["name"] for v in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        require(mount["name"] in volumes, d, f"mount {mount['name']} has no volume")

    requests, limits = (container.get("resources", {}).get(part, {}) for part in ("requests", "limits"))
    for resource in ("cpu", "memory"):
        require(resource in requests, d, f"{container['name']} requests no {resource}: autoscaler and Autopilot need it")
    require("memory" in limits, d, f"{container['name']} has no memory limit")
    for resource, value in [*requests.items(), *limits.items()]:
        require(quantity(value) is not None, d, f"{resource} {value} is not a quantity")
    for resource in requests.keys() & limits.keys():
        fits = (quantity(requests[resource]) or 0) <= (quantity(limits[resource]) or 0)
        require(fits, d, f"{resource}: the request {requests[resource]} exceeds the limit {limits[resource]}")

    # The Pod Security Standard "restricted", and a root filesystem that nothing can change.
    security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    require(security.get("runAsNonRoot") is True, d, "runAsNonRoot is not true")
    require(security.get("allowPrivilegeEscalation") is False, d, "allowPrivilegeEscalation is not false")
    require("ALL" in security.get("capabilities", {}).get("drop", []), d, "capabilities are not dropped")
    profile = security.get("seccompProfile", {}).get("type")
    require(profile in ("RuntimeDefault", "Localhost"), d, "no seccomp profile")
    require(security.get("readOnlyRootFilesystem") is True, d, "the root filesystem is writable")


def check_environment(d, container):
    for source in container.get("envFrom", []):
        name = source.get("configMapRef", {}).get("name")
        require(not name or find("ConfigMap", namespace(d), name), d, f"envFrom: ConfigMap {name} is not defined")
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        if reference:
            config = find("ConfigMap", namespace(d), reference["name"]) or {}
            known = reference["key"] in config.get("data", {})
            require(known, d, f"{variable['name']}: ConfigMap {reference['name']} has no key {reference['key']}")


def check_probes(d, container):
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            require(name == "startupProbe", d, f"{container['name']} has no {name}")
            continue
        handlers = [probe[h] for h in ("httpGet", "tcpSocket", "grpc", "exec") if h in probe]
        require(len(handlers) == 1, d, f"{name} needs exactly one handler")
        for handler in handlers:
            known = "port" not in handler or number(handler["port"], d)
            require(known, d, f"{name}: port {handler.get('port')} is not a container port")
    asked = [container.get(name, {}).get("httpGet") for name in ("livenessProbe", "readinessProbe")]
    require(not asked[0] or asked[0] != asked[1], d, "liveness equals readiness: an outage elsewhere would restart the pods")


def check_autoscaler(hpa):
    spec, target = hpa["spec"], hpa["spec"]["scaleTargetRef"]
    scaled = find(target["kind"], namespace(hpa), target["name"])
    require(scaled, hpa, f"{target['kind']}/{target['name']} is not defined")
    require(not scaled or "replicas" not in scaled["spec"], hpa, "its target sets replicas: every apply would reset them")
    require(spec.get("minReplicas", 1) <= spec["maxReplicas"], hpa, "minReplicas exceeds maxReplicas")
    require(spec.get("metrics"), hpa, "no metrics")


def check_disruption_budget(pdb):
    spec, pods = pdb["spec"], selected(pdb["spec"].get("selector"), namespace(pdb))
    require(pods, pdb, "selects no deployment")
    require(("minAvailable" in spec) != ("maxUnavailable" in spec), pdb, "needs exactly one of minAvailable and maxUnavailable")
    fixed = [d["spec"]["replicas"] for d in pods if "replicas" in d["spec"]]
    fewest = min([h["spec"].get("minReplicas", 1) for h in of("HorizontalPodAutoscaler")] + fixed, default=1)
    least = spec.get("minAvailable")
    blocks = spec.get("maxUnavailable") in (0, "0%") or least == "100%" or (isinstance(least, int) and least >= fewest)
    require(not blocks, pdb, "no pod may ever be evicted: an upgrade of nodes would hang")


def check_service(service):
    pods = selected({"matchLabels": service["spec"]["selector"]}, namespace(service))
    require(pods, service, "selects no deployment")
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        for d in pods:
            require(number(target, d), service, f"targetPort {target} is not a port of {d['metadata']['name']}")


def check_route(route):
    within, spec = namespace(route), route["spec"]
    require(spec.get("parentRefs"), route, "no parentRefs: it is attached to nothing")
    for parent in spec.get("parentRefs", []):
        gateway = find("Gateway", parent.get("namespace", within), parent["name"])
        require(gateway, route, f"Gateway {parent['name']} is not defined")
        listeners = [listener["name"] for listener in gateway["spec"]["listeners"]] if gateway else []
        section = parent.get("sectionName")
        require(section is None or section in listeners, route, f"Gateway {parent['name']} has no listener {section}")
    for backend in (b for rule in spec.get("rules", []) for b in rule.get("backendRefs", [])):
        require(backend.get("namespace", within) == within, route, "a backend in another namespace needs a ReferenceGrant")
        service = find("Service", within, backend["name"])
        known = service and backend.get("port") in [p["port"] for p in service["spec"]["ports"]]
        require(known, route, f"no Service {backend['name']} with port {backend.get('port')}")


def check_policies():
    """Checks GKE's policies: each has a target, and each target has one policy of a kind."""
    seen = set()
    for policy in of("GCPBackendPolicy", "HealthCheckPolicy", "GCPGatewayPolicy"):
        target = policy["spec"]["targetRef"]
        key = (target["kind"], target.get("namespace", namespace(policy)), target["name"])
        require(find(*key), policy, f"its target {key[0]}/{key[2]} is not defined")
        require((policy["kind"], key) not in seen, policy, "a second policy of this kind on one target: GKE ignores it")
        seen.add((policy["kind"], key))


def check_monitoring(monitoring):
    pods = selected(monitoring["spec"]["selector"], namespace(monitoring))
    require(pods, monitoring, "selects no deployment")
    for endpoint in monitoring["spec"]["endpoints"]:
        for d in pods:
            require(number(endpoint["port"], d), monitoring, f"port {endpoint['port']} is not a port of {d['metadata']['name']}")


def lets_through(rules, direction, network, port, d):
    """Returns whether one of a network policy's rules admits `port` from or to all of `network`."""
    for rule in rules:
        open_ports = [p.get("port") for p in rule.get("ports", [])]
        if open_ports and port not in open_ports and port not in [number(p, d) for p in open_ports]:
            continue
        peers = rule.get(direction)
        blocks = [ipaddress.ip_network(peer["ipBlock"]["cidr"]) for peer in peers or [] if "ipBlock" in peer]
        if not peers or any(network.subnet_of(block) for block in blocks):
            return True
    return False


def check_network(d):
    """Checks that network policies admit load balancer, metrics, DNS and Google's APIs."""
    policies = [p["spec"] for p in of("NetworkPolicy") if namespace(p) == namespace(d) and selects(p["spec"]["podSelector"], labels(d))]
    incoming = [p for p in policies if "Ingress" in p.get("policyTypes", ["Ingress"])]
    outgoing = [p for p in policies if "Egress" in p.get("policyTypes", ["Egress"] if "egress" in p else [])]
    enter = [rule for p in incoming for rule in p.get("ingress", [])]
    leave = [rule for p in outgoing for rule in p.get("egress", [])]
    if incoming and of("HTTPRoute"):
        for service in of("Service"):
            if d not in selected({"matchLabels": service["spec"]["selector"]}, namespace(service)):
                continue
            for port in service["spec"]["ports"]:
                target = number(port.get("targetPort", port["port"]), d)
                for network in FRONT_ENDS:
                    admitted = lets_through(enter, "from", network, target, d)
                    require(admitted, d, f"network policy: the load balancer's {network} cannot reach port {target}")
    if incoming and of("PodMonitoring"):
        scraped = any("namespaceSelector" in peer for rule in enter for peer in rule.get("from", []))
        require(scraped, d, "network policy: the metrics' collectors cannot reach the pods")
    if outgoing:
        # DNS is a service of the cluster: a rule may name its pods instead of an address.
        dns = any(p.get("port") == 53 for rule in leave for p in rule.get("ports", []))
        require(dns or lets_through(leave, "to", ANYWHERE, 53, d), d, "network policy: the pods cannot reach DNS")
        for what, network, port in (("Google's APIs", ANYWHERE, 443), ("the metadata server", METADATA_SERVER, 80)):
            reached = lets_through(leave, "to", network, port, d)
            require(reached, d, f"network policy: the pods cannot reach {what} on port {port}")


def check_network_policy(policy):
    require(selected(policy["spec"]["podSelector"], namespace(policy)), policy, "selects no deployment")


CHECKS = {
    "Deployment": [check_deployment, check_network],
    "HorizontalPodAutoscaler": [check_autoscaler],
    "PodDisruptionBudget": [check_disruption_budget],
    "Service": [check_service],
    "HTTPRoute": [check_route],
    "PodMonitoring": [check_monitoring],
    "NetworkPolicy": [check_network_policy],
}
names = [(o["kind"], namespace(o), o["metadata"]["name"]) for o in objects]
for o in objects:
    require(names.count((o["kind"], namespace(o), o["metadata"]["name"])) == 1, o, "defined twice")
    for check in CHECKS.get(o["kind"], []):
        check(o)
check_policies()

for fault in faults:
    print(f"ERROR {fault}")
print(f"{len(objects)} objects, {len(faults)} faults between them")
sys.exit(bool(faults))

#!/usr/bin/env python3
"""Checks the Helm chart against kustomize and against its own schema: ci/chart.py K8S_DIR | --write

Helm's own library renders and lints, in this process and without a cluster. Where a folder of
kustomize has the same objects, each must be equal. It must never hold a number of the chart: the
numbers are those of kustomize, and of the code for the drain.
"""
import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import helm_python
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMESPACE = "pubsub-relay"
# The oldest control plane that GKE's regular channel still runs, as in ci/manifests.
KUBERNETES = re.search(r"^KUBERNETES=(\S+)", (ROOT / "ci/manifests").read_text(), re.M)[1]
faults = []

# What each rendering is made of: examples of the chart, later ones on top; then the folder of
# kustomize with the same objects; then the checkers of ci/ that it must pass.
COMPLETE = ("schemas", "references", "manifests")
RENDERINGS = {
    "defaults": ([], "base", ("schemas", "references")),
    "gke": (["gke"], "overlays/gke", COMPLETE),
    "gke, secret": (["gke", "secret"], "overlays/gke-secret", COMPLETE),
    "gke, debug, admin, control": (["gke", "debug", "admin", "control"], None, COMPLETE),
    "gke, secret, debug, traces": (["gke", "secret", "debug", "traces"], None, COMPLETE),
    "gke, cloud-sql": (["gke", "cloud-sql"], "overlays/gke-postgres", COMPLETE),
    "emulator": (["emulator"], "overlays/local", COMPLETE),
    "postgres": (["postgres"], None, ("schemas", "references")),
    "rabbitmq": (["rabbitmq"], None, ("schemas", "references")),
}
# Objects of kustomize that are no part of the chart: the emulator of a trial.
NOT_IN_CHART = {("Deployment", "pubsub-emulator"), ("Service", "pubsub-emulator")}
# Objects that an example needs from its reader.
READERS_OWN = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "relay-schema", "namespace": NAMESPACE}, "data": {}}]


def drain_end():
    """Returns how long a pod takes to close after the drain's deadline, in seconds (src/pod/drain.rs)."""
    text = (ROOT / "src/pod/drain.rs").read_text()
    waits = dict(re.findall(r"const (\w+): Duration = Duration::from_secs\((\d+)\)", text))
    return 2 * int(waits["CLOSE_STEP_TIMEOUT"]) + int(waits["TELEMETRY_TIMEOUT"])


# Values that the chart must refuse, on top of the example gke: what is wrong, the values, and a part
# of the message.
REFUSED = [
    ("a misspelt value", {"replica": 3}, "replica"),
    ("a misspelt setting", {"settings": {"RELAY_QUEUE_SIZE": "1MiB"}}, "RELAY_QUEUE_SIZE"),
    ("a secret in a ConfigMap", {"settings": {"RELAY_JWT_SECRET": "x" * 32}}, "RELAY_JWT_SECRET"),
    ("a number as a setting", {"settings": {"RELAY_MAX_CONNECTIONS": 20000}}, "got number"),
    ("a password in the broker's URL", {"settings": {"RELAY_BROKER": "postgres://u:p@db/app"}}, "RELAY_BROKER"),
    ("a password in RabbitMQ's URL", {"settings": {"RELAY_BROKER": "amqps://u:p@mq/%2f"}}, "RELAY_BROKER"),
    ("a password of the broker in a ConfigMap", {"settings": {"RELAY_BROKER_PASSWORD": "secret"}}, "RELAY_BROKER_PASSWORD"),
    ("a proxy that no pod uses", {"gke": {"cloudSql": {"enabled": True, "instance": "p:r:n"}}}, "the proxy listens there"),
    ("a proxy without a database", {"settings": {"RELAY_BROKER": "postgres://127.0.0.1/relay"}, "gke": {"cloudSql": {"enabled": True}}}, "instance"),
    ("another port", {"settings": {"RELAY_LISTEN": "0.0.0.0:3000"}}, "RELAY_LISTEN"),
    ("a grace that cuts off the drain", {"terminationGracePeriodSeconds": 70 + drain_end() - 1}, "terminationGracePeriodSeconds"),
    ("a drain that ends after its deadline", {"settings": {"RELAY_DRAIN_SPREAD": "55s"}}, "must end before"),
    ("demo users on the real Pub/Sub", {"settings": {"RELAY_AUTH": "demo"}}, "needs settings.RELAY_AUTH=jwt"),
    ("many pods without a broker", {"settings": {"RELAY_BROKER": ""}}, "in-memory broker"),
    ("an autoscaler and a number of pods", {"replicas": 3}, "replicas would undo"),
    ("an autoscaler without metrics", {"gke": {"monitoring": {"enabled": False}}}, "enable both"),
    ("a gateway without a host", {"gke": {"gateway": {"host": ""}}}, "host"),
    ("WebSockets that end too soon", {"gke": {"gateway": {"timeoutSeconds": 30}}}, "timeoutSeconds"),
    ("a tag that moves", {"image": {"tag": "latest"}}, "tag"),
    ("a digest that is none", {"image": {"digest": "sha256:12"}}, "digest"),
    ("a file of a Secret and of a ConfigMap", {"files": {"RELAY_SCHEMA": {"secret": "a", "configMap": "a", "key": "b"}}}, "RELAY_SCHEMA"),
    ("a file for what is no file", {"files": {"RELAY_BROKER": {"secret": "a", "key": "b"}}}, "RELAY_BROKER"),
    ("one setting from two places", {"files": {"RELAY_JWT_JWKS": {"configMap": "a", "key": "b"}}}, "in settings and in files"),
    ("a container without a memory limit", {"resources": {"limits": None}}, "limits"),
]


def fault(where, text):
    faults.append(f"{where}: {text}")


def merge(base, over):
    """Returns values as Helm merges them: objects by key, all else replaced."""
    out = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


def example(chart, *names):
    values = {}
    for name in names:
        values = merge(values, yaml.safe_load((chart / f"examples/{name}.yaml").read_text()))
    return values


def render(chart, values):
    """Returns the objects, without NOTES.txt."""
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values, name="relay", namespace=NAMESPACE)
    texts = [text for path, text in sorted(files.items()) if not path.endswith(".txt")]
    return [o for text in texts for o in yaml.safe_load_all(text) if o]


def by_name(objects):
    """Returns the objects by kind and name. What the two tools write differently becomes equal.

    Kustomize puts a hash of the settings into the ConfigMap's name, the chart into an annotation of
    the pods. An empty setting counts as not set.
    """
    out = {}
    for o in copy.deepcopy(objects):
        if o["kind"] == "ConfigMap":
            o["metadata"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"])
            o["data"] = {name: value for name, value in o["data"].items() if value}
        if o["kind"] == "Deployment":
            template = o["spec"]["template"]
            annotations = template["metadata"].get("annotations", {})
            annotations.pop("checksum/settings", None)
            if not annotations:
                template["metadata"].pop("annotations", None)
            for container in template["spec"]["containers"]:
                for source in container.get("envFrom", []):
                    source["configMapRef"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", source["configMapRef"]["name"])
        out[o["kind"], o["metadata"]["name"]] = o
    return out


def differences(ours, theirs, path=""):
    """Yields where two objects differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(key), theirs.get(key), f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for n, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{path}/{n}")
    elif ours != theirs:
        yield f"{path}: the chart has {json.dumps(ours)}, kustomize {json.dumps(theirs)}"


def kustomize(folder):
    text = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout
    return [o for o in yaml.safe_load_all(text) if o]


def compare(where, objects, folder):
    ours, theirs = by_name(objects), by_name(kustomize(folder))
    for key in NOT_IN_CHART & theirs.keys():
        del theirs[key]
    if ("Deployment", "relay") in theirs and folder.name == "base":
        # The base has no image: the overlays name one, and the chart that of its own release.
        for objects in (ours, theirs):
            objects["Deployment", "relay"]["spec"]["template"]["spec"]["containers"][0].pop("image")
    for kind, name in sorted(ours.keys() | theirs.keys()):
        for text in differences(ours.get((kind, name)), theirs.get((kind, name))):
            fault(where, f"{kind}/{name}{text[:300]}")


def check(where, objects, checkers):
    """Runs the overlays' checkers on the objects."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(objects, file)
        file.flush()
        commands = [["kubernetes-validate", "--strict", "--quiet", "--no-warn", "--kubernetes-version", KUBERNETES]]
        commands += [[sys.executable, ROOT / f"ci/{checker}.py"] for checker in checkers]
        for command in commands:
            run = subprocess.run([*command, file.name], capture_output=True, text=True, check=False)
            if run.returncode:
                fault(where, f"{pathlib.Path(command[-1]).name}: {(run.stdout + run.stderr).strip()[-400:]}")


def lint(where, chart, values):
    report = helm_python.lint(chart, values, strict=True, namespace=NAMESPACE, kube_version=f"v{KUBERNETES}")
    found = [m for m in report["messages"] if m["severity"] > 1]
    for message in found:
        fault(where, f"lint: {message['path']}: {message['error']}")
    if report["errors"] and not found:
        fault(where, f"lint: {report['errors']}")


def refuses(chart, what, values, says):
    try:
        render(chart, merge(example(chart, "gke"), values))
    except helm_python.HelmError as error:
        if says not in str(error):
            fault("refused", f"{what}: the message is without '{says}': {str(error)[:300]}")
        return
    fault("refused", f"{what}: it is rendered")


def setting_names():
    """Returns the names of settings and of files that docs/CONFIG.md allows in the chart."""
    text = (ROOT / "docs/CONFIG.md").read_text()
    rows = re.findall(r"^\| `(RELAY_[A-Z_]+|PUBSUB_EMULATOR_HOST)` \|.*\| ([^|]*) \|$", text, re.M)
    # A text that is secret can come from a file, too: only that way leads past the ConfigMap.
    names = {name for name, _ in rows}
    files = {name for name, values in rows if re.search(r"\b(file|PEM)\b", values) and not name.startswith("RELAY_ALLOWED")}
    secrets = {name.removesuffix("_FILE") for name in files} & names - files
    pods_own = {"RELAY_POD"}  # each pod has a name of its own
    texts = names - secrets - pods_own - {name for name in files if name.endswith("_FILE")}
    return sorted(texts), sorted(files)


def schema_path(chart):
    return chart / "values.schema.json"


def schema_names(schema):
    """Returns the two lists of names in the schema: of settings, and of files."""
    of = schema["properties"]
    return of["settings"]["propertyNames"]["anyOf"][1]["enum"], of["files"]["propertyNames"]["enum"]


def write_names(chart):
    text = schema_path(chart).read_text()
    for key, names in zip(("settings", "files"), setting_names()):
        pattern = rf'("{key}": \{{.*?"enum": )\[[^\]]*\]'
        text = re.sub(pattern, lambda found, names=names: found[1] + json.dumps(names), text, count=1, flags=re.S)
    schema_path(chart).write_text(text)


def check_files(chart):
    """Checks what stands beside the templates: versions, schema, README, archive."""
    meta = yaml.safe_load((chart / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for key in ("version", "appVersion"):
        if meta[key] != version:
            fault("Chart.yaml", f"{key} is {meta[key]}, that of Cargo.toml {version}")
    schema = json.loads(schema_path(chart).read_text())
    for found, wanted in zip(schema_names(schema), setting_names()):
        if found != wanted:
            fault("values.schema.json", f"not the names of docs/CONFIG.md: {sorted(set(found) ^ set(wanted))}; ci/chart --write lists them")
    readme = (chart / "README.md").read_text()

    def leaves(values, path=""):
        for key, value in values.items():
            name = f"{path}.{key}".lstrip(".")
            yield from leaves(value, name) if isinstance(value, dict) and value and key != "settings" else [name]

    values = yaml.safe_load((chart / "values.yaml").read_text())
    rows = {row for row in re.findall(r"^\| `([A-Za-z.]+)` \|", readme, re.M) if not row.endswith(".yaml")}
    named = {name for name in leaves(values) if not name.startswith("resources.")} | {"resources"}
    if rows != named:
        fault("README.md", f"its table and values.yaml differ: {sorted(rows ^ named)}")
    for name in sorted(p.stem for p in (chart / "examples").glob("*.yaml")):
        if not any(name in examples for examples, _, _ in RENDERINGS.values()):
            fault(f"examples/{name}.yaml", "never rendered")
    with tempfile.TemporaryDirectory() as folder:
        with helm_python.Chart.load(chart) as loaded:
            archive = loaded.save(folder)
        if render(pathlib.Path(archive), example(chart, "gke")) != render(chart, example(chart, "gke")):
            fault("archive", "renders otherwise than the folder")


def settings_roll_out(chart):
    """Checks that a changed setting changes the pods, and nothing else does."""
    sums = []
    for settings in ({}, {}, {"RELAY_LOG": "debug"}):
        deployment = by_kind(render(chart, merge(example(chart, "gke"), {"settings": settings})), "Deployment")
        sums.append(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])
    if sums[0] != sums[1] or sums[0] == sums[2]:
        fault("checksum", "a changed setting must be a rollout, and an unchanged one none")


def by_kind(objects, kind):
    return next(o for o in objects if o["kind"] == kind)


def main():
    if sys.argv[1] == "--write":
        write_names(ROOT / "k8s/chart")
        return
    k8s = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as copied:
        # Helm logs each link that it follows. In the copy they are files.
        check_all(k8s, shutil.copytree(k8s / "chart", pathlib.Path(copied) / "chart"))


def check_all(k8s, chart):
    for where, (examples, folder, checkers) in RENDERINGS.items():
        values = example(chart, *examples)
        lint(where, chart, values)
        try:
            objects = render(chart, values)
            # With the namespace, as kustomize has it. Without, there must be no other difference.
            whole = render(chart, merge(values, {"namespace": {"create": True}}))
        except helm_python.HelmError as error:
            fault(where, str(error)[:400])
            report()
        if [o for o in whole if o["kind"] != "Namespace"] != objects:
            fault(where, "namespace.create changes more than the namespace")
        if folder:
            compare(where, whole, k8s / folder)
        if where == "emulator":
            whole += [o for o in kustomize(k8s / folder) if (o["kind"], o["metadata"]["name"]) in NOT_IN_CHART]
        check(where, whole + READERS_OWN, checkers)
        print(f"chart: {where}: {len(whole)} objects" + (f", as {folder} has them" if folder else ""))
        # One fault shows in most of the renderings: the first is enough.
        if faults:
            report()
    for refused in REFUSED:
        refuses(chart, *refused)
    print(f"chart: {len(REFUSED)} kinds of values refused")
    check_files(chart)
    settings_roll_out(chart)
    report()


def report():
    for text in faults:
        print(f"ERROR {text}")
    sys.exit(bool(faults))


main()

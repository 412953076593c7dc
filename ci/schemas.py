#!/usr/bin/env python3
"""Checks custom resources of rendered manifests against schemas: ci/schemas.py RENDERED.yaml

The schemas are in ci/crds. An API server drops a field that it does not know; here it is an error.
Rules in CEL are not checked: only the API server runs them. It must never pass an object for want
of a schema.
"""
import pathlib
import sys

import jsonschema
import yaml

FOLDER = pathlib.Path(__file__).resolve().parent / "crds"
# Kinds that kubernetes-validate checks. It passes any other kind and version without a word.
BUILT_IN = {
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "ConfigMap"),
    ("v1", "Namespace"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
}
# Keywords whose schemas add conditions to one that is closed already.
CONDITIONS = ("oneOf", "anyOf", "allOf", "not")


def strict(schema, closed=True):
    """Returns JSON schema for one of Kubernetes. Where `closed`, it refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(item, closed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {key: strict(value, closed and key not in CONDITIONS) for key, value in schema.items() if not key.startswith("x-")}
    if "properties" in schema:
        # The names of properties are not keywords: a property may be called `not`.
        out["properties"] = {name: strict(value, closed) for name, value in schema["properties"].items()}
        is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
        if closed and not is_open:
            out["additionalProperties"] = False
    if schema.get("nullable"):
        out["type"] = [out["type"], "null"]
    return out


def schemas():
    """Returns a validator for each apiVersion and kind in ci/crds."""
    found = {}
    for path in FOLDER.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            # kubernetes-validate has checked the metadata, as that of any object.
            schema["properties"]["metadata"] = {"type": "object"}
            validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = validator
    return found


known, checked, faults = schemas(), 0, []
with open(sys.argv[1]) as rendered:
    for o in yaml.safe_load_all(rendered):
        kind = o and (o["apiVersion"], o["kind"])
        if not o or kind in BUILT_IN:
            continue
        name, checked = f"{o['kind']}/{o['metadata']['name']}", checked + 1
        if kind not in known:
            faults.append(f"{name}: no schema for {o['apiVersion']}, neither built in nor in ci/crds")
            continue
        errors = known[kind].iter_errors(o)
        faults += [f"{name}: {'/'.join(map(str, e.path))}: {e.message[:160]}" for e in errors]

for fault in faults:
    print(f"ERROR {fault}")
print(f"{checked} custom resources, {len(faults)} against their schemas")
sys.exit(bool(faults))

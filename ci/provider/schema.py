#!/usr/bin/env python3
"""Reads a Terraform provider's schema from a package: ci/provider/schema.py WHEEL OUT.json FOLDER

WHEEL is PyPI's cdktn-provider-google. It contains one JavaScript module for each resource,
generated from the provider's own schema: each attribute's exact name and type, whether it is
computed, optional or required, and whether it is a block. OUT.json has the types that the Terraform
files in FOLDER use.

The package does not say which values an attribute takes, which attributes exclude each other, or
what replaces a resource, so none of that is checked. It must never guess a type: what it cannot
read is `dynamic`.
"""
import collections
import io
import json
import pathlib
import re
import sys
import tarfile
import zipfile

CLASS = re.compile(r"^class (\w+) extends (?:\w+\.)?(\w+) \{", re.M)
ENTRY = re.compile(
    r"^class (\w+) extends (?:\w+\.)?Terraform(Resource|DataSource|Provider) \{.*?terraformResourceType: '([\w-]+)'",
    re.M | re.S,
)
VERSION = re.compile(r"providerName: '[\w-]+',\s+providerVersion: '([\d.]+)'")
ATTRIBUTE = re.compile(r"^ {4}// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)", re.M)
NESTED = re.compile(r'= new (?:\w+\.)?(\w+)\(this, "\w+"(?:, (true|false))?')
GETTER = re.compile(r"this\.(get\w+Attribute|interpolationForAttribute)\(")
FUNCTION = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", re.M | re.S)
INPUT = re.compile(
    r"^ {8,12}(\w+): \{\n\s+value: .*?\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\"",
    re.M,
)
SCALARS = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
GETTERS = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
    "getAnyMapAttribute": ["map", "string"],
}
COLLECTIONS = {
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": ["map", "string"],
    "StringMapList": ["list", ["map", "string"]],
}


def inputs(text):
    """Returns the inputs of a class by name, each as (is a block, shape, class of the value)."""
    return {m[1]: (m[2] == "true", m[3], m[4]) for m in INPUT.finditer(text)}


def scalar(name):
    return SCALARS.get(name.removesuffix("List").removesuffix("Map"), "string")


def function_name(class_name):
    return class_name[0].lower() + class_name[1:]


def object_type(block):
    """Returns Terraform's type of an object with the attributes and blocks of `block`."""
    members = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    for name, nested in block["blocks"].items():
        inner = object_type(nested["block"])
        members[name] = inner if nested["nesting"] == "single" else [nested["nesting"], inner]
    return ["object", members]


class Module:
    """The generated code of one resource, data source, or provider."""

    def __init__(self, source):
        found = list(CLASS.finditer(source))
        ends = [m.start() for m in found[1:]] + [len(source)]
        self.classes = {m[1]: source[m.start() : end] for m, end in zip(found, ends)}
        self.functions = {m[1]: inputs(m[2]) for m in FUNCTION.finditer(source)}

    def block(self, name):
        """Returns the block that a class describes, with all that is nested in it."""
        body = self.classes[name]
        _, at, own = body.partition("synthesizeHclAttributes")
        given = inputs(own) if at else self.functions.get(function_name(name.removesuffix("OutputReference")), {})
        block = {"attributes": {}, "blocks": {}}
        found = list(ATTRIBUTE.finditer(body))
        ends = [m.start() for m in found[1:]] + [len(body)]
        for attribute, end in zip(found, ends):
            self.add(block, attribute, body[attribute.end() : end], given)
        return block

    def add(self, block, attribute, text, given):
        """Adds one attribute or nested block, of which `text` is the code, to `block`."""
        name, computed, optional, required = attribute[1], *(flag == "true" for flag in attribute.group(2, 3, 4))
        is_block, shape, kind = given.get(name, (False, None, None))
        nested, getter = NESTED.search(text), GETTER.search(text)
        if nested and nested[1] not in COLLECTIONS:
            inner, collection, most = self.nested(nested, shape)
            if is_block:
                block["blocks"][name] = {
                    "nesting": "single" if shape == "struct" else collection,
                    "min": int(required),
                    "max": most,
                    "computed": computed or has_answers(inner),
                    "block": inner,
                }
                return
            kind = object_type(inner) if shape == "struct" else [collection, object_type(inner)]
        elif shape == "simple" and kind in SCALARS:
            kind = SCALARS[kind]
        elif shape in ("list", "set", "map") and kind:
            kind = [shape, scalar(kind)]
        elif nested:
            kind = COLLECTIONS[nested[1]]
        else:
            kind = GETTERS.get(getter[1], "dynamic") if getter else "dynamic"
        flags = {"computed": computed, "optional": optional, "required": required}
        block["attributes"][name] = {"type": kind, **flags}

    def nested(self, reference, shape):
        """Returns a nested block, its kind of collection, and the most there may be (0: no limit)."""
        name, in_set = reference[1], reference[2] == "true"
        collection = "set" if shape == "set" or in_set else "list"
        if name.endswith("OutputReference"):
            return self.block(name), collection, 1
        element = re.sub(r"(List|Map)$", "OutputReference", name)
        return self.block(element), "map" if name.endswith("Map") else collection, 0

    def provider(self, name):
        """Returns the provider's own block: all of it is optional; its blocks have no classes."""
        block = {"attributes": {}, "blocks": {}}
        optional = {"computed": False, "optional": True, "required": False}
        for attribute, (is_block, shape, kind) in inputs(self.classes[name]).items():
            if is_block:
                members = self.functions.get(function_name(kind.removesuffix("List")), {})
                inner = {key: {"type": SCALARS.get(member[2], "dynamic"), **optional} for key, member in members.items()}
                nested = {"attributes": inner, "blocks": {}}
                block["blocks"][attribute] = {"nesting": "list", "min": 0, "max": 1, "computed": False, "block": nested}
            else:
                block["attributes"][attribute] = {"type": SCALARS.get(kind) or [shape, scalar(kind)], **optional}
        return block


def has_answers(block):
    """Returns whether the cloud fills in part of a block: then the block counts as computed."""
    return any(a["computed"] and not a["optional"] for a in block["attributes"].values())


def used(folder):
    """Returns the types of resources and data sources that the files and tests name."""
    text = "\n".join(path.read_text() for path in pathlib.Path(folder).rglob("*") if path.suffix in (".tf", ".hcl"))
    return {
        "Resource": set(re.findall(r'^\s*(?:resource|mock_resource|override_resource)\s+"(\w+)"', text, re.M)),
        "DataSource": set(re.findall(r'^\s*(?:data|mock_data|override_data)\s+"(\w+)"', text, re.M)),
    }


def modules(wheel):
    """Returns the source of each module in the package; a large one is in several files."""
    sources = collections.defaultdict(str)
    with zipfile.ZipFile(wheel) as package:
        inner = next(name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(inner)), mode="r:gz") as files:
            for file in files:
                if module := re.fullmatch(r"package/lib/([^/]+)/.*\.js", file.name):
                    sources[module[1]] += files.extractfile(file).read().decode()
    return sources.values()


def main():
    wheel, out, folder = sys.argv[1:]
    wanted = used(folder)
    schema = {"version": None, "provider": None, "Resource": {}, "DataSource": {}}
    for source in modules(wheel):
        entry = ENTRY.search(source)
        if not entry:
            continue
        name, kind, terraform_type = entry.groups()
        if kind == "Provider":
            schema["provider"] = Module(source).provider(name)
        elif terraform_type.removeprefix("data_") in wanted[kind]:
            schema["version"] = VERSION.search(source)[1]
            schema[kind][terraform_type.removeprefix("data_")] = Module(source).block(name)
    pathlib.Path(out).write_text(json.dumps(schema))
    print(schema["version"])


main()

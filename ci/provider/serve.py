"""A Terraform provider with a real schema and no cloud: it invents what the cloud would answer.

    ci/provider/serve.py SCHEMA SOCKET

SCHEMA is what schema.py wrote. It prints the value of TF_REATTACH_PROVIDERS that leads Terraform to
it, and serves on SOCKET until it is killed. Terraform itself then checks arguments, types, blocks,
references and expressions, plans, applies into a local state, and runs tests. It must never connect
to anything, nor keep anything from one call to the next.
"""
import hashlib
import json
import os
import pathlib
import sys
from concurrent import futures

import grpc
import msgpack
from tf.gen import tfplugin_pb2 as protocol
from tf.gen import tfplugin_pb2_grpc as service

SCHEMA = json.loads(pathlib.Path(sys.argv[1]).read_text())
# The protocol's mark for a value that is known only after apply.
UNKNOWN = msgpack.ExtType(0, b"\0")
NESTING = {kind: getattr(protocol.Schema.NestedBlock, kind.upper()) for kind in ("list", "set", "single", "map")}


def pack(value):
    return protocol.DynamicValue(msgpack=msgpack.packb(value, use_bin_type=True))


def unpack(value):
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, ext_hook=lambda code, data: UNKNOWN, strict_map_key=False)
    return json.loads(value.json) if value.json else None


def is_unknown(value):
    return isinstance(value, msgpack.ExtType)


def described(block):
    """Returns a block of the schema as the protocol describes it."""
    attributes = [
        protocol.Schema.Attribute(
            name=name,
            type=json.dumps(a["type"]).encode(),
            required=a["required"],
            optional=a["optional"] and not a["required"],
            computed=a["computed"] and not a["required"],
        )
        for name, a in sorted(block["attributes"].items())
    ]
    blocks = [
        protocol.Schema.NestedBlock(
            type_name=name,
            block=described(nested["block"]),
            nesting=NESTING[nested["nesting"]],
            min_items=0 if nested["nesting"] == "single" else nested["min"],
            max_items=0 if nested["nesting"] in ("single", "map") else nested["max"],
        )
        for name, nested in sorted(block["blocks"].items())
    ]
    return protocol.Schema.Block(version=0, attributes=attributes, block_types=blocks)


def schemas(kind):
    return {name: protocol.Schema(block=described(block)) for name, block in SCHEMA[kind].items()}


def object_type(block):
    members = {name: a["type"] for name, a in block["attributes"].items()}
    for name, nested in block["blocks"].items():
        inner = object_type(nested["block"])
        members[name] = inner if nested["nesting"] == "single" else [nested["nesting"], inner]
    return ["object", members]


def invented(kind, path):
    """Returns a value of Terraform's type `kind`: the same one for the same path in every run."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    match kind:
        case "string":
            return f"invented-{digest[:8]}"
        case "number":
            return int(digest[:6], 16)
        case "bool":
            return False
        case ["object", members]:
            return {name: invented(member, f"{path}.{name}") for name, member in members.items()}
        case ["map", _]:
            return {}
        case ["list" | "set", element] if element != "string":
            return [invented(element, f"{path}[0]")]
        case ["list" | "set", _]:
            return []
    return None


def rebuilt(block, value, attribute, absent, path):
    """Returns a block's value with `attribute` applied to each attribute, and `absent` to each
    computed block that the configuration leaves out."""
    if value is None or is_unknown(value):
        return value
    out = {name: attribute(a, value.get(name), f"{path}.{name}") for name, a in block["attributes"].items()}
    for name, nested in block["blocks"].items():
        inner, at = value.get(name), f"{path}.{name}"
        is_absent = not inner and nested["computed"] and nested["nesting"] != "single"
        if is_unknown(inner) or is_absent:
            inner = absent(nested, inner, at)
        elif isinstance(inner, list):
            inner = [rebuilt(nested["block"], item, attribute, absent, f"{at}[{n}]") for n, item in enumerate(inner)]
        elif isinstance(inner, dict) and nested["nesting"] == "single":
            inner = rebuilt(nested["block"], inner, attribute, absent, at)
        out[name] = inner
    return out


def planned(block, value, path):
    """Returns what a plan for a new resource shows: everything computed is unknown."""
    return rebuilt(
        block,
        value,
        lambda a, given, at: UNKNOWN if given is None and a["computed"] else given,
        lambda nested, given, at: UNKNOWN,
        path,
    )


def applied(block, value, path):
    """Returns the planned value with everything unknown invented."""
    return rebuilt(
        block,
        value,
        lambda a, given, at: concrete(given, a["type"], at),
        lambda nested, given, at: [invented(object_type(nested["block"]), at)] if is_unknown(given) else given,
        path,
    )


def concrete(value, kind, path):
    if is_unknown(value):
        return invented(kind, path)
    if isinstance(value, dict) and kind[0] == "object":
        return {name: concrete(inner, kind[1][name], f"{path}.{name}") for name, inner in value.items()}
    return value


def read(block, value, path):
    """Returns what a data source finds: everything computed is invented."""
    return rebuilt(
        block,
        value,
        lambda a, given, at: invented(a["type"], at) if given is None and a["computed"] else given,
        lambda nested, given, at: given,
        path,
    )


def updated(block, new, prior):
    """Returns the plan for a change: what the configuration does not say stays as it was."""
    if not isinstance(new, dict) or not isinstance(prior, dict):
        return new
    for name, a in block["attributes"].items():
        if new.get(name) is None and a["computed"]:
            new[name] = prior.get(name)
    for name, nested in block["blocks"].items():
        inner, before = new.get(name), prior.get(name)
        if not inner and nested["computed"]:
            new[name] = before
        elif isinstance(inner, list) and isinstance(before, list):
            for n, item in enumerate(inner):
                updated(nested["block"], item, before[n] if n < len(before) else None)
        elif nested["nesting"] == "single":
            updated(nested["block"], inner, before)
    return new


class Provider(service.ProviderServicer):
    """Terraform's plugin protocol, version 6: the calls that a plan, an apply and a test make."""

    def GetMetadata(self, request, context):
        resources = [protocol.GetMetadata.ResourceMetadata(type_name=name) for name in SCHEMA["Resource"]]
        sources = [protocol.GetMetadata.DataSourceMetadata(type_name=name) for name in SCHEMA["DataSource"]]
        return protocol.GetMetadata.Response(
            server_capabilities=protocol.ServerCapabilities(plan_destroy=False), resources=resources, data_sources=sources
        )

    def GetProviderSchema(self, request, context):
        return protocol.GetProviderSchema.Response(
            provider=protocol.Schema(block=described(SCHEMA["provider"])),
            resource_schemas=schemas("Resource"),
            data_source_schemas=schemas("DataSource"),
        )

    def ValidateProviderConfig(self, request, context):
        return protocol.ValidateProviderConfig.Response()

    def ConfigureProvider(self, request, context):
        return protocol.ConfigureProvider.Response()

    def ValidateResourceConfig(self, request, context):
        return protocol.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return protocol.ValidateDataResourceConfig.Response()

    def GetFunctions(self, request, context):
        return protocol.GetFunctions.Response()

    def StopProvider(self, request, context):
        return protocol.StopProvider.Response()

    def UpgradeResourceState(self, request, context):
        return protocol.UpgradeResourceState.Response(upgraded_state=pack(json.loads(request.raw_state.json)))

    def ReadResource(self, request, context):
        return protocol.ReadResource.Response(new_state=request.current_state, private=request.private)

    def PlanResourceChange(self, request, context):
        block, new, prior = SCHEMA["Resource"][request.type_name], unpack(request.proposed_new_state), unpack(request.prior_state)
        if new is None:
            return protocol.PlanResourceChange.Response(planned_state=request.proposed_new_state)
        plan = planned(block, new, request.type_name) if prior is None else updated(block, new, prior)
        return protocol.PlanResourceChange.Response(planned_state=pack(plan), legacy_type_system=True)

    def ApplyResourceChange(self, request, context):
        block, plan = SCHEMA["Resource"][request.type_name], unpack(request.planned_state)
        if plan is None:
            return protocol.ApplyResourceChange.Response(new_state=request.planned_state)
        name = plan.get("name") or plan.get("account_id") or plan.get("repository_id") or ""
        state = applied(block, plan, f"{request.type_name}{name}")
        return protocol.ApplyResourceChange.Response(new_state=pack(state), legacy_type_system=True)

    def ReadDataSource(self, request, context):
        block = SCHEMA["DataSource"][request.type_name]
        return protocol.ReadDataSource.Response(state=pack(read(block, unpack(request.config), f"data.{request.type_name}")))


def main():
    address = {"Network": "unix", "String": sys.argv[2]}
    server = grpc.server(futures.ThreadPoolExecutor())
    service.add_ProviderServicer_to_server(Provider(), server)
    server.add_insecure_port(f"unix:{address['String']}")
    server.start()
    # Test: Terraform leaves the process alone when it ends.
    here = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True, "Addr": address}
    print(json.dumps({"registry.terraform.io/hashicorp/google": here}), flush=True)
    server.wait_for_termination()


main()

"""Asks a server over gRPC with the client that most of the world uses, and prints what it heard as JSON.

`client.py ADDRESS PROTO_FOLDER`, a JSON call a line in, a JSON answer a line out. The classes are made from the proto file.
"""
import importlib
import json
import sys
import tempfile

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

ADDRESS, PROTO = sys.argv[1:]
FILE = "springhouse/v1/feature_store.proto"


def classes():
    folder = tempfile.mkdtemp()
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", FILE]):
        sys.exit("the proto file can't be compiled")
    sys.path.insert(0, folder)
    return (importlib.import_module("springhouse.v1.feature_store_pb2"),
            importlib.import_module("springhouse.v1.feature_store_pb2_grpc"))


def column(pb, values):
    nulls = [row for row, value in enumerate(values) if value is None]
    some = next((value for value in values if value is not None), 0)
    kinds = {bool: ("bools", pb.Bools), int: ("integers", pb.Integers), float: ("doubles", pb.Doubles),
             str: ("strings", pb.Strings)}
    name, kind = kinds[type(some)]
    return pb.Column(**{name: kind(values=[type(some)() if value is None else value for value in values])}, nulls=nulls)


def plain(column):
    """A column as a list, its nulls as None."""
    kind = column.WhichOneof("kind")
    of = getattr(column, kind)
    if kind in ("lists", "maps"):
        parts = ([plain(of.items)] if kind == "lists" else [plain(of.keys), plain(of.items)])
        values, at = [], 0
        for length in of.lengths:
            pieces = [part[at:at + length] for part in parts]
            values.append(pieces[0] if kind == "lists" else [list(pair) for pair in zip(*pieces)])
            at += length
    else:
        values = list(of.values)
    for row in column.nulls:
        values[row] = None
    return values


class Caller:
    def __init__(self):
        self.pb, services = classes()
        self.channel = grpc.insecure_channel(ADDRESS)
        self.store = services.FeatureStoreStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def features(self, service, entities, request=None, detail="DETAIL_STATUS", timeout=30):
        message = self.pb.GetFeaturesRequest(
            service=service, entities={name: column(self.pb, values) for name, values in entities.items()},
            request={name: column(self.pb, values) for name, values in (request or {}).items()},
            detail=self.pb.Detail.Value(detail))
        answer = self.store.GetFeatures(message, timeout=timeout)
        status = self.pb.Status.Name
        return {feature.name: {"type": feature.type, "values": plain(feature.values),
                               "status": [status(s).removeprefix("STATUS_").lower() for s in feature.statuses]}
                for feature in answer.features}

    def push(self, source, rows, key=""):
        answer = self.store.Push(self.pb.PushRequest(source=source, json=json.dumps(rows).encode(), idempotency_key=key))
        return {"accepted": answer.accepted, "duplicates": answer.duplicates, "refused": answer.refused,
                "codes": [exception.code for exception in answer.exceptions]}

    def checked(self):
        return health_pb2.HealthCheckResponse.ServingStatus.Name(
            self.health.Check(health_pb2.HealthCheckRequest()).status)

    def services(self):
        return sorted(ProtoReflectionDescriptorDatabase(self.channel).get_services())

    def file_of(self, symbol):
        return ProtoReflectionDescriptorDatabase(self.channel).FindFileContainingSymbol(symbol).name


def main():
    caller = Caller()
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {"result": getattr(caller, call.pop("call"))(**call)}
        except grpc.RpcError as error:
            answer = {"status": error.code().name, "message": error.details(),
                      "code": dict(error.trailing_metadata() or ()).get("springhouse-code")}
        print(json.dumps(answer), flush=True)


main()

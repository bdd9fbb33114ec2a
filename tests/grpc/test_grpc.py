"""gRPC with a client that is not ours: the same answers as over HTTP, errors with status and code, health, reflection."""
import json
import os
import pathlib
import random
import struct
import subprocess
import time
import unittest

from springhouse_testing import ROOT, SEED, Client, Project

HERE = pathlib.Path(__file__).parent
USERS = 40

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  events:
    stream: push
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: float64, number: int64, small: int32, single: float32, text: string,
              flag: bool, price: "decimal(20,4)", born: date, tags: list<string>, vector: vector<3>, document: json}
feature_views:
  newest:
    entity: user
    source: events
    ttl: 3650d
    features: [amount, number, small, single, text, flag, price, born, tags, vector, document]
  activity:
    entity: user
    source: events
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [1h, lifetime], default: 0}
      total: {fn: sum, column: amount, windows: [1h]}
      kinds: {fn: count, windows: [1h], group_by: text}
request_views:
  ask:
    fields: {limit: float64!}
    inputs: {spent: "activity:total_1h"}
    features: {over: spent > limit}
feature_services:
  all: {features: [newest, activity, ask]}
"""
# Types that JSON spells otherwise than the column does.
SPELT = {"date", "timestamp", "bytes", "json"}


class Grpc:
    def __init__(self, address):
        environment = os.environ | {"REQUIREMENTS": str(HERE / "requirements.txt")}
        proto = ROOT / "crates/springhouse-api/proto"
        self.process = subprocess.Popen(["sh", ROOT / "scripts/python.sh", HERE / "client.py", address, proto], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def call(self, name, **arguments):
        self.process.stdin.write(json.dumps({"call": name} | arguments) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the gRPC client died")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def row(drawn):
    now = time.time()
    row = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "user_id": drawn.randrange(USERS)}
    candidates = {
        "amount": drawn.choice([0.1, -0.0, 1e308, 5e-324, drawn.gauss(0, 1e6)]), "number": drawn.randrange(-2**63, 2**63),
        "small": drawn.randrange(-2**31, 2**31), "single": drawn.choice([0.1, 1.5, 3.4e38]),
        "text": drawn.choice(["", "é\n", "plain", "x" * 300]), "flag": drawn.random() < 0.5,
        "price": f"{drawn.randrange(-10**15, 10**15)}.0{drawn.randrange(100, 999)}",
        "born": f"19{drawn.randrange(10, 99)}-02-28", "tags": ["a", None, ""][:drawn.randrange(4)],
        "vector": [1.5, -0.0, 0.25], "document": {"deep": [1, {"x": None}]}}
    return row | {name: value for name, value in candidates.items() if drawn.random() < 0.8}


class GrpcTest(unittest.TestCase):
    def test_a_foreign_client_hears_what_http_says(self):
        drawn = random.Random(SEED)
        with Project(DEFINITIONS) as project:
            project.run("apply")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            grpc = Grpc(server.address)
            self.addCleanup(grpc.close)
            self.assertEqual(grpc.call("checked"), {"result": "SERVING"})
            self.assertEqual(grpc.call("services")["result"], [
                "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "springhouse.v1.FeatureStore"])
            self.assertEqual(grpc.call("file_of", symbol="springhouse.v1.FeatureStore")["result"],
                             "springhouse/v1/feature_store.proto")
            rows = [row(drawn) for _ in range(300)]
            pushed = grpc.call("push", source="events", rows=rows, key="first")["result"]
            self.assertEqual((pushed["accepted"], pushed["refused"]), (300, 0), f"seed {SEED}: {pushed}")
            self.assertEqual(grpc.call("push", source="events", rows=rows, key="first")["result"], pushed)
            wrong = grpc.call("push", source="events", rows=[{"user_id": 1}, rows[0] | {"small": "x"}])["result"]
            self.assertEqual((wrong["refused"], wrong["codes"][1]), (2, "wrong_type"))
            users = [*range(USERS), 10**15]
            limits = [drawn.uniform(-1e6, 1e6) for _ in users]
            with Client(server) as client:
                said = client.call("POST", "/v1/features", {"service": "all", "entities": {"user_id": users},
                                                            "request": {"limit": limits}})["features"]
            heard = grpc.call("features", service="all", entities={"user_id": users}, request={"limit": limits})["result"]
            self.assertEqual(list(heard), list(said))
            for name, column in said.items():
                self.assertEqual(heard[name]["type"], column["type"], name)
                self.assertEqual(heard[name]["status"], column["status"], name)
                if column["type"] not in SPELT:
                    values = column["values"]
                    if column["type"] in ("float32", "float64"):
                        values = [float(v) if isinstance(v, str) else v for v in values]
                    if column["type"] == "float32":
                        # JSON has the shortest digits of the single; Python reads them as a double.
                        values = [None if v is None else struct.unpack("f", struct.pack("f", v))[0] for v in values]
                    # repr tells -0.0 from 0.0.
                    self.assertEqual(repr(heard[name]["values"]), repr(values), f"seed {SEED}: {name}")
            days = [None if value is None else time.strftime("%Y-%m-%d", time.gmtime(value * 86_400))
                    for value in heard["born"]["values"]]
            self.assertEqual(days, said["born"]["values"])
            documents = [None if value is None else json.loads(value) for value in heard["document"]["values"]]
            self.assertEqual(documents, said["document"]["values"])
            bare = grpc.call("features", service="all", entities={"user_id": [1]}, request={"limit": [1.0]},
                             detail="DETAIL_VALUES")["result"]
            self.assertEqual({feature["type"] for feature in bare.values()}, {""})
            for call, status, code in [
                    ({"service": "none", "entities": {"user_id": [1]}}, "NOT_FOUND", "unknown_service"),
                    ({"service": "all", "entities": {"user_id": ["x"]}}, "INVALID_ARGUMENT", "wrong_type"),
                    ({"service": "all", "entities": {}}, "INVALID_ARGUMENT", "missing_entity_key")]:
                refusal = grpc.call("features", **call)
                self.assertEqual((refusal["status"], refusal["code"]), (status, code), refusal)
            self.assertEqual(server.stop(), 0, server.tail())


if __name__ == "__main__":
    unittest.main()

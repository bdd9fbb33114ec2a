"""Topics in Avro and Protobuf, written by the libraries of others, with schemas in the definition or from a registry; and a
broker that is reached by TLS with a login."""
import json
import os
import pathlib
import struct
import unittest

from kafka.broker import Broker, Kafka
from kafka.registry import Registry
from springhouse_testing import Client, Project

PATIENCE = 60

DEFINITIONS = """
entities:
  user: {keys: {user_id: string}}
sources:
  clicks:
    stream:
      kafka:
        topic: TOPIC
MORE
    event_time: at
    columns: {at: timestamp!, user_id: string!, amount: float64, number: int64, small: int32, single: float32, flag: bool,
              price: "decimal(20,4)", born: date, tags: list<string>, kind: string, raw: bytes, extra: json}
feature_views:
  newest:
    entity: user
    source: clicks
    ttl: 36500d
    features: [amount, number, small, single, flag, price, born, tags, kind, raw, extra]
  totals:
    entity: user
    source: clicks
    ttl: 36500d
    aggregate:
      events: {fn: count, windows: [lifetime], default: 0}
"""

AVRO = json.dumps({"type": "record", "name": "Click", "namespace": "shop", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "user_id", "type": "string"},
    {"name": "amount", "type": ["null", "float"], "default": None},
    {"name": "number", "type": ["null", "long"], "default": None},
    {"name": "small", "type": "int", "default": 7},
    {"name": "single", "type": ["null", "float"], "default": None},
    {"name": "flag", "type": "boolean", "default": False},
    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}], "default": None},
    {"name": "born", "type": ["null", {"type": "int", "logicalType": "date"}], "default": None},
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["VIEW", "BUY"]}, "default": "VIEW"},
    {"name": "raw", "type": ["null", "bytes"], "default": None},
    {"name": "extra", "type": ["null", {"type": "record", "name": "Extra", "fields": [
        {"name": "source", "type": "string"}, {"name": "other", "type": ["null", "Kind"]}]}], "default": None},
    {"name": "not_a_column", "type": "string", "default": "x"}]})

PROTOBUF = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Kind { VIEW = 0; BUY = 1; }
message Other { string nothing = 1; }
message Envelope {
  message Click {
    message Extra { string source = 1; map<string, int32> counts = 2; optional int32 absent = 3; }
    google.protobuf.Timestamp at = 1;
    string user_id = 2;
    optional float amount = 3;
    google.protobuf.Int64Value number = 4;
    int32 small = 5;
    optional float single = 6;
    bool flag = 7;
    optional string price = 8;
    optional string born = 9;
    repeated string tags = 10;
    Kind kind = 11;
    optional bytes raw = 12;
    Extra extra = 13;
    string not_a_column = 14;
  }
}
"""
MOMENT_MS = 1_767_225_600_123
FULL = {"user_id": "full", "amount": 0.1, "number": 2**62 + 1, "small": -5, "single": 0.1, "flag": True, "tags": ["a", "b"], "kind": "BUY"}
EXPECTED = {"amount": struct.unpack("f", struct.pack("f", 0.1))[0], "number": 2**62 + 1, "small": -5, "single": 0.1, "flag": True,
            "price": "-1234.5600", "born": "1969-12-30", "tags": ["a", "b"], "kind": "BUY", "raw": "AP8="}


def indented(text, spaces):
    return "\n".join(" " * spaces + line for line in text.strip().splitlines())


class FormatTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.broker = Broker("reader", "s3cret")
        cls.addClassCleanup(cls.broker.close)
        cls.kafka = Kafka(cls.broker.address)
        cls.addClassCleanup(cls.kafka.close)
        cls.topics = 0

    def topic(self):
        type(self).topics += 1
        name = f"formats-{self.topics}"
        self.kafka.create(name, 1)
        return name

    def project(self, text, settings):
        return Project(text, settings)

    def serve(self, topic, more, settings=""):
        text = DEFINITIONS.replace("TOPIC", topic).replace("MORE", indented(more, 8))
        address = f'brokers: ["{self.broker.address}"], ' if "brokers" not in settings else ""
        project = self.project(text, f"project: test\nkafka: {{{address}metadata_interval_ms: 300{settings}}}\n")
        self.addCleanup(project.__exit__, None, None, None)
        project.run("apply")
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return project, server

    def wait(self, server, what, holds):
        return server.eventually(what, holds, PATIENCE)

    def wait_count(self, server, user, count):
        def holds(client):
            return client.features(["totals:events_lifetime"], {"user_id": [user]})["events_lifetime"]["values"] == [count]
        self.wait(server, f"{count} events of {user}", holds)

    def wait_letters(self, server, count):
        def holds(client):
            letters = client.call("GET", "/v1/dead-letters/clicks")["dead_letters"]
            return letters if len(letters) >= count else None
        letters = self.wait(server, f"{count} dead letters", holds)
        self.assertEqual(len(letters), count, letters)
        return letters

    def wait_told(self, server, why):
        """The status says that the topic is not read, the log says why."""
        def holds(client):
            is_failing = client.call("GET", "/v1/status")["topics"][0]["failing"]
            return is_failing and any(why in line for line in server.log)
        self.wait(server, f"`{why}` in the log", holds)

    def produce(self, topic, values):
        self.kafka.produce(topic, [{"base64": value} for value in values])

    def check(self, server, user, expected, extra):
        with Client(server) as client:
            got = client.features(["newest"], {"user_id": [user]}, full=True)
        for name, value in expected.items():
            self.assertEqual(got[name]["values"], [value], name)
        found = got["extra"]["values"][0]
        self.assertEqual(json.loads(found) if isinstance(found, str) else found, extra)
        self.assertEqual(got["amount"]["event_time"], ["2026-01-01T00:00:00.123000Z"])

    def avro_rows(self):
        full = FULL | {"at": MOMENT_MS, "price": {"decimal": "-1234.56"}, "born": -2, "raw": {"bytes": "AP8="},
                       "extra": {"source": "web", "other": "BUY"}}
        return [full, {"at": MOMENT_MS, "user_id": "bare"}]

    def test_avro_with_the_schema_in_the_definition(self):
        topic = self.topic()
        project, server = self.serve(topic, f"format: avro\nschema: |\n{indented(AVRO, 2)}")
        values = self.kafka.encode("avro", AVRO, self.avro_rows())
        self.produce(topic, [values[0], "AAAA", "", values[1]])
        self.wait_count(server, "bare", 1)
        self.check(server, "full", EXPECTED, {"source": "web", "other": "BUY"})
        self.check(server, "bare", {"amount": None, "number": None, "small": 7, "single": None, "flag": False, "price": None,
                                    "born": None, "tags": [], "kind": "VIEW", "raw": None}, None)
        letters = self.wait_letters(server, 2)
        self.assertEqual({letter["code"] for letter in letters}, {"malformed_row"})
        self.assertIn("AAAA", [letter["row"] for letter in letters])
        project.run("verify")

    def test_protobuf_with_the_schema_in_the_definition(self):
        topic = self.topic()
        more = f"format: protobuf\nmessage: shop.Envelope.Click\nschema: |\n{indented(PROTOBUF, 2)}"
        _, server = self.serve(topic, more)
        values = self.kafka.encode("protobuf", PROTOBUF, self.protobuf_rows(), message="Envelope.Click")
        self.produce(topic, [values[0], "/////w==", values[1]])
        self.wait_count(server, "bare", 1)
        self.check(server, "full", EXPECTED, {"source": "web", "counts": {"a": 1}})
        self.check(server, "bare", {"amount": None, "number": None, "small": 0, "single": None, "flag": False, "price": None,
                                    "born": None, "tags": [], "kind": "VIEW", "raw": None}, None)
        self.wait_letters(server, 1)

    def protobuf_rows(self):
        at = "2026-01-01T00:00:00.123Z"
        full = FULL | {"at": at, "number": str(FULL["number"]), "price": "-1234.56", "born": "1969-12-30", "raw": "AP8=",
                       "extra": {"source": "web", "counts": {"a": 1}}}
        return [full, {"at": at, "user_id": "bare"}]

    def test_schemas_from_a_registry_that_grow_break_and_are_away(self):
        os.environ["TEST_REGISTRY_PASSWORD"] = "secret"
        for format in ["avro", "protobuf"]:
            with self.subTest(format):
                registry = Registry()
                self.addCleanup(registry.close)
                topic = self.topic()
                settings = (f', registry_url: "{registry.url}", registry_username: reader, '
                            "registry_password_env: TEST_REGISTRY_PASSWORD")
                _, server = self.serve(topic, f"format: {format}", settings)
                text = AVRO if format == "avro" else PROTOBUF

                def encode(schema, rows, registry=registry, format=format, topic=topic):
                    return self.kafka.encode(format, schema, rows, registry=registry.client(), topic=topic, message="Envelope.Click")

                rows = self.avro_rows() if format == "avro" else self.protobuf_rows()
                self.produce(topic, encode(text, rows))
                self.wait_count(server, "bare", 1)
                extra = {"source": "web", "other": "BUY"} if format == "avro" else {"source": "web", "counts": {"a": 1}}
                self.check(server, "full", EXPECTED, extra)
                # A field more is no matter, while the registry answers; when it does not, messages wait.
                grown = text.replace('"not_a_column"', '"also_none"').replace("not_a_column = 14", "also_none = 15")
                # Descriptors of one process share a pool.
                grown = grown.replace("package shop;", "package shop_grown;")
                self.assertNotEqual(grown, text)
                values = encode(grown, rows)
                registry.is_down = True
                asked = registry.asked
                self.produce(topic, values)
                self.wait(server, "asks again", lambda client, asked=asked: registry.asked > asked + 2)
                self.wait_told(server, "the schema registry: it answers 503")
                with Client(server) as client:
                    self.assertEqual(client.features(["totals"], {"user_id": ["bare"]})["events_lifetime"]["values"], [1])
                registry.is_down = False
                self.wait_count(server, "bare", 2)
                # A type that does not fit, a number that nobody knows, and what is of no schema: dead letters, one by one.
                if format == "avro":
                    broken = text.replace('"small", "type": "int", "default": 7', '"small", "type": "string", "default": "seven"')
                else:
                    broken = text.replace("int32 small = 5", "string small = 5").replace("package shop;", "package shop_broken;")
                self.assertNotEqual(broken, text)
                bad = [{key: value for key, value in rows[1].items()} | {"small": "seven"}]
                self.produce(topic, [*encode(broken, bad), "AAAAAP8A", "e30=", *values])
                self.wait_count(server, "bare", 3)
                letters = self.wait_letters(server, 3)
                self.assertEqual(sorted(letter["code"] for letter in letters), ["malformed_row", "malformed_row", "wrong_type"])
                reasons = " ".join(letter["reason"] for letter in letters)
                self.assertIn("schema 255: the registry does not have it", reasons)
                self.assertIn("`small`", reasons)
                self.assertEqual(server.stop(), 0, server.tail())

    def test_wrong_schemas_and_settings_are_told(self):
        cases = [("format: avro\nschema: nonsense", "no Avro schema"),
                 ('format: avro\nschema: "\\"long\\""', "must be a record"),
                 ("format: protobuf\nschema: message Broken {", "no Protobuf schema"),
                 (f"format: protobuf\nschema: |\n{indented(PROTOBUF, 2)}", "which is meant"),
                 (f"format: protobuf\nmessage: shop.Nothing\nschema: |\n{indented(PROTOBUF, 2)}", "no message `shop.Nothing`"),
                 ("schema: x", "only `avro` and `protobuf`"),
                 ("format: avro\nmessage: x", "`message` says"),
                 ("format: xml", "xml")]
        for more, said in cases:
            with Project(DEFINITIONS.replace("TOPIC", "t").replace("MORE", indented(more, 8))) as project:
                done = project.run("validate", check=False)
                self.assertNotEqual(done.returncode, 0, more)
                self.assertIn(said, done.stdout + done.stderr, more)
                self.assertRegex(done.stdout + done.stderr, r"definitions\.yaml:\d+:\d+", more)
        # Without a registry the topic says so, and nothing else is hurt.
        _, server = self.serve(self.topic(), "format: avro")
        self.wait_told(server, "kafka.registry_url")

    def test_a_broker_that_wants_tls_and_a_login(self):
        topic = self.topic()
        self.kafka.produce(topic, [{"value": {"at": "2026-01-01T00:00:00Z", "user_id": "u"}}])
        authority = self.broker.folder / "broker.crt"
        secrets = self.broker.folder / "password"
        secrets.write_text("s3cret\n")
        login = ('"security.protocol": SASL_SSL, "sasl.mechanism": SCRAM-SHA-512, "sasl.username": reader, '
                 f'"ssl.ca.location": "{authority}"')

        def settings(client, password=secrets):
            return f', brokers: ["{self.broker.secure_address}"], sasl_password_file: "{password}", client: {{{client}}}'

        _, server = self.serve(topic, "format: json", settings(login))
        self.wait_count(server, "u", 1)
        wrong = pathlib.Path(self.broker.folder / "wrong")
        wrong.write_text("guess")
        for client, password in [(login, wrong), (login.replace(str(authority), "/dev/null"), secrets)]:
            _, server = self.serve(topic, "format: json", settings(client, password))
            self.wait_told(server, "SASL" if password == wrong else "ssl.ca.location")
            self.assertNotIn("guess", "".join(server.log))

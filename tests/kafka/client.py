"""The other end of `broker.Kafka`: a JSON line in, a JSON line out. Runs with the packages of requirements.txt."""
import base64
import decimal
import hashlib
import importlib
import importlib.resources
import io
import json
import pathlib
import sys
import tempfile
import time

import fastavro
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext

ADDRESS = sys.argv[1]
CONFIGURATION = {"bootstrap.servers": ADDRESS, "linger.ms": 1, "reconnect.backoff.max.ms": 500,
                 "topic.metadata.refresh.interval.ms": 500, "log_level": 0}


class Client:
    def __init__(self):
        self.admin = AdminClient(CONFIGURATION)
        self.producer = Producer(CONFIGURATION | {"enable.idempotence": True})
        self.transactions = None

    def create(self, topic, partitions, configuration):
        new = NewTopic(topic, num_partitions=partitions, replication_factor=1,
                       config={name.replace("_", "."): str(value) for name, value in configuration.items()})
        self.admin.create_topics([new])[topic].result()

    def delete(self, topic):
        self.admin.delete_topics([topic])[topic].result()

    def grow(self, topic, partitions):
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()

    def delete_before(self, topic, partition, offset):
        wanted = TopicPartition(topic, partition, offset)
        for future in self.admin.delete_records([wanted]).values():
            future.result()

    def send(self, producer, topic, messages):
        places = [None] * len(messages)
        end = time.monotonic() + 20
        for number, message in enumerate(messages):
            def told(error, sent, number=number):
                places[number] = str(error) if error else [sent.partition(), sent.offset()]
            value = message["raw"] if "raw" in message else message.get("value")
            if "base64" in message:
                value = base64.b64decode(message["base64"])
            if value is not None and not isinstance(value, (str, bytes)):
                value = json.dumps(value)
            more = {name: message[name] for name in ("key", "partition") if message.get(name) is not None}
            if message.get("timestamp_ms") is not None:
                more["timestamp"] = message["timestamp_ms"]
            if message.get("headers"):
                more["headers"] = list(message["headers"].items())
            while True:
                try:
                    producer.produce(topic, value=value, on_delivery=told, **more)
                    break
                except BufferError:
                    producer.poll(0.1)
                except KafkaException as error:
                    # A partition that was just added: the client learns of it soon.
                    if error.args[0].code() != KafkaError._UNKNOWN_PARTITION or time.monotonic() > end:
                        raise
                    producer.poll(0.1)
            producer.poll(0)
        producer.flush()
        wrong = [place for place in places if not isinstance(place, list)]
        if wrong:
            raise RuntimeError(f"{len(wrong)} messages were not taken: {wrong[0]}")
        return places

    def produce(self, topic, messages):
        return self.send(self.producer, topic, messages)

    def encode(self, format, schema, rows, registry=None, topic="", message=None):
        encoder = encode_avro if format == "avro" else encode_protobuf
        return [base64.b64encode(value).decode() for value in encoder(schema, rows, registry, topic, message)]

    def transaction(self, topic, messages, commit):
        if self.transactions is None:
            self.transactions = Producer(CONFIGURATION | {"transactional.id": "test"})
            self.transactions.init_transactions()
        self.transactions.begin_transaction()
        places = self.send(self.transactions, topic, messages)
        if commit:
            self.transactions.commit_transaction()
        else:
            self.transactions.abort_transaction()
        return places


def encode_avro(schema, rows, registry, topic, _):
    schema = json.loads(schema)
    rows = [{name: typed(value) for name, value in row.items()} for row in rows]
    if registry is None:
        parsed = fastavro.parse_schema(schema)
        for row in rows:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, row)
            yield out.getvalue()
        return
    from confluent_kafka.schema_registry.avro import AvroSerializer
    serialize = AvroSerializer(SchemaRegistryClient(registry), json.dumps(schema))
    for row in rows:
        yield serialize(row, SerializationContext(topic, MessageField.VALUE))


def encode_protobuf(schema, rows, registry, topic, message):
    from google.protobuf import json_format
    from grpc_tools import protoc
    with tempfile.TemporaryDirectory() as folder:
        # A name of its own: descriptors of one process share a pool.
        name = "file_" + hashlib.sha256(schema.encode()).hexdigest()[:12]
        (pathlib.Path(folder) / f"{name}.proto").write_text(schema)
        includes = str(importlib.resources.files("grpc_tools") / "_proto")
        status = protoc.main(["", f"-I{folder}", f"-I{includes}", f"--python_out={folder}", f"{name}.proto"])
        if status:
            raise RuntimeError(f"protoc: {status}")
        sys.path.insert(0, folder)
        try:
            module = importlib.import_module(f"{name}_pb2")
        finally:
            sys.path.remove(folder)
    kind = module
    for part in message.split("."):
        kind = getattr(kind, part)
    built = [json_format.ParseDict(row, kind()) for row in rows]
    if registry is None:
        yield from (message.SerializeToString() for message in built)
        return
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
    serialize = ProtobufSerializer(kind, SchemaRegistryClient(registry), {"use.deprecated.format": False})
    for one in built:
        yield serialize(one, SerializationContext(topic, MessageField.VALUE))


def typed(value):
    """What JSON has no type for is written `{"bytes": base64}` or `{"decimal": text}`."""
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return base64.b64decode(value["bytes"])
    if isinstance(value, dict) and set(value) == {"decimal"}:
        return decimal.Decimal(value["decimal"])
    return value


def main():
    client = Client()
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {"result": getattr(client, call.pop("call"))(**call)}
        except Exception as error:  # noqa: BLE001 - told to the caller
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()

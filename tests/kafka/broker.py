"""A real Kafka broker (KRaft, one node) on free loopback ports, and a client of it in a process of its own."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from springhouse_testing import ROOT, certificate, free_port

HERE = pathlib.Path(__file__).parent
VERSION = "3.9.1"
START_SECONDS_MAX = 90


def cache():
    root = os.environ.get("SPRINGHOUSE_CACHE") or pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "springhouse"
    return pathlib.Path(root)


def jars():
    """The folder of the broker's jars, fetched on the first call."""
    folder = cache() / f"kafka-{VERSION}"
    if (folder / "ready").exists():
        return folder
    needed = [name for name, program in (("openjdk-17-jre-headless", "java"), ("maven", "mvn"))
              if not shutil.which(program)]
    if needed:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "--quiet"], stdout=subprocess.DEVNULL, check=True, env=environment)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *needed],
                       stdout=subprocess.DEVNULL, check=True, env=environment)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(HERE / "pom.xml", work)
        subprocess.run(["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies",
                        "-DincludeScope=runtime", f"-DoutputDirectory={folder}"], cwd=work, check=True)
    (folder / "ready").touch()
    return folder


class Broker:
    """With `user` and `password` it also listens where clients must speak TLS and log in with SCRAM."""

    def __init__(self, user=None, password=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="springhouse-kafka-"))
        self.port, self.controller = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.properties = self.folder / "server.properties"
        self.properties.write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{self.controller}
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}
controller.listener.names=CONTROLLER
log.dirs={self.folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=0
log.initial.task.delay.ms=0
num.network.threads=2
num.io.threads=2
""")
        self.classes = f"{jars()}/*"
        login = []
        if user:
            secure = free_port()
            self.secure_address = f"127.0.0.1:{secure}"
            certificate(self.folder, "broker")
            pem = (self.folder / "broker.key").read_text() + (self.folder / "broker.crt").read_text()
            (self.folder / "broker.pem").write_text(pem)
            text = self.properties.read_text().replace(",CONTROLLER://", f",SASL_SSL://127.0.0.1:{secure},CONTROLLER://")
            text = text.replace("\ncontroller.listener", f",SASL_SSL://127.0.0.1:{secure}\ncontroller.listener", 1)
            self.properties.write_text(text + f"""
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={self.folder}/broker.pem
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
""")
            login = ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        self.java("kafka.tools.StorageTool", "format", "--cluster-id", "c3ByaW5naG91c2V0ZXN0cw",
                  "--config", self.properties, *login)
        self.process = None
        self.start()

    def command(self, *arguments):
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", self.classes, *map(str, arguments)]

    def java(self, *arguments):
        subprocess.run(self.command(*arguments), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self):
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(self.command("kafka.Kafka", self.properties), stdout=self.log,
                                        stderr=self.log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the broker does not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def hang(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Kafka:
    """Produces and administers; every call returns when the broker has confirmed."""

    def __init__(self, address):
        environment = os.environ | {"REQUIREMENTS": str(HERE / "requirements.txt")}
        self.process = subprocess.Popen(["sh", ROOT / "scripts/python.sh", HERE / "client.py", address], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def call(self, name, **arguments):
        self.process.stdin.write(json.dumps({"call": name} | arguments) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the client of Kafka died")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def create(self, topic, partitions=1, **configuration):
        return self.call("create", topic=topic, partitions=partitions, configuration=configuration)

    def produce(self, topic, messages):
        """`messages`: {value (JSON or None, or `raw` text, or `base64`), key, partition, timestamp_ms, headers}."""
        return self.call("produce", topic=topic, messages=messages)

    def encode(self, format, schema, rows, **more):
        """Rows as messages in base64, by the libraries of others. `registry`: written for a registry at that address."""
        return self.call("encode", format=format, schema=schema, rows=rows, **more)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

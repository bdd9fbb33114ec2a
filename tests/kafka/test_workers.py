"""The same topics, read by several workers over a store on Redis: what holds for one reader holds for them, and partitions move
between workers that come, go, die and hang without anything being lost or counted twice.
"""
import collections
import json
import os
import random
import signal
import subprocess
import threading
import time
import unittest

from kafka import test_formats, test_kafka
from kafka.broker import Broker, Kafka
from kafka.test_kafka import PATIENCE, SETTINGS, USERS, definitions, event
from redis import test_failover
from redis.test_redis import Redis
from springhouse_testing import LONG, SEED, STOP_SECONDS_MAX, Client, Project, Server, program

ROUNDS = int(os.environ.get("SPRINGHOUSE_TEST_ROUNDS", "60" if LONG else "12"))
# So that a worker that hangs for longer is taken for dead.
SESSION_SECONDS = 2

WORKERS = SETTINGS.replace("socket_timeout_ms: 3000}", f"socket_timeout_ms: 3000, workers: true, "
                           f"session_timeout_ms: {SESSION_SECONDS * 1000}}}") + """
store: {kind: redis}
redis: {urls: ["redis://127.0.0.1:PORT"], key_prefix: "PREFIX", row_layout: LAYOUT, script_rows_max: 50, check_interval_ms: 100,
        write_timeout_ms: 1000}
"""
assert "workers: true" in WORKERS


def in_store(settings, prefix, number):
    """With keys of its own. Where rows are: what holds for one layout holds for the other, so they take turns."""
    return settings.replace("PREFIX", prefix).replace("LAYOUT", ["view", "entity"][number % 2])



class Worker:
    """A running `springhouse ingest`."""

    def __init__(self, folder, name, log):
        self.name, self.log, self.all_logs = name, [], log
        self.process = subprocess.Popen([program(), "--project", folder, "ingest", "--name", name], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                        bufsize=1)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.log.append(f"{self.name}: {line.rstrip()}")
            self.all_logs.append(self.log[-1])

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def hang(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the worker did not stop\n" + "\n".join(self.log[-40:])) from None


class ServerAndWorkers(Server):
    """A server, and workers that are killed and stopped with it; what they say is in its log."""

    def __init__(self, folder, count):
        super().__init__(folder)
        self.folder, self.started_workers, self.workers = folder, 0, []
        for _ in range(count):
            self.add_worker()

    def add_worker(self):
        self.started_workers += 1
        self.workers.append(Worker(self.folder, f"w{self.started_workers}", self.log))

    def tail(self):
        of_workers = [line for worker in self.workers for line in worker.log[-15:]]
        return super().tail() + "\n" + "\n".join(of_workers)

    def kill(self):
        for worker in self.workers:
            worker.kill()
        super().kill()

    def stop(self):
        for worker in self.workers:
            if worker.alive() and (status := worker.stop()) != 0:
                return status
        return super().stop()


class WorkersProject(Project):
    def __init__(self, definitions, settings, workers):
        super().__init__(definitions, settings)
        self.workers = workers

    def serve(self, crash_at=None):
        assert crash_at is None
        self.server = ServerAndWorkers(self.folder, self.workers)
        return self.server


class WithRedis:
    """A Redis for all tests of a class, in which each project has keys of its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.redis = Redis()
        cls.addClassCleanup(cls.redis.close)
        cls.projects = 0


class WorkersTest(WithRedis, test_kafka.KafkaTest):
    """Every test of topics, with two workers."""

    workers = 2

    def settings(self):
        type(self).projects += 1
        settings = WORKERS.replace("ADDRESS", self.broker.address).replace("PORT", str(self.redis.port))
        return in_store(settings, f"p{self.projects}", self.projects)

    def project(self, topic, more="", columns="", source="", serve=True):
        project = WorkersProject(definitions(topic, more, columns, source), self.settings(), self.workers)
        self.addCleanup(project.__exit__, None, None, None)
        project.run("apply")
        if not serve:
            return project, None
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return project, server

    def test_what_a_worker_complained_of_ends_with_it(self):
        topic = f"none-{self.projects}"
        self.workers = 0
        project, server = self.project(topic)

        def complaints():
            return "clicks/w1" in test_failover.ask(self.redis.port, "HKEYS", f"{{p{self.projects}:0}}notes")
        worker = Worker(project.folder, "w1", [])
        self.wait("the complaint", complaints)
        self.assertEqual(worker.stop(), 0)
        self.assertFalse(complaints())
        # One that was killed could not take it back; the next of its name does.
        worker = Worker(project.folder, "w1", [])
        self.wait("the complaint", complaints)
        worker.kill()
        self.kafka.create(topic, 1)
        worker = Worker(project.folder, "w1", [])
        self.addCleanup(worker.kill)
        self.kafka.produce(topic, [event("a", 1)])
        self.wait_totals(server, {"a": (1, 1)})
        self.wait("that nothing is wrong", lambda: not complaints())
        self.assertEqual(worker.stop(), 0)

    def test_new_definitions_while_the_server_is_away_stop_nobody(self):
        topic = self.topic(2)
        project, server = self.project(topic)
        self.kafka.produce(topic, [event("a", 1, partition=n % 2) for n in range(10)])
        self.wait_totals(server, {"a": (10, 10)})
        Server.kill(server)
        more = "  counts:\n    entity: user\n    source: clicks\n    ttl: 3650d\n    aggregate: {n: {fn: count, windows: [lifetime], default: 0}}\n"
        file = project.folder / "features" / "definitions.yaml"
        file.write_text(file.read_text().replace("feature_services:", more + "feature_services:"))
        project.run("apply")
        self.kafka.produce(topic, [event("a", 1, partition=n % 2) for n in range(10)])
        # In the lake before anybody serves.
        self.wait("the lake", lambda: self.rows_in_lake(project) == 20)
        workers, project.workers = server.workers, 0
        server = project.serve()
        server.workers = workers
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait_totals(server, {"a": (20, 20)})
        # The new view has the lake as its history, and workers bring the rest.
        self.wait("that workers take it up", lambda: [worker for worker in workers if "takes over" in worker.log[-1]])
        self.kafka.produce(topic, [event("a", 1, partition=n % 2) for n in range(10)])
        project.run("materialize")

        def counted():
            with Client(server) as client:
                return client.features(["counts:n_lifetime"], {"user_id": ["a"]})["n_lifetime"]["values"] == [30]
        self.wait("thirty events", counted)
        self.assertIn("0 differ", project.run("verify").stdout)
        self.assertEqual(server.stop(), 0, server.tail())

    def rows_in_lake(self, project):
        log = project.folder / ".springhouse" / "lake" / "clicks" / "_delta_log"
        adds = [json.loads(line)["add"] for file in sorted(log.glob("*.json")) for line in file.read_text().splitlines()
                if '"add"' in line]
        return sum(json.loads(add["stats"])["numRecords"] for add in adds)


class FormatTest(WithRedis, test_formats.FormatTest):
    """Every format, and TLS with a login, with two workers."""

    def project(self, text, settings):
        type(self).projects += 1
        store = WORKERS[WORKERS.index("store:"):].replace("PORT", str(self.redis.port))
        settings = settings.replace("metadata_interval_ms", f"workers: true, session_timeout_ms: {SESSION_SECONDS * 1000}, "
                                    "metadata_interval_ms")
        return WorkersProject(text, settings + in_store(store, f"f{self.projects}", self.projects), 2)


class MoveTest(unittest.TestCase):
    """Partitions that move, while an entity's events lie in all of them."""

    @classmethod
    def setUpClass(cls):
        cls.broker = Broker()
        cls.addClassCleanup(cls.broker.close)
        cls.kafka = Kafka(cls.broker.address)
        cls.addClassCleanup(cls.kafka.close)

    totals = test_kafka.KafkaTest.totals
    wait_totals = test_kafka.KafkaTest.wait_totals
    wait = test_kafka.KafkaTest.wait
    status = test_kafka.KafkaTest.status

    def begin(self, settings, workers, partitions):
        """A project whose server and workers run."""
        self.rng = random.Random(SEED)
        self.expected = collections.defaultdict(lambda: (0, 0))
        self.topic, self.partitions = f"moves-{SEED}-{time.time_ns()}", partitions
        self.kafka.create(self.topic, partitions)
        self.project = WorkersProject(definitions(self.topic), settings.replace("ADDRESS", self.broker.address), workers)
        self.addCleanup(self.project.__exit__, None, None, None)
        self.project.run("apply")
        self.server = self.project.serve()
        self.assertTrue(self.server.wait_ready(), self.server.tail())

    def produce(self):
        rng = self.rng
        for _ in range(rng.randrange(1, 4)):
            messages = []
            for _ in range(rng.randrange(1, 900)):
                user, amount = f"u{int(rng.paretovariate(0.7)) % USERS}", rng.randrange(-50, 50)
                messages.append(event(user, amount, time.time() - rng.random() * 1e6,
                                      partition=rng.randrange(self.partitions)))
                events, total = self.expected[user]
                self.expected[user] = (events + 1, total + amount)
            self.kafka.produce(self.topic, messages)

    def check(self, what, may_pass=False):
        """Exactly what was produced is served, soon."""
        try:
            self.assertTrue(self.server.wait_ready(), self.server.tail())
            self.wait_totals(self.server, dict(self.expected), may_pass)
        except AssertionError as error:
            found = self.project.run("verify", check=False).stdout[-300:] + str(self.status(self.server))
            raise AssertionError(f"seed {SEED}, after `{what}`: {found}\n{error}") from None

    def end(self):
        self.wait("no lag", lambda: self.status(self.server)["lag_messages"] == 0)
        self.assertIn("0 differ", self.project.run("verify").stdout)
        self.assertEqual(self.server.stop(), 0, self.server.tail())

    def wait_rebuilt(self, job):
        def ended():
            with Client(self.server) as client:
                state = client.call("GET", f"/v1/admin/jobs/{job}")
            return state if state["state"] != "running" else None
        state = self.wait("the rebuild's end", ended)
        self.assertEqual(state["state"], "done", f"{state}\n{self.server.tail()}")

    def test_accidents_of_workers_and_of_everything_that_they_use(self):
        print(f"seed {SEED}, {ROUNDS} rounds ...", flush=True)
        redis = Redis()
        self.addCleanup(redis.close)
        self.begin(in_store(WORKERS.replace("PORT", str(redis.port)), "moves", SEED), 3, 4)
        rng = self.rng
        all_kinds = ["kill", "kill all", "stop", "add", "zombie", "broker", "flush", "behind", "hang", "server", "grow",
                     "rebuild", "none"]
        kinds = []
        for _ in range(ROUNDS):
            kinds = kinds or rng.sample(all_kinds, len(all_kinds))
            kind = kinds.pop()
            if kind == "behind":
                redis.command("SAVE")
            self.produce()
            time.sleep(rng.random() * 0.3)
            alive = [worker for worker in self.server.workers if worker.alive()]
            one = rng.choice(alive)
            if kind == "kill":
                one.kill()
            elif kind == "kill all":
                for worker in alive:
                    worker.kill()
            elif kind == "stop":
                self.assertEqual(one.stop(), 0, self.server.tail())
            elif kind == "add":
                self.server.add_worker()
            elif kind == "zombie":
                one.process.send_signal(signal.SIGSTOP)
                self.produce()
                time.sleep(SESSION_SECONDS * 1.5)
                one.process.send_signal(signal.SIGCONT)
            elif kind == "broker":
                self.broker.kill()
                self.broker.start()
            elif kind == "flush":
                redis.command("FLUSHALL")
            elif kind == "behind":
                redis.kill()
                time.sleep(rng.random() * 0.5)
                redis.start()
            elif kind == "hang":
                redis.process.send_signal(signal.SIGSTOP)
                time.sleep(1.5)
                redis.process.send_signal(signal.SIGCONT)
            elif kind == "server":
                # The workers go on without it.
                Server.kill(self.server)
                self.produce()
                workers, count = self.server.workers, self.server.started_workers
                self.project.workers = 0
                self.server = self.project.serve()
                self.server.workers, self.server.started_workers = workers, count
            elif kind == "grow":
                self.partitions += 1
                self.kafka.call("grow", topic=self.topic, partitions=self.partitions)
            elif kind == "rebuild":
                with Client(self.server) as client:
                    job = client.call("POST", "/v1/admin/rebuild", {})["id"]
            while sum(worker.alive() for worker in self.server.workers) < 2:
                self.server.add_worker()
            self.produce()
            # What is filled from the lake and what workers bring may be there at different moments.
            self.check(kind, may_pass=kind == "flush")
            if kind == "rebuild":
                self.wait_rebuilt(job)
                self.check(kind)
        self.end()

    def test_nodes_of_a_cluster_die(self):
        print(f"seed {SEED}, {test_failover.FAILOVERS} failovers ...", flush=True)
        servers, roles, settled, text = test_failover.FailoverTest.cluster(self)
        urls = text[text.index("urls:"):].splitlines()[0]
        settings = in_store(WORKERS.replace('urls: ["redis://127.0.0.1:PORT"]', urls), "moves", SEED + 1)
        self.begin(settings.replace("check_interval_ms", "mode: cluster, shards: 8, check_interval_ms"), 2, 4)
        for _ in range(test_failover.FAILOVERS):
            self.produce()
            found = self.wait("six nodes that agree", settled)
            old = self.rng.choice([server for server in servers if found[server.port] == "master"])
            old.kill()
            self.produce()
            self.wait("another primary", lambda: (now := roles()) and list(now.values()).count("master") == 3)
            self.produce()
            self.check("failover", may_pass=True)
            old.start()
            self.wait("six nodes that agree", settled)
            self.check("return")
        self.end()

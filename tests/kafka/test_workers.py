"""The same topics, read by several workers over a store on Redis: what holds for one reader holds for them, and partitions move
between workers that come, go, die and hang without anything being lost or counted twice.
"""
import collections
import os
import random
import re
import signal
import subprocess
import threading
import time
import unittest

from kafka import test_kafka
from kafka.broker import Broker, Kafka
from kafka.test_kafka import PATIENCE, SETTINGS, USERS, definitions, event
from redis.test_redis import Redis
from springhouse_testing import LONG, SEED, STOP_SECONDS_MAX, Client, Project, Server, program

ROUNDS = int(os.environ.get("SPRINGHOUSE_TEST_ROUNDS", "60" if LONG else "12"))
# So that a worker that hangs for longer is taken for dead.
SESSION_SECONDS = 2

WORKERS = SETTINGS.replace("socket_timeout_ms: 3000}", f"socket_timeout_ms: 3000, workers: true, "
                           f"session_timeout_ms: {SESSION_SECONDS * 1000}}}") + """
store: {kind: redis}
redis: {urls: ["redis://127.0.0.1:PORT"], key_prefix: "PREFIX", script_rows_max: 50, check_interval_ms: 100, write_timeout_ms: 1000}
"""
assert "workers: true" in WORKERS


class Worker:
    """A running `springhouse ingest`."""

    def __init__(self, folder, name, crash_at=None):
        environment = {key: value for key, value in os.environ.items() if key != "SPRINGHOUSE_CRASH_AT"}
        if crash_at:
            environment["SPRINGHOUSE_CRASH_AT"] = crash_at
        self.name, self.log = name, []
        self.process = subprocess.Popen([program(), "--project", folder, "ingest", "--name", name], env=environment,
                                        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, bufsize=1)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.log.append(f"{self.name}: {line.rstrip()}")

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
    """A server, and workers that are killed and stopped with it."""

    def __init__(self, folder, count):
        super().__init__(folder)
        self.folder, self.started_workers, self.workers = folder, 0, []
        for _ in range(count):
            self.add_worker()

    def add_worker(self, crash_at=None):
        self.started_workers += 1
        self.workers.append(Worker(self.folder, f"w{self.started_workers}", crash_at))
        return self.workers[-1]

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


class WorkersTest(test_kafka.KafkaTest):
    """Every test of topics, with two workers."""

    workers = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.redis = Redis()
        cls.addClassCleanup(cls.redis.close)
        cls.projects = 0

    def settings(self):
        type(self).projects += 1
        return (WORKERS.replace("ADDRESS", self.broker.address).replace("PORT", str(self.redis.port))
                .replace("PREFIX", f"p{self.projects}"))

    def project(self, topic, more="", columns="", source="", serve=True):
        project = WorkersProject(definitions(topic, more, columns, source), self.settings(), self.workers)
        self.addCleanup(project.__exit__, None, None, None)
        project.run("apply")
        if not serve:
            return project, None
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return project, server


class MoveTest(unittest.TestCase):
    """Partitions that move."""

    @classmethod
    def setUpClass(cls):
        cls.broker = Broker()
        cls.addClassCleanup(cls.broker.close)
        cls.kafka = Kafka(cls.broker.address)
        cls.addClassCleanup(cls.kafka.close)

    def setUp(self):
        self.redis = Redis("--repl-diskless-sync-delay", "0")
        self.addCleanup(self.redis.close)

    totals = test_kafka.KafkaTest.totals
    wait_totals = test_kafka.KafkaTest.wait_totals
    wait = test_kafka.KafkaTest.wait
    status = test_kafka.KafkaTest.status

    def wait_rebuilt(self, server, job):
        def ended():
            with Client(server) as client:
                state = client.call("GET", f"/v1/admin/jobs/{job}")
            return state if state["state"] != "running" else None
        state = self.wait("the rebuild's end", ended)
        self.assertEqual(state["state"], "done", f"{state}\n{server.tail()}")

    def test_accidents_of_workers_and_of_everything_that_they_use(self):
        print(f"seed {SEED}, {ROUNDS} rounds ...", flush=True)
        rng = random.Random(SEED)
        topic = f"moves-{SEED}-{time.time_ns()}"
        partitions = 4
        self.kafka.create(topic, partitions)
        settings = (WORKERS.replace("ADDRESS", self.broker.address).replace("PORT", str(self.redis.port))
                    .replace("PREFIX", "moves"))
        expected = collections.defaultdict(lambda: (0, 0))

        def produce():
            for _ in range(rng.randrange(1, 4)):
                messages = []
                for _ in range(rng.randrange(1, 900)):
                    # An entity's events lie in any partition, so that workers write the same rows.
                    user, amount = f"u{int(rng.paretovariate(0.7)) % USERS}", rng.randrange(-50, 50)
                    messages.append(event(user, amount, time.time() - rng.random() * 1e6,
                                          partition=rng.randrange(partitions)))
                    events, total = expected[user]
                    expected[user] = (events + 1, total + amount)
                self.kafka.produce(topic, messages)

        all_kinds = ["kill", "kill all", "stop", "add", "zombie", "broker", "flush", "behind", "hang", "server", "grow",
                     "rebuild", "none"]
        kinds = []
        with WorkersProject(definitions(topic), settings, 3) as project:
            project.run("apply")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            for _ in range(ROUNDS):
                kinds = kinds or rng.sample(all_kinds, len(all_kinds))
                kind = kinds.pop()
                try:
                    if kind == "behind":
                        self.redis.command("SAVE")
                    produce()
                    time.sleep(rng.random() * 0.3)
                    alive = [worker for worker in server.workers if worker.alive()]
                    one = rng.choice(alive)
                    if kind == "kill":
                        one.kill()
                    elif kind == "kill all":
                        for worker in alive:
                            worker.kill()
                    elif kind == "stop":
                        self.assertEqual(one.stop(), 0, server.tail())
                    elif kind == "add":
                        server.add_worker()
                    elif kind == "zombie":
                        one.process.send_signal(signal.SIGSTOP)
                        produce()
                        time.sleep(SESSION_SECONDS * 1.5)
                        one.process.send_signal(signal.SIGCONT)
                    elif kind == "broker":
                        self.broker.kill()
                        self.broker.start()
                    elif kind == "flush":
                        self.redis.command("FLUSHALL")
                    elif kind == "behind":
                        self.redis.kill()
                        time.sleep(rng.random() * 0.5)
                        self.redis.start()
                    elif kind == "hang":
                        self.redis.process.send_signal(signal.SIGSTOP)
                        time.sleep(1.5)
                        self.redis.process.send_signal(signal.SIGCONT)
                    elif kind == "server":
                        # The workers go on without it.
                        Server.kill(server)
                        produce()
                        workers, count = server.workers, server.started_workers
                        project.workers = 0
                        server = project.serve()
                        server.workers, server.started_workers = workers, count
                    elif kind == "grow":
                        partitions += 1
                        self.kafka.call("grow", topic=topic, partitions=partitions)
                    elif kind == "rebuild":
                        with Client(server) as client:
                            job = client.call("POST", "/v1/admin/rebuild", {})["id"]
                    while sum(worker.alive() for worker in server.workers) < 2:
                        server.add_worker()
                    produce()
                    self.assertTrue(server.wait_ready(), server.tail())
                    self.wait_totals(server, dict(expected), may_pass=kind == "flush")
                    if kind == "rebuild":
                        self.wait_rebuilt(server, job)
                        self.wait_totals(server, dict(expected))
                except AssertionError as error:
                    found = project.run("verify", check=False).stdout[-300:] + str(self.status(server))
                    raise AssertionError(f"seed {SEED}, after `{kind}`: {found}\n{error}") from None
            self.wait("no lag", lambda: self.status(server)["lag_messages"] == 0)
            self.assertIn("0 differ", project.run("verify").stdout)
            self.assertEqual(server.stop(), 0, server.tail())

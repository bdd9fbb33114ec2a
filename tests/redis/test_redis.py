"""The server on a real Redis, with accidents of both: nothing acknowledged is lost, nothing counts twice, and an entity is
never answered as a new one.

The oracle is that of tests/kill. Besides, requests go on all the time: each must be answered (no 5xx: the service allows
fallbacks), and a value that is said to be fresh must have everything that was acknowledged before it was asked for.
"""
import gzip
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from conformance import test_conformance
from kill import test_kill
from springhouse_testing import LONG, SEED, Client, Failed, Project, free_port, program

ACCIDENTS = int(os.environ.get("SPRINGHOUSE_TEST_ACCIDENTS", "120" if LONG else "14"))
RECOVERY_SECONDS_MAX = 60
PUSH_SECONDS = 0.6

KINDS = ["flush", "restart empty", "restart behind", "hang", "cut", "kill", "kill both", "flush while down"]

DEFINITIONS = test_kill.DEFINITIONS.replace(
    "all: {features: [totals, newest]}", "all: {features: [totals, newest], on_unavailable: last_known}")
assert DEFINITIONS != test_kill.DEFINITIONS

SETTINGS = test_kill.SETTINGS + """
store: {kind: redis}
redis:
  urls: ["redis://127.0.0.1:PORT"]
  script_rows_max: 50
  check_interval_ms: 100
  write_timeout_ms: 1000
"""


class Redis:
    """A redis-server on a free port, without persistence but for what `save` writes."""

    def __init__(self, *arguments):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="springhouse-redis-"))
        self.port = free_port()
        self.arguments = arguments
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder,
             *self.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                return self.command("PING")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def command(self, *words):
        """Sends one command; the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            line = f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)
            connection.sendall(line.encode())
            answer = connection.makefile("rb").readline().decode().strip()
        if answer.startswith("-") and "LOADING" in answer:
            raise OSError(answer)
        return answer

    def kill(self):
        self.process.kill()
        self.process.wait()

    def forget_saved(self):
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def close(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class ConformanceTest(unittest.TestCase):
    def test_cases_with_known_answers_agree(self):
        redis = Redis()
        self.addCleanup(redis.close)
        with tempfile.TemporaryDirectory() as folder:
            lines = gzip.decompress(test_conformance.CASES.read_bytes()).splitlines(keepends=True)
            file = pathlib.Path(folder) / "cases.jsonl"
            file.write_bytes(b"".join(lines if LONG else random.Random(SEED).sample(lines, min(len(lines), 120))))
            done = subprocess.run(
                [program(), "conformance", file, "--seed", str(SEED), "--doors", "2,3,4",
                 "--redis", f"redis://127.0.0.1:{redis.port}"],
                text=True, timeout=1800, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, f"seed {SEED}\n{done.stdout[-8000:]}")


class RedisTest(test_kill.KillTest):
    """Inherits the ledger's checks; its own tests are not run again here."""

    test_every_point_in_the_code_is_tried = None
    test_no_acknowledged_event_is_lost_or_counted_twice = None

    def test_accidents_of_the_store_and_the_server(self):
        print(f"seed {SEED}, {ACCIDENTS} accidents ...", flush=True)
        rng = random.Random(SEED)
        redis = Redis()
        self.addCleanup(redis.close)
        with Project(DEFINITIONS, SETTINGS.replace("PORT", str(redis.port))) as project:
            self.project, self.rng, self.ledger, self.redis = project, rng, test_kill.Ledger(rng), redis
            self.history, self.history_files, self.loaded = [], 0, False
            (project.folder / "history").mkdir()
            self.add_history()
            project.run("apply")
            project.run("materialize")
            self.server = project.serve()
            self.assertTrue(self.server.wait_ready(), self.server.tail())
            self.fresh_answers, self.other_answers = 0, 0
            kinds = []
            for _ in range(ACCIDENTS):
                kinds = kinds or rng.sample(KINDS, len(KINDS))
                self.accident(kinds.pop())
            self.assertEqual(self.server.stop(), 0, self.server.tail())
            self.finish()
            print(f"{len(self.ledger.acknowledged):,} events, {self.fresh_answers:,} answers fresh, "
                  f"{self.other_answers:,} not", flush=True)
            self.assertGreater(self.fresh_answers, 0)

    def accident(self, kind):
        stop = threading.Event()
        threads = [threading.Thread(target=self.push, args=(self.server, stop, self.rng.randrange(1 << 30)))
                   for _ in range(test_kill.PUSHERS)]
        threads.append(threading.Thread(target=self.ask, args=(self.server, stop)))
        for thread in threads:
            thread.start()
        self.pause()
        self.redis.forget_saved()
        if kind == "flush":
            self.redis.command("FLUSHALL")
        elif kind == "restart empty":
            self.redis.kill()
            self.pause()
            self.redis.start()
        elif kind == "restart behind":
            self.redis.command("SAVE")
            self.pause()
            self.redis.kill()
            self.redis.start()
        elif kind == "hang":
            self.redis.process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            self.redis.process.send_signal(signal.SIGCONT)
        elif kind == "cut":
            self.redis.command("CLIENT", "KILL", "TYPE", "normal")
        elif kind == "kill":
            self.server.kill()
        elif kind == "kill both":
            self.redis.command("SAVE")
            self.pause()
            self.redis.kill()
            self.server.kill()
            self.redis.start()
        elif kind == "flush while down":
            self.server.kill()
            self.redis.command("FLUSHALL")
        if not self.server.alive():
            stop.set()
            for thread in threads:
                thread.join()
            self.server = self.project.serve()
            self.assertTrue(self.server.wait_ready(), self.server.tail())
        self.pause()
        self.wait_whole(kind)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(self.ledger.failures, [], f"after: {kind}\n{self.server.tail()}")
        try:
            self.check_bounds(self.server)
        except AssertionError as error:
            raise AssertionError(f"after `{kind}`: {error}\n{self.server.tail()}") from None

    def pause(self):
        time.sleep(self.rng.random() * PUSH_SECONDS)

    def wait_whole(self, kind):
        """Until the store is whole and everything logged is applied, without anybody's help."""
        end = time.monotonic() + RECOVERY_SECONDS_MAX
        why = None
        while time.monotonic() < end:
            with Client(self.server) as client:
                checks = {check["name"]: check for check in client.call("GET", "/ready")["checks"]}
                why = [checks[name] for name in ("store", "frontier", "store nodes") if not checks[name]["ok"]]
            if not why:
                try:
                    self.served(self.server)
                    return
                except (Failed, AssertionError) as error:
                    why = error
            time.sleep(0.05)
        self.fail(f"after `{kind}` it never came back: {why}\n{self.server.tail()}")

    def ask(self, server, stop):
        """Requests all the time."""
        rng = random.Random(SEED)
        try:
            with Client(server) as client:
                while not stop.is_set():
                    name = test_kill.user(rng.randrange(test_kill.USERS))
                    with self.ledger.lock:
                        rows = [row for row in self.ledger.acknowledged.values() if row["user_id"] == name]
                    answer = client.call("POST", "/v1/features", {"service": "all", "entities": {"user_id": [name]}})
                    feature = answer["features"]["events_lifetime"]
                    status, value = feature["status"][0], feature["values"][0]
                    if status == "missing":
                        self.ledger.fail(f"{name} was answered as a new one")
                    if status == "fresh":
                        self.fresh_answers += 1
                        if value < len(rows):
                            self.ledger.fail(f"{name} has {value}, said to be fresh; {len(rows)} were acknowledged: {answer}")
                    else:
                        self.other_answers += 1
                    time.sleep(0.005)
        except Failed as failed:
            self.ledger.fail(f"a request failed: {failed}")
        except Exception:  # noqa: BLE001 - the connection died with the server
            if not server.wait_dead(5):
                self.ledger.fail("a connection was cut while the server lived")

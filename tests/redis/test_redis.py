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
from project import test_changes
from springhouse_testing import LONG, SEED, Client, Failed, Project, certificate, eventually, free_port, program

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

# Where rows are: what holds for one holds for the other, and each seed tries one of them.
LAYOUTS = [f"  row_layout: {layout}\n" for layout in (("view", "entity") if SEED % 2 == 0 else ("entity", "view"))]


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
                [program(), "conformance", file, "--seed", str(SEED), "--doors", "2,3,4,6",
                 "--redis", f"redis://127.0.0.1:{redis.port}"],
                text=True, timeout=1800, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, f"seed {SEED}\n{done.stdout[-8000:]}")


class ChangesTest(test_changes.ChangesTest):
    """The changes of a table, on Redis: states that take back are stored, expire and are merged like all others."""

    def store(self):
        redis = Redis()
        self.addCleanup(redis.close)
        return f"store: {{kind: redis}}\nredis: {{urls: ['redis://127.0.0.1:{redis.port}'], script_rows_max: 50, row_layout: entity}}\n"


class MaterializeTest(unittest.TestCase):
    """Buckets are written in parts of 50 entities, so an accident finds some of a bucket written."""

    USERS = 20_000
    DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  orders:
    table: {path: orders.csv, format: csv}
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: float64}
feature_views:
  totals:
    entity: user
    source: orders
    ttl: 36500d
    aggregate:
      orders: {fn: count, windows: [lifetime], default: 0}
  newest:
    entity: user
    source: orders
    ttl: 20000d
    features: [amount]
feature_services:
  all: {features: [totals, newest]}
"""

    def project(self, redis, rng):
        """A project with a table of orders, and how many orders each user has."""
        project = Project(self.DEFINITIONS, SETTINGS.replace("PORT", str(redis.port)))
        rows = [rng.randrange(self.USERS) for _ in range(4 * self.USERS)]
        lines = [f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z,{user},{n}" for n, user in enumerate(rows)]
        (project.folder / "orders.csv").write_text("at,user_id,amount\n" + "\n".join(lines) + "\n")
        project.run("apply")
        expected = [0] * self.USERS
        for user in rows:
            expected[user] += 1
        return project, expected

    def begin(self, project, command="materialize"):
        return subprocess.Popen([program(), "--project", project.folder, command], text=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def check(self, project, expected):
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        with Client(server) as client:
            counts = []
            for first in range(0, self.USERS, 1000):
                got = client.features(["totals"], {"user_id": list(range(first, first + 1000))})
                counts += got["orders_lifetime"]["values"]
        self.assertEqual(counts, expected)
        project.run("verify")
        self.assertEqual(server.stop(), 0, server.tail())

    def test_a_load_that_is_killed_again_and_again_counts_every_row_once(self):
        rng, redis = random.Random(SEED), Redis()
        self.addCleanup(redis.close)
        project, expected = self.project(redis, rng)
        with project:
            kills, seconds = 0, 0.03
            while True:
                process = self.begin(project)
                try:
                    self.assertEqual(process.wait(seconds), 0)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                finally:
                    process.stderr.close()
                seconds *= 1 + rng.random() / 2
            print(f"seed {SEED}, {kills} kills", flush=True)
            self.assertGreater(kills, 2)
            self.check(project, expected)

    def test_a_load_waits_for_a_store_that_is_away_and_goes_on(self):
        rng, redis = random.Random(SEED), Redis()
        self.addCleanup(redis.close)

        def restart(is_empty):
            redis.kill()
            if is_empty:
                redis.forget_saved()
            time.sleep(0.5)
            redis.start()

        def hang():
            redis.process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)
            redis.process.send_signal(signal.SIGCONT)

        def fill():
            """Memory runs out, and there is more a while later."""
            redis.command("CONFIG", "SET", "maxmemory", "1mb")
            time.sleep(0.5)
            redis.command("CONFIG", "SET", "maxmemory", "0")

        accidents = {"restart behind": lambda: restart(False), "restart empty": lambda: restart(True), "hang": hang,
                     "full": fill, "cut": lambda: redis.command("CLIENT", "KILL", "TYPE", "normal"),
                     "flush": lambda: redis.command("FLUSHALL")}
        def keys():
            return int(redis.command("DBSIZE")[1:])

        for command, name in [(command, name) for command in ("materialize", "rebuild") for name in accidents]:
            redis.command("FLUSHALL")
            project, expected = self.project(redis, rng)
            with self.subTest(f"{command}, {name}", seed=SEED), project:
                if command == "rebuild":
                    project.run("materialize")
                before, more = keys(), rng.randrange(500, 15_000)
                process = self.begin(project, command)
                eventually("a part is loaded", lambda: keys() > before + more // 2, 60)
                redis.command("SAVE")
                eventually("more is loaded", lambda: keys() > before + more, 60)
                accidents[name]()
                _, said = process.communicate(timeout=120)
                self.assertEqual(process.returncode, 0, said)
                self.assertIn("waiting for the online store", said)
                self.check(project, expected)


class TlsTest(unittest.TestCase):
    """A server that takes TLS alone, asks for certificates, and knows users."""

    USER = "springhouse on >secret ~{springhouse:* +@read +@write +@scripting +@transaction +@connection +info +wait"

    def test_tls_with_certificates_of_both_and_a_user(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            certificate(folder, "authority")
            certificate(folder, "stranger")
            for of in ["server", "client"]:
                certificate(folder, of, "authority")
            certificate(folder, "other", "stranger")
            tls_port = free_port()
            redis = Redis("--tls-port", str(tls_port), "--tls-cert-file", folder / "server.crt", "--tls-key-file",
                          folder / "server.key", "--tls-ca-cert-file", folder / "authority.crt")
            self.addCleanup(redis.close)
            redis.command("ACL", "SETUSER", *self.USER.split())
            (folder / "password").write_text("secret\n")

            def settings(**changed):
                keys = {"urls": f"['rediss://127.0.0.1:{tls_port}']", "username": "springhouse",
                        "password_file": folder / "password", "tls_ca_file": folder / "authority.crt",
                        "tls_cert_file": folder / "client.crt", "tls_key_file": folder / "client.key",
                        "connect_timeout_ms": 2000} | changed
                lines = "".join(f"  {key}: {value}\n" for key, value in keys.items() if value is not None)
                return f"project: test\nstore: {{kind: redis}}\nredis:\n{lines}"

            (folder / "wrong").write_text("guess")
            refused = [({"tls_ca_file": folder / "stranger.crt"}, "certificate"),
                       ({"tls_cert_file": folder / "other.crt", "tls_key_file": folder / "other.key"}, ""),
                       ({"tls_cert_file": None, "tls_key_file": None}, ""),
                       ({"password_file": folder / "wrong"}, "password"),
                       ({"urls": f"['redis://127.0.0.1:{tls_port}']"}, ""),
                       ({"tls_ca_file": folder / "nothing.crt"}, "nothing.crt")]
            definitions = DEFINITIONS.replace("    history: {path: history/*.csv, format: csv}\n", "")
            with Project(definitions, settings()) as project:
                project.run("apply")
                for changed, said in refused:
                    (project.folder / "springhouse.yaml").write_text(settings(**changed))
                    done = project.run("serve", "--bind", "127.0.0.1:0", check=False, timeout=60)
                    self.assertNotEqual(done.returncode, 0, changed)
                    self.assertIn(said, done.stderr.lower(), changed)
                    self.assertNotIn("secret", done.stderr)
                (project.folder / "springhouse.yaml").write_text(settings())
                server = project.serve()
                self.assertTrue(server.wait_ready(), server.tail())
                with Client(server) as client:
                    row = {"event_id": "1", "user_id": "u1", "at": "2026-01-01T00:00:00Z", "amount": 2}
                    client.push("events", [row])
                    got = client.features(["totals:events_lifetime"], {"user_id": ["u1"]})
                    self.assertEqual(got["events_lifetime"]["values"], [1])
                self.assertEqual(server.stop(), 0, server.tail())


class RedisTest(test_kill.KillTest):
    """Inherits the ledger's checks; its own tests are not run again here."""

    test_every_point_in_the_code_is_tried = None
    test_no_acknowledged_event_is_lost_or_counted_twice = None

    def test_accidents_of_the_store_and_the_server(self):
        print(f"seed {SEED}, {ACCIDENTS} accidents ...", flush=True)
        rng = random.Random(SEED)
        redis = Redis()
        self.addCleanup(redis.close)
        with Project(DEFINITIONS, SETTINGS.replace("PORT", str(redis.port)) + LAYOUTS[0]) as project:
            self.redis = redis
            self.begin(project, rng)
            kinds = []
            for _ in range(ACCIDENTS):
                kinds = kinds or rng.sample(KINDS, len(KINDS))
                self.accident(kinds.pop())
            self.assertEqual(self.server.stop(), 0, self.server.tail())
            self.finish()
            print(f"{len(self.ledger.acknowledged):,} events, {self.fresh_answers:,} answers fresh, "
                  f"{self.other_answers:,} not", flush=True)
            self.assertGreater(self.fresh_answers, 0)

    def begin(self, project, rng):
        """A project with history loaded, and its server."""
        self.project, self.rng, self.ledger = project, rng, test_kill.Ledger(rng)
        self.history, self.history_files, self.loaded = [], 0, False
        (project.folder / "history").mkdir()
        self.add_history()
        project.run("apply")
        project.run("materialize")
        self.server = project.serve()
        self.assertTrue(self.server.wait_ready(), self.server.tail())
        self.fresh_answers, self.other_answers = 0, 0

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
        self.check_bounds_after(kind)

    def check_bounds_after(self, kind):
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

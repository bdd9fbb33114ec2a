"""What a server tells of itself: traces to a collector that is not ours, and the log of what was served."""
import json
import os
import pathlib
import queue
import subprocess
import threading
import time
import unittest

from springhouse_testing import ROOT, Client, Failed, Project

HERE = pathlib.Path(__file__).parent

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
  person: {keys: {mail: string}}
sources:
  events:
    stream: push
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: float64, mail: {type: string, pii: true}}
feature_views:
  activity:
    entity: user
    source: events
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime], default: 0}
  contact:
    entity: user
    source: events
    ttl: 3650d
    features: [mail, amount]
  mailed:
    entity: person
    source: events
    ttl: 3650d
    features: {last_amount: amount}
request_views:
  ask:
    fields: {limit: float64!, phone: {type: string, pii: true}}
    inputs: {amount: "contact:amount"}
    features: {over: amount > limit}
  plain:
    fields: {limit: float64!}
    inputs: {amount: "contact:amount"}
    features: {ratio: amount / limit}
feature_services:
  all: {features: [activity, contact, mailed, ask, plain], readers: ["role:model"]}
"""
GIVEN = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def started(script, *arguments):
    environment = os.environ | {"REQUIREMENTS": str(HERE / "requirements.txt")}
    return subprocess.Popen(["sh", ROOT / "scripts/python.sh", HERE / script, *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, env=environment)


class Collector:
    def __init__(self):
        self.process = started("collector.py")
        self.spans = queue.Queue()
        self.port = json.loads(self.process.stdout.readline())["port"]
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.spans.put(json.loads(line))

    def wait(self, count):
        """So many spans, in whatever order they come."""
        return [self.spans.get(timeout=20) for _ in range(count)]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class TraceTest(unittest.TestCase):
    def setUp(self):
        self.collector = Collector()
        self.addCleanup(self.collector.close)

    def serve(self, project):
        project.run("apply")
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        with Client(server) as client:
            client.push("events", [{"at": "2026-01-01T00:00:00Z", "user_id": 1, "amount": 3.5, "mail": "a@b.c"}])
        return server

    def settings(self, more):
        return f"project: test\ntelemetry: {{otlp_endpoint: 'http://127.0.0.1:{self.collector.port}', {more}}}\n"

    def test_a_request_is_a_span_with_its_stages_below(self):
        with Project(DEFINITIONS, self.settings("sample_ratio: 0, service_name: shop, log_format: json")) as project:
            server = self.serve(project)
            with Client(server) as client:
                body = {"features": ["activity", "plain"], "entities": {"user_id": [1, 2]}, "request": {"limit": [2.0]}}
                before = time.time_ns()
                for flags in ["00", "01"]:
                    client.call("POST", "/v1/features", body, {"traceparent": f"00-{GIVEN}-{PARENT}-{flags}"})
                client.call("POST", "/v1/features", body)
                after = time.time_ns()
            spans = {span["name"]: span for span in self.collector.wait(5)}
            self.assertEqual(set(spans), {"features", "plan", "store", "kernel", "expressions"})
            root = spans.pop("features")
            self.assertEqual((root["trace"], root["parent"], root["kind"]), (GIVEN, PARENT, 2))
            self.assertEqual(root["resource"]["service.name"], "shop")
            self.assertEqual(root["attributes"], {"http.response.status_code": 200, "springhouse.rows": 2})
            self.assertLess(before - 1e7, root["start"])
            self.assertLess(root["end"], after + 1e7)
            end = root["start"]
            for name in ["plan", "store", "kernel", "expressions"]:
                span = spans[name]
                self.assertEqual((span["trace"], span["parent"]), (GIVEN, root["span"]), name)
                self.assertLessEqual(end, span["start"] + 1000, name)
                end = span["end"]
            self.assertLessEqual(end, root["end"] + 1000)
            self.assertEqual(server.stop(), 0, server.tail())
            # Only what the caller keeps is kept; the log is JSON.
            time.sleep(0.2)
            self.assertTrue(self.collector.spans.empty())
            logged = [line for line in server.log if line.startswith("{")]
            self.assertTrue(any(json.loads(line)["message"] == "serving" for line in logged), server.tail())

    def test_failures_and_a_collector_that_goes_away(self):
        with Project(DEFINITIONS, self.settings("sample_ratio: 1")) as project:
            server = self.serve(project)
            names = [span["name"] for span in self.collector.wait(2)]
            self.assertEqual(sorted(names), ["push", "ready"])
            with Client(server) as client:
                with self.assertRaises(Failed) as failed:
                    client.call("POST", "/v1/features", {"features": ["nothing"], "entities": {}})
            trace = json.loads(failed.exception.text)["error"]["trace_id"]
            [span] = self.collector.wait(1)
            self.assertEqual((span["name"], span["trace"], span["parent"]), ("features", trace, ""))
            self.assertEqual(span["attributes"], {"http.response.status_code": 404})
            self.collector.close()
            with Client(server) as client:
                for _ in range(200):
                    client.features(["activity"], {"user_id": [1]})
            began = time.monotonic()
            self.assertEqual(server.stop(), 0, server.tail())
            self.assertLess(time.monotonic() - began, 15)

    def test_wrong_settings_are_told(self):
        with Project(DEFINITIONS, "project: test\ntelemetry: {otlp_endpoint: 'https://there:1', sample_ratio: 2}\n") as project:
            project.run("apply")
            done = project.run("serve", check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("sample_ratio", done.stderr)
            self.assertIn("otlp_endpoint", done.stderr)


class ServedLogTest(unittest.TestCase):
    def rows(self, project):
        table = project.folder / ".springhouse/lake/_served"
        process = started("read_log.py", table)
        rows = [json.loads(line) for line in process.stdout]
        process.stdout.close()
        self.assertEqual(process.wait(), 0)
        for row in rows:
            for column in ["entities", "request", "features", "statuses", "origins", "positions"]:
                row[column] = json.loads(row[column])
        return rows

    def test_what_was_served_is_in_the_lake_without_personal_data(self):
        settings = "project: test\nserver: {served_log_ratio: 1, served_log_interval_ms: 200, roles: [model]}\n"
        with Project(DEFINITIONS, settings) as project:
            project.run("apply")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            with Client(server) as client:
                client.push("events", [{"at": "2026-01-01T00:00:00Z", "user_id": 1, "amount": 3.5, "mail": "a@b.c"}])
                body = {"service": "all", "entities": {"user_id": [1, 2], "mail": ["a@b.c", "x@y.z"]},
                        "request": {"limit": [2.0], "phone": ["+1 555"]}}
                answer = client.call("POST", "/v1/features", body, {"traceparent": f"00-{GIVEN}-{PARENT}-00"})
                self.assertEqual(answer["features"]["mail"]["values"], ["a@b.c", None])
                for _ in range(20):
                    client.features(["activity:events_lifetime"], {"user_id": [1]})
                with self.assertRaises(Failed):
                    client.features(["nothing"], {"user_id": [1]})
                end = time.monotonic() + 20
                while 'springhouse_served_log_rows_total{outcome="written"} 22' not in client.call("GET", "/metrics"):
                    self.assertLess(time.monotonic(), end, client.call("GET", "/metrics"))
                    time.sleep(0.1)
                # What was taken just before the end is not lost either.
                client.features(["activity:events_lifetime"], {"user_id": [2]})
            self.assertEqual(server.stop(), 0, server.tail())
            rows = self.rows(project)
            self.assertEqual(len(rows), 23)
            first, second = sorted((row for row in rows if row["service"] == "all"), key=lambda row: row["row"])
            for row, user in [(first, 1), (second, 2)]:
                self.assertEqual(row["trace_id"], GIVEN)
                self.assertEqual(row["entities"], {"user_id": user, "mail": None})
                self.assertEqual(row["request"], {"limit": 2.0, "phone": None})
                self.assertEqual(row["definition"], answer["definition"])
                self.assertIn("activity@1", row["positions"])
            names = ["events_lifetime", "amount", "last_amount", "ratio"]
            self.assertEqual({name: first["features"][name] for name in names},
                             {"events_lifetime": 1, "amount": 3.5, "last_amount": 3.5, "ratio": 1.75})
            for row in [first, second]:
                self.assertIsNone(row["features"]["mail"])
                # Computed from a personal field.
                self.assertIsNone(row["features"]["over"])
            self.assertEqual((first["statuses"]["amount"], second["statuses"]["amount"]), ("fresh", "missing"))
            for path in (project.folder / ".springhouse/lake/_served").rglob("*"):
                if path.is_file():
                    for secret in [b"a@b.c", b"x@y.z", b"+1 555"]:
                        self.assertNotIn(secret, path.read_bytes(), path)
            # The next server goes on in the same table.
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            with Client(server) as client:
                client.features(["activity:events_lifetime"], {"user_id": [3]})
            self.assertEqual(server.stop(), 0, server.tail())
            self.assertEqual(len(self.rows(project)), 24)

    def test_rows_that_are_older_than_they_are_kept_are_deleted(self):
        settings = "project: test\nserver: {served_log_ratio: 1, served_log_retention_days: 2}\n"
        with Project(DEFINITIONS, settings) as project:
            project.run("apply")
            table = project.folder / ".springhouse/lake/_served"
            for day in range(4):
                server = project.serve()
                self.assertTrue(server.wait_ready(), server.tail())
                with Client(server) as client:
                    client.features(["activity:events_lifetime"], {"user_id": [day]})
                self.assertEqual(server.stop(), 0, server.tail())
                # The next start is a day later.
                for log in [*table.glob("*.parquet"), *table.glob("_delta_log/*.json")]:
                    self.age(log, 86_400)
                    if log.suffix == ".json":
                        log.write_text("".join(map(self.a_day_older, log.read_text().splitlines(keepends=True))))
            users = sorted(row["entities"]["user_id"] for row in self.rows(project))
            self.assertEqual(users, [2, 3])
            self.assertEqual(len(list(table.glob("*.parquet"))), 2)

    @staticmethod
    def age(path, seconds):
        status = path.stat()
        os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))

    @staticmethod
    def a_day_older(line):
        action = json.loads(line)
        if "add" in action:
            action["add"]["modificationTime"] -= 86_400_000
        return json.dumps(action) + "\n"

"""A file that grows as a source: every whole line counts once, whatever stops when."""
import collections
import json
import random
import time
import unittest

from springhouse_testing import LONG, SEED, Client, Project

PATIENCE = 30
DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  events:
    stream: {ndjson: logs/events.ndjson}
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: int64}
feature_views:
  totals:
    entity: user
    source: events
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime], default: 0}
      amount: {fn: sum, column: amount, windows: [lifetime], default: 0}
"""
SETTINGS = "project: test\npush: {segment_bytes: 65536, flush_interval_ms: 150, checkpoint_interval_ms: 200}\n" \
    "kafka: {batch_bytes_max: 4096}\n"
USERS = 20


class FileStreamTest(unittest.TestCase):
    def setUp(self):
        self.project = Project(DEFINITIONS, SETTINGS)
        self.addCleanup(self.project.__exit__, None, None, None)
        self.project.run("apply")
        self.file = self.project.folder / "logs/events.ndjson"
        self.expected = collections.defaultdict(lambda: [0, 0])

    def serve(self):
        server = self.project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return server

    def append(self, text):
        self.file.parent.mkdir(exist_ok=True)
        with open(self.file, "a") as file:
            file.write(text)

    def line(self, rng):
        user, amount = rng.randrange(USERS), rng.randrange(-9, 9)
        self.expected[user][0] += 1
        self.expected[user][1] += amount
        return json.dumps({"at": "2026-01-01T00:00:00Z", "user_id": user, "amount": amount})

    def wait(self, server, what, holds):
        return server.eventually(what, holds, PATIENCE)

    def wait_served(self, server):
        users = list(range(USERS))

        def holds(client):
            got = client.features(["totals"], {"user_id": users})
            served = [list(pair) for pair in zip(got["events_lifetime"]["values"], got["amount_lifetime"]["values"])]
            above = [user for user in users if served[user][0] > self.expected[user][0]]
            self.assertEqual(above, [], "counted twice")
            return served == [self.expected[user] for user in users]
        self.wait(server, "every line", holds)

    def test_every_line_counts_once_through_kills(self):
        rng = random.Random(SEED)
        server = self.serve()
        self.wait(server, "no file is no failure", lambda client: not client.call("GET", "/v1/status")["topics"][0]["failing"])
        for number in range(30 if LONG else 8):
            lines = [self.line(rng) for _ in range(rng.randrange(1, 400))]
            text = "\n".join(lines) + rng.choice(["\n", "\r\n", "\n\n  \n"])
            # Written in pieces that end anywhere.
            while text:
                cut = rng.randrange(1, 20_000)
                self.append(text[:cut])
                text = text[cut:]
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.05)
            if number % 2:
                time.sleep(rng.random() * 0.1)
                server.kill()
                server = self.serve()
            else:
                self.wait_served(server)
        self.wait_served(server)
        self.wait(server, "no lag", lambda client: client.call("GET", "/v1/status")["topics"][0]["lag_messages"] == 0)
        with Client(server) as client:
            status = client.call("GET", "/v1/status")
        self.assertEqual(status["topics"][0]["partitions"][0]["position"], self.file.stat().st_size)
        self.project.run("verify")
        self.assertEqual(server.stop(), 0, server.tail())

    def test_bad_lines_are_dead_letters_and_a_half_line_waits(self):
        rng = random.Random(SEED)
        server = self.serve()
        self.append("nonsense\n" + self.line(rng) + '\n{"user_id": 1}\n{"at": "2026-01-01T00:00:00Z", "user_id": "x"}\n')
        self.append('"' + "x" * (17 << 20) + '"\n' + self.line(rng) + "\n")
        half = self.line(rng)
        user = json.loads(half)["user_id"]
        self.expected[user][0] -= 1
        self.expected[user][1] -= json.loads(half)["amount"]
        self.append(half)
        self.wait_served(server)

        def letters(client):
            found = client.call("GET", "/v1/dead-letters/events")["dead_letters"]
            return found if len(found) == 4 else None
        codes = sorted(letter["code"] for letter in self.wait(server, "four dead letters", letters))
        self.assertEqual(codes, ["malformed_row", "missing_column", "out_of_range", "wrong_type"])
        self.expected[user][0] += 1
        self.expected[user][1] += json.loads(half)["amount"]
        self.append("\n")
        self.wait_served(server)
        self.assertEqual(server.stop(), 0, server.tail())

    def test_a_file_that_was_cut_is_told(self):
        rng = random.Random(SEED)
        server = self.serve()
        self.append("".join(self.line(rng) + "\n" for _ in range(50)))
        self.wait_served(server)
        failing = lambda client: client.call("GET", "/v1/status")["topics"][0]["failing"]
        length = self.file.stat().st_size
        for made_anew in ("", "x" * (length + 100) + "\n"):
            self.file.write_text(made_anew)
            self.wait(server, "it is told", failing)
            self.assertTrue(any("was cut or made anew" in line for line in server.log), server.tail())
            self.assertEqual(server.stop(), 0, server.tail())
            server = self.serve()
            self.wait(server, "it is told again", failing)
        self.file.unlink()
        self.wait_served(server)
        self.assertEqual(server.stop(), 0, server.tail())

    def test_definitions_with_mistakes_are_refused(self):
        for stream, said in [("{ndjson: ''}", "empty"), ("{}", "neither"), ("{ndjson: a, kafka: {topic: t}}", "both")]:
            with Project(DEFINITIONS.replace("{ndjson: logs/events.ndjson}", stream)) as project:
                done = project.run("validate", check=False)
                self.assertNotEqual(done.returncode, 0, stream)
                self.assertIn(said, done.stdout + done.stderr, stream)

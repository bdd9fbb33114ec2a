"""Topics of a real broker as sources: every produced event counts exactly once, whatever stops when.

The oracle of the long test: users' totals are computed from what was produced, `served` must reach them and never exceed
them, through accidents of the server, the broker and both; at the end `verify` must find nothing.
"""
import collections
import os
import random
import time
import unittest

from kafka.broker import Broker, Kafka
from springhouse_testing import LONG, SEED, Client, Failed, Project, eventually

ROUNDS = int(os.environ.get("SPRINGHOUSE_TEST_ROUNDS", "40" if LONG else "8"))
PATIENCE = 60
USERS = 30

DEFINITIONS = """
entities:
  user: {keys: {user_id: string}}
sources:
  clicks:
    stream: {kafka: {topic: TOPIC MORE}}
    event_time: at SOURCE
    columns: {at: timestamp!, user_id: string!, amount: int64 COLUMNS}
feature_views:
  totals:
    entity: user
    source: clicks
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime], default: 0}
      amount: {fn: sum, column: amount, windows: [lifetime], default: 0}
  newest:
    entity: user
    source: clicks
    ttl: 3650d
    features: {last_amount: amount}
feature_services:
  all: {features: [totals], on_stale: serve}
"""

SETTINGS = """project: test
kafka: {brokers: ["ADDRESS"], batch_messages_max: 500, metadata_interval_ms: 300, socket_timeout_ms: 3000}
push: {segment_bytes: 65536, flush_interval_ms: 200, checkpoint_interval_ms: 300}
"""


def definitions(topic, more="", columns="", source=""):
    more = f", {more}" if more else ""
    columns = f", {columns}" if columns else ""
    source = f"\n    {source}" if source else ""
    text = DEFINITIONS.replace("TOPIC", topic).replace(" MORE", more).replace(" COLUMNS", columns)
    return text.replace(" SOURCE", source)


def row(user, amount=1, at=None, **more):
    moment = time.time() if at is None else at
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06}Z"
    return {"at": text, "user_id": user, "amount": amount} | more


def event(user, amount=1, at=None, **message):
    return {"value": row(user, amount, at)} | message


class KafkaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.broker = Broker()
        cls.addClassCleanup(cls.broker.close)
        cls.kafka = Kafka(cls.broker.address)
        cls.addClassCleanup(cls.kafka.close)
        cls.topics = 0

    def topic(self, partitions=1, **configuration):
        type(self).topics += 1
        name = f"clicks-{self.topics}"
        self.kafka.create(name, partitions, **configuration)
        return name

    def project(self, topic, more="", columns="", source="", serve=True):
        project = Project(definitions(topic, more, columns, source), SETTINGS.replace("ADDRESS", self.broker.address))
        self.addCleanup(project.__exit__, None, None, None)
        project.__enter__()
        project.run("apply")
        if not serve:
            return project, None
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return project, server

    def totals(self, client, users):
        answer = client.call("POST", "/v1/features", {"service": "all", "entities": {"user_id": users}})
        values = {name: answer["features"][name]["values"] for name in ("events_lifetime", "amount_lifetime")}
        return {user: (values["events_lifetime"][i], values["amount_lifetime"][i]) for i, user in enumerate(users)}

    def wait_totals(self, server, expected, may_pass=False):
        """Until exactly these are served; more than them fails at once, unless on the way there may be more."""
        end = time.monotonic() + PATIENCE
        served = None
        while time.monotonic() < end:
            try:
                with Client(server) as client:
                    served = self.totals(client, list(expected))
            except (Failed, OSError):
                pass
            if served == expected:
                return
            if served and not may_pass:
                above = {u: (served[u], expected[u]) for u in expected if served[u][0] > expected[u][0]}
                self.assertEqual(above, {}, f"counted twice\n{server.tail()}")
            time.sleep(0.05)
        different = {u: (served and served[u], expected[u]) for u in expected if not served or served[u] != expected[u]}
        self.fail(f"seed {SEED}: not served, expected: {different}\n{server.tail()}")

    def wait(self, what, holds):
        return eventually(what, holds, PATIENCE)

    def status(self, server):
        with Client(server) as client:
            return client.call("GET", "/v1/status")["topics"][0]

    def letters(self, server, count):
        """The dead letters, once there are so many: what workers put aside is in the lake with their next portion."""
        def enough():
            with Client(server) as client:
                letters = client.call("GET", "/v1/dead-letters/clicks")["dead_letters"]
            return len(letters) >= count and letters
        return self.wait(f"{count} dead letters", enough)

    def test_accidents_lose_and_double_nothing(self):
        print(f"seed {SEED}, {ROUNDS} rounds ...", flush=True)
        rng = random.Random(SEED)
        topic = self.topic(3)
        project, server = self.project(topic)
        expected = collections.defaultdict(lambda: (0, 0))
        partitions = 3
        kinds = []
        for _ in range(ROUNDS):
            kinds = kinds or rng.sample(["kill", "kill twice", "stop", "hang", "broker", "both", "grow", "none"], 8)
            kind = kinds.pop()
            try:
                for _ in range(rng.randrange(1, 4)):
                    messages = []
                    for _ in range(rng.randrange(1, 900)):
                        user, amount = f"u{int(rng.paretovariate(0.7)) % USERS}", rng.randrange(-50, 50)
                        messages.append(event(user, amount, time.time() - rng.random() * 1e6,
                                              partition=rng.randrange(partitions)))
                        events, total = expected[user]
                        expected[user] = (events + 1, total + amount)
                    self.kafka.produce(topic, messages)
                time.sleep(rng.random() * 0.3)
                if kind.startswith("kill"):
                    for _ in range(1 if kind == "kill" else 2):
                        server.kill()
                        server = project.serve()
                        time.sleep(rng.random() * 0.4)
                elif kind == "stop":
                    self.assertEqual(server.stop(), 0, server.tail())
                    server = project.serve()
                elif kind == "hang":
                    self.broker.hang(1.0)
                elif kind == "broker":
                    self.broker.kill()
                    self.broker.start()
                elif kind == "both":
                    self.broker.kill()
                    server.kill()
                    server = project.serve()
                    self.broker.start()
                elif kind == "grow":
                    partitions += 1
                    self.kafka.call("grow", topic=topic, partitions=partitions)
                self.assertTrue(server.wait_ready(), server.tail())
                self.wait_totals(server, dict(expected))
            except AssertionError as error:
                raise AssertionError(f"seed {SEED}, after `{kind}`: {error}") from None
        def is_done():
            status = self.status(server)
            return status["lag_messages"] == 0 and len(status["partitions"]) == partitions
        self.wait("no lag, and every partition known", is_done)
        project.run("verify")
        self.assertEqual(server.stop(), 0, server.tail())

    def test_a_bad_message_goes_to_the_dead_letters_with_its_place_and_stops_nobody(self):
        topic = self.topic(1)
        _, server = self.project(topic)
        future = time.time() + 86_400
        bad = [
            ({"raw": "{not json"}, "malformed_row"),
            ({"raw": "[1, 2]"}, "malformed_row"),
            ({"value": {"at": "2026-01-01T00:00:00Z", "amount": 1}}, "missing_column"),
            ({"value": {"at": "2026-01-01T00:00:00Z", "user_id": "a", "amount": "x"}}, "wrong_type"),
            ({"value": {"at": "2026-01-01T00:00:00Z", "user_id": "a", "amount": 1, "more": 2}}, "unknown_column"),
            (event("a", 1, future), "event_time_in_future"),
        ]
        messages = []
        for message, _ in bad:
            messages += [message, event("good", 2)]
        messages.append({"key": "gone", "value": None})
        places = self.kafka.produce(topic, messages)
        self.wait_totals(server, {"good": (len(bad), 2 * len(bad)), "a": (0, 0)})
        letters = self.letters(server, len(bad))
        self.assertEqual(sorted(letter["code"] for letter in letters), sorted(code for _, code in bad))
        for (partition, offset), (_, code) in zip(places[::2], bad):
            place = f"(topic `{topic}`, partition {partition}, offset {offset})"
            self.assertTrue(any(letter["code"] == code and place in letter["reason"] for letter in letters),
                            f"{code} at {place}: {letters}")
        status = self.wait("the tombstone", lambda: (s := self.status(server))["tombstones"] and s)
        self.assertEqual((status["tombstones"], status["messages"]), (1, len(messages)))

    def test_keys_and_headers_become_columns_and_aborted_transactions_are_no_events(self):
        topic = self.topic(1)
        _, server = self.project(topic, "key: user_id, headers: {channel: c, size: s}", "channel: string, size: int64")
        at = row("")["at"]
        message = {"key": 'a "quoted" key', "value": {"at": at, "amount": 5}, "headers": {"c": "web", "s": "12"}}
        self.kafka.produce(topic, [message, {**message, "headers": {"s": "many"}}, {**message, "key": None}])
        self.kafka.call("transaction", topic=topic, messages=[message] * 3, commit=True)
        self.kafka.call("transaction", topic=topic, messages=[message] * 5, commit=False)
        self.wait_totals(server, {'a "quoted" key': (4, 20)})
        # The marks of transactions are passed too, so that nothing seems to wait.
        self.wait("no lag", lambda: self.status(server)["lag_messages"] == 0)
        letters = self.letters(server, 2)
        self.assertEqual(sorted(letter["code"] for letter in letters), ["missing_column", "wrong_type"])
        self.wait_totals(server, {'a "quoted" key': (4, 20)})

    def test_the_changes_of_a_table_take_back_what_they_change(self):
        rng = random.Random(SEED)
        topic = self.topic(3)
        project, server = self.project(topic, "key: order_id", "order_id: int64!", "op: op")
        table, orders = {}, 0
        for number in range(8):
            messages = []
            for _ in range(100):
                order = rng.choice(list(table)) if table and rng.random() < 0.6 else None
                if order is None:
                    orders += 1
                    order, before, after, op = orders, None, row(f"u{rng.randrange(5)}", rng.randrange(-9, 9)), "c"
                elif rng.random() < 0.4:
                    before, after, op = table[order], None, "d"
                else:
                    before, op = table[order], "u"
                    after = {**before, "user_id": f"u{rng.randrange(5)}", "amount": rng.randrange(-9, 9)}
                table[order] = after
                if after is None:
                    del table[order]
                messages.append({"key": str(order), "value": {"before": before, "after": after, "op": op, "ts_ms": 1}})
            self.kafka.produce(topic, messages)
            if number in (2, 5):
                server.kill()
                server = project.serve()
                self.assertTrue(server.wait_ready(), server.tail())
        users = [f"u{user}" for user in range(5)]
        amounts = {user: [one["amount"] for one in table.values() if one["user_id"] == user] for user in users}
        self.wait_totals(server, {user: (len(amounts[user]), sum(amounts[user])) for user in users}, may_pass=True)
        self.assertEqual(server.stop(), 0, server.tail())
        self.assertIn("0 differ", project.run("verify").stdout)

    def test_where_reading_begins(self):
        topic = self.topic(2, retention_ms=-1)
        before = [event("a", 1, 1_700_000_000 + i, partition=0, timestamp_ms=1_700_000_000_000 + i * 1000) for i in range(10)]
        self.kafka.produce(topic, before)
        at = "2023-11-14T22:13:24.5Z"           # 1,700,000,004.5
        project, server = self.project(topic, "start: latest")
        _, other = self.project(topic, f'start: "{at}"')
        self.wait("the first look", lambda: self.status(server)["partitions"])
        self.wait_totals(other, {"a": (5, 5)})
        # Where the first look found it is remembered, also before any message.
        server.kill()
        self.kafka.produce(topic, [event("a", 7, partition=1)])
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait_totals(server, {"a": (1, 7)})
        self.wait_totals(other, {"a": (6, 12)})

    def test_a_history_is_handed_over_by_offset(self):
        topic = self.topic(2, retention_ms=-1)
        old = [event("a", 1, 1_700_000_000 + i, partition=i % 2, timestamp_ms=(1_700_000_000 + i) * 1000) for i in range(10)]
        self.kafka.produce(topic, old)
        # The history has three of partition 0, four of partition 1, and what the topic never had.
        project, _ = self.project(topic, "start: {0: 3, 1: 4}", source="history: history.csv", serve=False)
        lines = [f"{one['value']['at']},a,1" for one in old[:6] + [old[7]]]
        (project.folder / "history.csv").write_text("\n".join(["at,user_id,amount", *lines, "2020-01-01T00:00:00Z,a,1"]))
        project.run("materialize")
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait_totals(server, {"a": (11, 11)})
        self.kafka.produce(topic, [event("a", 1, partition=0)])
        self.wait_totals(server, {"a": (12, 12)})
        self.assertEqual(server.stop(), 0, server.tail())
        project.run("rebuild")
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait_totals(server, {"a": (12, 12)})
        # A history cannot end behind the topic.
        _, server = self.project(topic, "start: {0: 3000, 1: 4}", source="history: history.csv")
        self.wait("that it says so", lambda: "still to come" in server.tail())

    def test_a_message_is_known_at_its_timestamp(self):
        topic = self.topic(1)
        project, server = self.project(topic)
        moment = int(time.time()) - 1000
        # It happened later than its message says: clamped to it, as the clocks differ by less than `max_clock_skew`.
        self.kafka.produce(topic, [event("a", 1, moment + 2, timestamp_ms=moment * 1000),
                                   event("a", 1, moment + 60, timestamp_ms=moment * 1000)])
        self.wait_totals(server, {"a": (1, 1)})
        letters = self.letters(server, 1)
        self.assertEqual([letter["code"] for letter in letters], ["event_time_in_future"])
        self.assertEqual(server.stop(), 0)
        labels = project.folder / "labels.csv"
        text = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment + s)) for s in (-1, 0, 1)]
        labels.write_text("user_id,at\n" + "".join(f"a,{t}\n" for t in text))
        done = project.run("train", "--labels", labels, "--service", "all", "--at-column", "at", "--out",
                           project.folder / "out.csv")
        rows = (project.folder / "out.csv").read_text().splitlines()
        self.assertEqual([line.split(",")[2] for line in rows[1:]], ["0", "0", "1"], (rows, done))

    def test_lost_and_remade_topics_are_told(self):
        topic = self.topic(1)
        project, server = self.project(topic)
        self.kafka.produce(topic, [event("a", 1)] * 10)
        self.wait_totals(server, {"a": (10, 10)})
        self.assertEqual(server.stop(), 0)
        self.kafka.produce(topic, [event("a", 1)] * 10)
        self.kafka.call("delete_before", topic=topic, partition=0, offset=16)
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait_totals(server, {"a": (14, 14)})
        self.wait("the loss", lambda: self.status(server)["lost"] == 6)
        with Client(server) as client:
            checks = {check["name"]: check for check in client.call("GET", "/ready")["checks"]}
            self.assertFalse(checks[f"topic {topic}"]["ok"])
        self.wait("that the table says so", lambda: "6 messages lost" in project.run("status").stdout)
        self.kafka.call("delete", topic=topic)
        self.wait("the error", lambda: self.status(server)["failing"])
        time.sleep(1)
        self.kafka.create(topic, 1)
        self.kafka.produce(topic, [event("a", 1)] * 3)
        self.wait("what is wrong", lambda: self.status(server)["failing"] and "made anew" in server.tail())
        time.sleep(1)
        self.wait_totals(server, {"a": (14, 14)})

    def test_a_remade_topic_that_has_grown_past_the_old_one_is_told(self):
        topic = self.topic(2)
        project, server = self.project(topic)
        self.kafka.produce(topic, [event("a", 1, partition=n % 2) for n in range(10)])
        # What is not delivered is no sign of another topic: the end of a transaction, and one that was aborted.
        self.kafka.call("transaction", topic=topic, messages=[event("a", 1, partition=0)] * 3, commit=True)
        time.sleep(0.1)
        self.kafka.call("transaction", topic=topic, messages=[event("a", 1, partition=0)] * 3, commit=False)
        self.wait_totals(server, {"a": (13, 13)})
        self.wait("no lag", lambda: self.status(server)["lag_messages"] == 0)
        for _ in range(2):
            self.assertEqual(server.stop(), 0)
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            self.kafka.produce(topic, [event("a", 1, partition=1)])
        self.wait_totals(server, {"a": (15, 15)})
        self.assertEqual(server.stop(), 0)
        self.kafka.call("delete", topic=topic)
        time.sleep(1)
        self.kafka.create(topic, 2)
        self.kafka.produce(topic, [event("a", 1, partition=n % 2) for n in range(60)])
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.wait("what is wrong", lambda: self.status(server)["failing"] and "made anew" in server.tail())
        self.wait_totals(server, {"a": (15, 15)})

    def test_without_a_broker_it_serves_says_so_and_goes_on_by_itself(self):
        topic = self.topic(1)
        project, server = self.project(topic)
        self.kafka.produce(topic, [event("a", 1)])
        self.wait_totals(server, {"a": (1, 1)})
        fresh = self.wait("an age", lambda: self.status(server)["age_s"])
        self.assertLess(fresh, 5)
        self.broker.kill()
        self.addCleanup(lambda: self.broker.process.poll() is None or self.broker.start())
        self.wait("the error", lambda: self.status(server)["failing"])
        self.wait_totals(server, {"a": (1, 1)})
        self.wait("its age grows", lambda: self.status(server)["age_s"] > 2)
        self.wait("that the table says so", lambda: "not read" in project.run("status").stdout)
        self.broker.start()
        self.kafka.produce(topic, [event("a", 1)])
        self.wait_totals(server, {"a": (2, 2)})
        self.wait("it reads again", lambda: not self.status(server)["failing"])

    def test_definitions_with_mistakes_are_refused(self):
        for more, word in [("start: yesterday", "place to begin"), ("key: nobody", "nobody"),
                           ("format: xml", "xml"), ("brokers: nowhere", "address of a broker")]:
            with Project(definitions("t", more), SETTINGS) as project:
                done = project.run("validate", check=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(word, done.stdout + done.stderr)

"""Change data: inserts, updates and deletes of a table that changes, through every door; what was taken back is as if it had
never been, from the moment that this was known."""
import csv
import json
import random
import time
import unittest

from springhouse_testing import LONG, SEED, Client, Project

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  orders:
    stream: push
    event_time: at
    op: op
    columns: {at: timestamp!, user_id: int64!, order_id: int64!, amount: float64, shop: string}
  tailed:
    stream: {ndjson: orders.ndjson}
    event_time: at
    op: op
    columns: {at: timestamp!, user_id: int64!, order_id: int64!, amount: float64, shop: string}
  table:
    table: "table/*.csv"
    event_time: at
    known_at: changed_at
    op: change
    columns:
      at: timestamp!
      user_id: int64!
      order_id: int64!
      amount: float64
      shop: string
      change: {type: string, from: _change_type}
feature_views:
"""
VIEWS = """
  totals_{0}:
    entity: user
    source: {0}
    ttl: 36500d
    aggregate:
      n_{0}: {{fn: count, windows: [lifetime, 30d], default: 0}}
      sum_{0}: {{fn: sum, column: amount, windows: [lifetime, 30d]}}
      min_{0}: {{fn: min, column: amount, windows: [lifetime, 30d]}}
      max_{0}: {{fn: max, column: amount, windows: [lifetime, 30d]}}
      shops_{0}: {{fn: count_distinct, column: shop, windows: [lifetime], cap: 100, over_cap: null}}
      last_{0}: {{fn: last, column: order_id, windows: [lifetime]}}
      big_{0}: {{fn: count, windows: [lifetime], where: "amount > 50"}}
      by_shop_{0}: {{fn: count, windows: [lifetime], group_by: shop}}
  newest_{0}:
    entity: user
    source: {0}
    ttl: 36500d
    features: {{amount_{0}: amount, shop_{0}: shop}}
"""
SOURCES = ["orders", "tailed", "table"]
SERVICE = """
feature_services:
  all: {features: [%s]}
""" % ", ".join(f"{kind}_{source}" for source in SOURCES for kind in ("totals", "newest"))
USERS = 12
ROUNDS = 12 if LONG else 4
DAY = 86_400


def text(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + "Z"


class Orders:
    """A table of orders that changes; each change is remembered with the state after it."""

    def __init__(self, rng, now):
        self.rng, self.now, self.rows, self.next = rng, now, {}, 0

    def row(self, order):
        rng = self.rng
        return {"at": text(self.now - rng.randrange(60 * DAY)), "user_id": rng.randrange(USERS), "order_id": order,
                "amount": rng.choice([None, rng.randrange(-800, 800) / 8]), "shop": rng.choice(["a", "b", "c", None])}

    def change(self):
        """One change: (kind, the row as it was, the row as it is)."""
        kind = self.rng.choices(["insert", "update", "delete"], [5, 4, 2])[0] if self.rows else "insert"
        if kind == "insert":
            self.next += 1
            after = self.rows[self.next] = self.row(self.next)
            return kind, None, after
        order = self.rng.choice(list(self.rows))
        before = self.rows[order]
        if kind == "delete":
            del self.rows[order]
            return kind, before, None
        after = self.rows[order] = dict(before)
        changed = self.row(order)
        for column in self.rng.sample(["at", "user_id", "amount", "shop"], self.rng.randrange(1, 4)):
            after[column] = changed[column]
        return kind, before, after

    def expected(self, user, source):
        """The features of a user as the table is now, from its rows alone."""
        mine = [row for row in self.rows.values() if row["user_id"] == user]
        mine.sort(key=lambda row: (row["at"], row["order_id"]))
        month = [row for row in mine if row["at"] >= text((self.now - 30 * DAY) // (12 * 3600) * (12 * 3600))]
        amounts, recent = ([row["amount"] for row in rows if row["amount"] is not None] for rows in (mine, month))
        by_shop = {}
        for row in mine:
            if row["shop"] is not None:
                by_shop[row["shop"]] = by_shop.get(row["shop"], 0) + 1
        newest = max((row["at"] for row in mine), default=None)
        latest = [(row["amount"], row["shop"]) for row in mine if row["at"] == newest]
        last = [row["order_id"] for row in mine if row["at"] == newest]
        return {
            f"n_{source}_lifetime": len(mine), f"n_{source}_30d": len(month),
            f"sum_{source}_lifetime": sum(amounts) if amounts else None, f"sum_{source}_30d": sum(recent) if recent else None,
            f"min_{source}_lifetime": min(amounts, default=None), f"min_{source}_30d": min(recent, default=None),
            f"max_{source}_lifetime": max(amounts, default=None), f"max_{source}_30d": max(recent, default=None),
            f"shops_{source}_lifetime": len(by_shop), f"last_{source}_lifetime": max(last, default=None),
            f"big_{source}_lifetime": sum(amount > 50 for amount in amounts), f"by_shop_{source}_lifetime": by_shop,
            # Rows of one moment go by their values; the test only says that it is one of them.
            f"newest_{source}": latest or [(None, None)],
        }


def flat(rng, kind, before, after):
    """The change as a row with its `op`; an update as one event or as two."""
    if kind == "insert":
        return [{"op": rng.choice(["insert", "c", "+I"]), **after}]
    if kind == "delete":
        return [rng.choice([{"op": "delete", **before}, {"op": "delete", "before": before}])]
    return [{"op": "update", "before": before, **after}]


def envelope(kind, before, after):
    return [{"before": before, "after": after, "op": {"insert": "c", "update": "u", "delete": "d"}[kind],
             "ts_ms": 5, "source": {"table": "orders"}}]


class ChangesTest(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}", flush=True)
        self.rng = random.Random(SEED)
        views = "".join(VIEWS.format(source) for source in SOURCES)
        settings = "project: test\npush: {segment_bytes: 4096, flush_interval_ms: 200, checkpoint_interval_ms: 200}\n"
        self.project = Project(DEFINITIONS + views + SERVICE, settings + self.store())
        self.addCleanup(self.project.__exit__, None, None, None)
        (self.project.folder / "table").mkdir()
        self.now = int(time.time())
        self.tables = {source: Orders(random.Random(f"{SEED}{source}"), self.now) for source in SOURCES}
        self.files = 0
        self.views = [f"{kind}_{source}" for source in SOURCES for kind in ("totals", "newest")]
        self.add_file()
        self.project.run("apply")

    def store(self):
        """Settings of another store than the embedded one."""
        return ""

    def add_file(self):
        """Changes of the table as Delta's change data feed has them, one file more."""
        table, self.files = self.tables["table"], self.files + 1
        with open(self.project.folder / "table" / f"{self.files}.csv", "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["at", "user_id", "order_id", "amount", "shop", "changed_at", "_change_type"])
            for number in range(60):
                kind, before, after = table.change()
                changed = text(self.now - 1_000_000 + self.files * 1_000 + number)
                for row, word in [(before, "delete" if kind == "delete" else "update_preimage"),
                                  (after, "insert" if kind == "insert" else "update_postimage")]:
                    if row is not None:
                        cells = [row["at"], row["user_id"], row["order_id"], row["amount"], row["shop"]]
                        out.writerow(["" if cell is None else cell for cell in cells] + [changed, word])

    def serve(self):
        server = self.project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return server

    def change(self, client):
        """Some changes through the doors of the streams."""
        events = []
        for _ in range(40):
            change = self.tables["orders"].change()
            events += self.rng.choice([flat(self.rng, *change), envelope(*change)])
        answer = client.push("orders", events)
        self.assertEqual((answer["accepted"], answer["refused"]), (len(events), 0), answer)
        with open(self.project.folder / "orders.ndjson", "a") as file:
            for _ in range(40):
                file.writelines(json.dumps(event) + "\n" for event in envelope(*self.tables["tailed"].change()))

    def check(self, got, position, user, sources=SOURCES, what=""):
        for source in sources:
            expected = self.tables[source].expected(user, source)
            latest = expected.pop(f"newest_{source}")
            for name, value in expected.items():
                found = got(name, position)
                self.assertEqual(dict(found) if isinstance(found, list) else found, value, f"{what} {name} of {user}")
            newest = (got(f"amount_{source}", position), got(f"shop_{source}", position))
            self.assertIn(newest, latest, f"{what} newest of {user}")

    def wait_served(self, server, sources=SOURCES):
        users = list(range(USERS))

        def holds(client):
            got = client.features(self.views, {"user_id": users})
            value = lambda name, position: got[name]["values"][position]
            try:
                for user in users:
                    self.check(value, user, user, sources, "served")
                return True
            except AssertionError as error:
                self.last = error
                return False
        try:
            server.eventually("what the tables have", holds, 30)
        except AssertionError:
            raise self.last

    def test_what_is_served_and_trained_on_is_the_table_as_it_is(self):
        self.project.run("materialize")
        moments = []
        for number in range(ROUNDS):
            server = self.serve()
            with Client(server) as client:
                self.change(client)
                self.wait_served(server)
                # A moment after all of it: a training set must give for it what was served.
                time.sleep(0.01)
                moment = time.time()
                expected = {user: {} for user in range(USERS)}
                for user in range(USERS):
                    for source in SOURCES:
                        expected[user].update(self.tables[source].expected(user, source))
                moments.append((moment, expected))
                time.sleep(0.01)
            if number % 2:
                server.kill()
            else:
                self.assertEqual(server.stop(), 0, server.tail())
        done = self.project.run("verify")
        self.assertIn("0 differ", done.stdout + done.stderr)
        self.train_and_compare(moments)
        # What the lake has is enough.
        self.project.run("rebuild")
        self.wait_served(self.serve())
        # More of the table: loaded by itself, on top of what is there.
        self.project.server.stop()
        self.add_file()
        self.project.run("materialize")
        self.wait_served(self.serve())

    def train_and_compare(self, moments):
        labels = self.project.folder / "labels.csv"
        rows = [(user, moment, number) for number, (moment, _) in enumerate(moments) for user in range(USERS)]
        self.rng.shuffle(rows)
        stamp = lambda moment: text(moment)[:-1] + f".{int(moment * 1e6) % 1_000_000:06}Z"
        labels.write_text("user_id,event_timestamp,number\n"
                          + "".join(f"{user},{stamp(moment)},{number}\n" for user, moment, number in rows))
        out = self.project.folder / "set.csv"
        self.project.run("train", "--service", "all", "--labels", labels, "--out", out)
        with open(out, newline="") as file:
            made = list(csv.DictReader(file))
        self.assertEqual(len(made), len(rows))
        cell = lambda row, name: row[name] or None
        for row, (user, _, number) in zip(made, rows):
            expected = moments[number][1][user]
            for name, value in expected.items():
                if name.startswith(("by_shop", "newest")):
                    continue
                found = cell(row, name)
                if value is not None and found is not None:
                    found = float(found)
                self.assertEqual(found, value, f"trained {name} of {user} at {number}")
            for source in SOURCES:
                amount = cell(row, f"amount_{source}")
                newest = (None if amount is None else float(amount), cell(row, f"shop_{source}"))
                self.assertIn(newest, expected[f"newest_{source}"], f"trained newest of {user} at {number}")

    def test_a_change_that_says_too_little_is_refused_whole_and_said(self):
        server = self.serve()
        row = {"at": "2026-01-01T00:00:00Z", "user_id": 1, "order_id": 1, "amount": 1.0, "shop": "a"}
        with Client(server) as client:
            for event, code, reason in [
                ({"op": "u", "before": None, "after": row}, "missing_column", "`before` is missing"),
                ({"op": "u", "before": {"order_id": 1}, "after": row}, "missing_column", "has no value for it"),
                ({"op": "u", "before": row, "after": {**row, "amount": "x"}}, "wrong_type", "amount"),
                ({"op": "t", "before": None, "after": None}, "malformed_value", "is none of"),
                (row, "missing_column", "column `op` is required"),
                ({"op": "u", "before": row, "after": {**row, "at": "2099-01-01T00:00:00Z"}}, "event_time_in_future", "2099"),
            ]:
                answer = client.push("orders", [event, {"op": "insert", **row}])
                self.assertEqual((answer["accepted"], answer["refused"]), (1, 1), answer)
                self.assertEqual(answer["exceptions"][0]["code"], code, answer)
                self.assertIn(reason, answer["exceptions"][0]["reason"])
            keyed = [{"op": "update", "before": row, **row, "amount": 2.0}]
            for expected in ({"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}):
                answer = client.push("orders", keyed, row_keys=["one"])
                self.assertEqual({key: answer[key] for key in expected}, expected)
            got = client.features(["totals_orders"], {"user_id": [1]})
            self.assertEqual(got["n_orders_lifetime"]["values"], [6])
            self.assertEqual(got["sum_orders_lifetime"]["values"], [7.0])

    def test_what_was_taken_back_before_it_came_waits_for_it(self):
        server = self.serve()
        row = {"at": "2026-01-01T00:00:00Z", "user_id": 1, "order_id": 1, "amount": 3.0, "shop": "a"}
        with Client(server) as client:
            client.push("orders", [{"op": "delete", **row}])
            client.push("orders", [{"op": "insert", **row, "amount": 5.0}])
            got = client.features(["totals_orders", "newest_orders"], {"user_id": [1]})
            self.assertEqual((got["max_orders_lifetime"]["values"], got["amount_orders"]["values"]), ([5.0], [5.0]))
            client.push("orders", [{"op": "insert", **row}])
            got = client.features(["totals_orders", "newest_orders"], {"user_id": [1]})
            self.assertEqual((got["n_orders_lifetime"]["values"], got["amount_orders"]["values"]), ([1], [5.0]))


if __name__ == "__main__":
    unittest.main()

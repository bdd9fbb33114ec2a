"""kill -9 of `serve` during push, flush, checkpoint and materialise: nothing acknowledged is lost, nothing counts twice.

Several connections push events with ids. Each batch stays "in doubt" until it is acknowledged, and is pushed again, with
the same ids and often cut differently, after the server died. So at every restart, for every user:

    acknowledged <= served <= acknowledged + in doubt

and at the end, with nothing in doubt, served == pushed, `verify` finds nothing, and the lake has each id once.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import threading
import time
import unittest

from springhouse_testing import LONG, ROOT, SEED, Client, Failed, Project

KILLS = int(os.environ.get("SPRINGHOUSE_TEST_KILLS", "240" if LONG else "20"))
PUSHERS = 4
USERS = 40
BATCH_MAX = 60
HISTORY_ROWS = 400          # in each table file; a new file comes before some of the kills
ALIVE_SECONDS_MAX = 0.8     # a random kill comes within this time
POINT_SECONDS_MAX = 6.0     # a named point must be reached within this time, else it is a random kill

# Named points where the server can be made to die, and the most passes before it does.
POINTS = {
    "before_log_write": 40,
    "after_log_write_before_sync": 40,
    "after_sync_before_ack": 40,
    "after_ack_before_apply": 40,
    "after_apply_before_ack": 40,
    "before_flush_commit": 4,
    "after_flush_commit": 4,
    "before_checkpoint": 4,
    "after_checkpoint": 4,
    "online_before_commit": 4,
    "online_after_commit": 4,
    "before_segment_delete": 1,
    "materialize_planned": 1,
    "materialize_bucket_written": 4,
    "materialize_before_cursor": 1,
    "materialize_after_cursor": 1,
}

DEFINITIONS = """
entities:
  user: {keys: {user_id: string}}
sources:
  events:
    stream: push
    history: {path: history/*.csv, format: csv}
    event_time: at
    event_id: event_id
    columns: {at: timestamp!, event_id: string!, user_id: string!, amount: int64}
feature_views:
  totals:
    entity: user
    source: events
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime, 30d], default: 0}
      amount: {fn: sum, column: amount, windows: [lifetime, 30d], default: 0}
      spread: {fn: [min, max, mean], column: amount, windows: [lifetime]}
  newest:
    entity: user
    source: events
    ttl: 3650d
    features: [amount, event_id]
feature_services:
  all: {features: [totals, newest]}
"""

# Everything happens often, so that a kill finds something to break.
SETTINGS = """
project: kill
push:
  segment_bytes: 65536
  flush_interval_ms: 150
  flush_rows: 2000
  checkpoint_interval_ms: 200
"""


class Ledger:
    """What was pushed, and what of it was acknowledged."""

    def __init__(self, rng):
        self.lock = threading.Lock()
        self.rng = rng
        self.next_id = 0
        self.acknowledged = {}      # id -> (user, amount)
        self.in_doubt = {}          # id -> row
        self.failures = []

    def batch(self, rng):
        """Rows to push: some in doubt, some new, now and then some that were acknowledged long ago."""
        with self.lock:
            rows = []
            if self.in_doubt and rng.random() < 0.6:
                ids = rng.sample(sorted(self.in_doubt), min(len(self.in_doubt), rng.randint(1, BATCH_MAX)))
                rows += [self.in_doubt[i] for i in ids]
            for _ in range(rng.randint(1, BATCH_MAX)):
                row = new_row(f"p{self.next_id}", rng, time.time() - rng.choice([0, 1, 60, 86400 * 3]))
                self.next_id += 1
                self.in_doubt[row["event_id"]] = row
                rows.append(row)
            if self.acknowledged and rng.random() < 0.2:
                for i in rng.sample(sorted(self.acknowledged), min(5, len(self.acknowledged))):
                    rows.append(self.acknowledged[i])
            rng.shuffle(rows)
            return rows

    def acknowledge(self, rows):
        with self.lock:
            for row in rows:
                self.acknowledged[row["event_id"]] = row
                self.in_doubt.pop(row["event_id"], None)

    def fail(self, text):
        with self.lock:
            self.failures.append(text)

    def totals(self, rows):
        """user -> (count, sum)."""
        totals = {user(n): (0, 0) for n in range(USERS)}
        for row in rows:
            count, amount = totals[row["user_id"]]
            totals[row["user_id"]] = (count + 1, amount + row["amount"])
        return totals


def user(number):
    return f"u{number}"


def new_row(event_id, rng, seconds):
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06}Z"
    return {"at": stamp, "event_id": event_id, "user_id": user(rng.randrange(USERS)), "amount": rng.randrange(1, 10**9)}


class KillTest(unittest.TestCase):
    def test_every_point_in_the_code_is_tried(self):
        code = set()
        for file in (ROOT / "crates").glob("*/src/**/*.rs"):
            code |= set(re.findall(r'\bcrash_point\("(\w+)"\)', file.read_text()))
        self.assertEqual(sorted(code - {"nobody armed this"}), sorted(POINTS))

    def test_no_acknowledged_event_is_lost_or_counted_twice(self):
        print(f"seed {SEED}, {KILLS} kills ...", flush=True)
        rng = random.Random(SEED)
        with Project(DEFINITIONS, SETTINGS) as project:
            self.project, self.rng, self.ledger = project, rng, Ledger(rng)
            self.history, self.history_files, self.loaded = [], 0, False
            self.points = rng.sample(sorted(POINTS), len(POINTS))
            (project.folder / "history").mkdir()
            self.add_history()
            project.run("apply")
            # Until its history is loaded, a view answers `expired` and the default rather than too small a number.
            project.run("materialize")
            reached = {}
            for number in range(KILLS):
                self.round(number, reached)
            self.finish()
            print(f"{KILLS} kills, {len(self.ledger.acknowledged):,} events, reached: "
                  + ", ".join(f"{name} {count}" for name, count in sorted(reached.items())), flush=True)
            self.assertGreaterEqual(len(reached) - 1, min(KILLS, len(POINTS)) // 2, "too few points were reached")
            if KILLS >= 6 * len(POINTS):
                self.assertEqual(sorted(set(POINTS) - set(reached)), [], "crash points that no kill reached")

    def round(self, number, reached):
        """One life of the server: start, check, push until it dies."""
        point = self.points.pop() if number % 4 else None
        if not self.points:
            self.points = self.rng.sample(sorted(POINTS), len(POINTS))
        crash_at = point and f"{point}:{self.rng.randint(1, POINTS[point])}"
        if self.rng.random() < 0.3 or point and point.startswith("materialize"):
            self.add_history()
        server = self.project.serve(crash_at)
        stop = threading.Event()
        threads = []
        if server.wait_ready():
            self.check_bounds(server)
            threads = [threading.Thread(target=self.push, args=(server, stop, self.rng.randrange(1 << 30)))
                       for _ in range(PUSHERS)]
            threads.append(threading.Thread(target=self.materialize, args=(server, self.rng.random() * 0.3)))
            for thread in threads:
                thread.start()
        if point and server.wait_dead(POINT_SECONDS_MAX):
            reached[point] = reached.get(point, 0) + 1
        else:
            time.sleep(self.rng.random() * ALIVE_SECONDS_MAX)
            self.assertTrue(server.alive(), "the server died of itself\n" + server.tail())
            server.kill()
            reached["kill -9"] = reached.get("kill -9", 0) + 1
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(self.ledger.failures, [])

    def push(self, server, stop, seed):
        rng = random.Random(seed)
        try:
            with Client(server) as client:
                while not stop.is_set():
                    rows = self.ledger.batch(rng)
                    answer = client.push("events", rows)
                    if answer["accepted"] + answer["duplicates"] != len(rows) or answer["refused"]:
                        self.ledger.fail(f"not every row was taken: {answer}")
                    self.ledger.acknowledge(rows)
        except Failed as failed:
            if failed.status not in (429, 503):
                self.ledger.fail(str(failed))
        except Exception:  # noqa: BLE001 - the connection died with the server, in one of many ways
            if not server.wait_dead(5):
                self.ledger.fail("a connection was cut while the server lived")

    def materialize(self, server, delay):
        time.sleep(delay)
        try:
            with Client(server) as client:
                client.call("POST", "/v1/admin/materialize", {})
        except Exception:  # noqa: BLE001 - as above
            pass

    def add_history(self):
        rows = [new_row(f"h{self.history_files}-{n}", self.rng, time.time() - 86400 - n) for n in range(HISTORY_ROWS)]
        path = self.project.folder / "history" / f"{self.history_files:04}.csv"
        text = "at,event_id,user_id,amount\n" + "".join(
            f"{r['at']},{r['event_id']},{r['user_id']},{r['amount']}\n" for r in rows)
        path.with_suffix(".tmp").write_text(text)
        path.with_suffix(".tmp").rename(path)
        self.history += rows
        self.history_files += 1

    def served(self, server):
        """user -> (count, sum), as served now; None before the first materialisation came to its end."""
        with Client(server) as client:
            users = [user(n) for n in range(USERS)]
            answer = client.features(["totals"], {"user_id": users})
            statuses = {status for feature in answer.values() for status in feature["status"]}
            if "expired" in statuses and not self.loaded:
                return None
            self.assertLessEqual(statuses, {"fresh", "null"}, "a view that was loaded has to stay so")
            self.loaded = True
            counts, sums = (answer[f"{name}_lifetime"]["values"] for name in ("events", "amount"))
            return dict(zip(users, zip(counts, sums)))

    def check_bounds(self, server):
        served = self.served(server)
        if served is None:
            return
        least = self.ledger.totals(self.ledger.acknowledged.values())
        most = self.ledger.totals([*self.ledger.acknowledged.values(), *self.ledger.in_doubt.values(), *self.history])
        for name, (count, amount) in served.items():
            self.assertGreaterEqual(count, least[name][0], f"{name}: acknowledged events are lost")
            self.assertGreaterEqual(amount, least[name][1], f"{name}: acknowledged events are lost")
            self.assertLessEqual(count, most[name][0], f"{name}: events count twice")
            self.assertLessEqual(amount, most[name][1], f"{name}: events count twice")

    def finish(self):
        """Everything in doubt is pushed again; then nothing may differ."""
        server = self.project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.check_bounds(server)
        with Client(server) as client:
            left = list(self.ledger.in_doubt.values())
            for start in range(0, len(left), 500):
                client.push("events", left[start:start + 500])
                self.ledger.acknowledge(left[start:start + 500])
        self.project.run("materialize")
        everything = list(self.ledger.acknowledged.values()) + self.history
        self.assertEqual(self.served(server), self.ledger.totals(everything))
        verified = self.project.run("verify", check=False)
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
        self.assertEqual(server.stop(), 0, server.tail())
        self.check_lake()

        # And once more from nothing but the lake and the files.
        server = self.project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        self.project.run("rebuild")
        self.assertEqual(self.served(server), self.ledger.totals(everything))
        self.assertEqual(server.stop(), 0, server.tail())

    def check_lake(self):
        """The stream's Delta table has every acknowledged id once. (The server was stopped: all is flushed.)"""
        counted = subprocess.run(
            [ROOT / "scripts" / "python.sh", pathlib.Path(__file__).parent / "count_ids.py",
             self.project.folder / ".springhouse" / "lake", "event_id"], text=True, stdout=subprocess.PIPE, check=True)
        ids = json.loads(counted.stdout)
        twice = {i: n for i, n in ids.items() if n != 1}
        self.assertEqual(twice, {}, "ids that are in the lake more than once")
        self.assertEqual(set(ids), set(self.ledger.acknowledged), "the lake and the ledger differ")


if __name__ == "__main__":
    unittest.main()

"""What an operator runs beside a server: load, refused rows, a status that is watched."""
import json
import signal
import subprocess
import time
import unittest

from springhouse_testing import Client, Failed, Project, program

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
  place: {keys: {city: string}}
sources:
  events:
    stream: push
    event_time: at
    columns: {at: timestamp!, user_id: int64!, city: string!, amount: int64, note: TYPE}
feature_views:
  totals:
    entity: user
    source: events
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime], default: 0}
  places:
    entity: place
    source: events
    ttl: 3650d
    aggregate:
      visits: {fn: count, windows: [lifetime], default: 0}
request_views:
  ask:
    fields: {limit: int64!}
    inputs: {seen: "totals:events_lifetime"}
    features: {over: seen > limit}
feature_services:
  all: {features: [totals, places, ask]}
"""


def event(user, amount, **more):
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"at": at, "user_id": user, "city": "Köln", "amount": amount} | more


class CommandsTest(unittest.TestCase):
    def start(self):
        project = Project(DEFINITIONS.replace("TYPE", "string!"))
        self.addCleanup(project.__exit__, None, None, None)
        project.run("apply")
        server = project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        return project, server

    def count(self, server, user):
        with Client(server) as client:
            answer = client.call("POST", "/v1/features", {"features": ["totals"], "entities": {"user_id": [user]}})
        return answer["features"]["events_lifetime"]["values"][0]

    def bench(self, project, server, *words, ok=True):
        done = project.run("bench", "serve", "--address", server.address, "--seconds", "0.5", "--warm-up", "0.1",
                           "--connections", "4", *words, check=ok, timeout=120)
        return done

    def test_load_is_sent_and_measured(self):
        project, server = self.start()
        cities = project.folder / "cities.txt"
        cities.write_text("Köln\nBonn\n")
        drawn = ["--service", "all", "--key", "user_id=0..1000", "--key", f"city=@{cities}", "--field", "limit=3",
                 "--requests", "500"]
        for more in ([], ["--grpc"], ["--rows", "20", "--cold", "30"], ["--rate", "200", "--burst", "3:100ms:300ms"],
                     ["--values-only"]):
            got = json.loads(self.bench(project, server, *drawn, "--format", "json", *more).stdout)
            self.assertGreater(got["requests"], 20, more)
            self.assertEqual(got["failed"], 0, (more, got["failures"]))
            self.assertEqual(sum(got["levels"].values()), got["requests"], more)
        shown = self.bench(project, server, *drawn).stdout
        for expected in ("requests in", "p99.9", "answers"):
            self.assertIn(expected, shown)
        # The same server as its own shadow agrees with itself; one with other data does not.
        own = json.loads(self.bench(project, server, *drawn, "--shadow", server.address, "--format", "json").stdout)["shadow"]
        self.assertGreater(own["compared"], 5)
        self.assertEqual((own["different"], own["unanswered"]), (0, 0))
        other_project, other = self.start()
        with Client(other) as client:
            client.push("events", [event(user, 1, note="") for user in range(1000)])
        compared = json.loads(
            self.bench(project, server, *drawn, "--shadow", other.address, "--format", "json").stdout)["shadow"]
        self.assertEqual(compared["different"], compared["compared"])
        self.assertIn("events_lifetime", compared["features"])
        # Recorded requests; failures are counted by their code, and nothing but failures is a failure.
        recorded = project.folder / "recorded.txt"
        recorded.write_text('{"service": "all", "entities": {"user_id": [1], "city": ["x"]}, "request": {"limit": [1]}}\n'
                            '{"service": "none"}\n')
        got = json.loads(self.bench(project, server, "--replay", recorded, "--format", "json").stdout)
        self.assertAlmostEqual(got["failures"]["unknown_service"] / got["requests"], 0.5, delta=0.1)
        recorded.write_text('{"service": "none"}\n')
        self.assertEqual(self.bench(project, server, "--replay", recorded, ok=False).returncode, 1)
        for words in (["--service", "all", "--key", "user_id"], ["--replay", project.folder / "absent"],
                      ["--service", "all", "--zipf", "-1", "--key", "user_id=0..5"], []):
            wrong = self.bench(project, server, *words, ok=False)
            self.assertNotEqual(wrong.returncode, 0, words)
            self.assertIn("error", wrong.stderr)
        pushed = json.loads(project.run("bench", "push", "--address", server.address, "--seconds", "0.3", "--format", "json",
                                        check=False).stdout)
        self.assertEqual(pushed["levels"], {"": pushed["requests"]}, "rows are refused one by one, pushes are not")
        self.assertEqual(server.stop(), 0, server.tail())
        gone = json.loads(self.bench(project, server, *drawn, "--format", "json", ok=False).stdout)
        self.assertEqual(list(gone["failures"]), ["connection broken"])

    def test_refused_rows_are_listed_and_count_once_when_they_are_mended(self):
        project, server = self.start()
        with Client(server) as client:
            rows = [event(1, 5, note="a"), event(1, 7), event(1, "many", note="b"), event(2, 1), 17]
            outcome = client.call("POST", "/v1/push/events", rows)
        self.assertEqual((outcome["accepted"], outcome["refused"]), (1, 4))
        listed = json.loads(project.run("dead-letters", "list", "events", "--format", "json").stdout)
        self.assertEqual([letter["code"] for letter in listed],
                         ["missing_column", "wrong_type", "missing_column", "malformed_row"], listed)
        only = json.loads(project.run("dead-letters", "list", "events", "--code", "missing_column", "--limit", "1",
                                      "--format", "json").stdout)
        self.assertEqual(only, listed[2:3])
        self.assertIn("wrong_type", project.run("dead-letters", "list", "events").stdout)
        offset = str(listed[0]["offset"])
        shown = project.run("dead-letters", "show", "events", offset).stdout
        self.assertIn('"amount":7', shown.replace(" ", ""))
        self.assertIn(listed[0]["reason"], shown)
        self.assertEqual(project.run("dead-letters", "show", "events", "999", check=False).returncode, 1)
        self.assertIn("unknown_source", project.run("dead-letters", "list", "none", check=False).stderr)
        # Nothing was mended yet.
        again = project.run("dead-letters", "replay", "events", "--code", "missing_column", check=False)
        self.assertIn("0 accepted, 0 accepted before, 2 refused again", again.stdout)
        self.assertEqual(again.returncode, 1)
        self.assertEqual(json.loads(project.run("dead-letters", "list", "events", "--format", "json").stdout), listed,
                         "what is refused again is no second letter")
        # The note may be missing from now on.
        (project.folder / "features" / "definitions.yaml").write_text(DEFINITIONS.replace("TYPE", "string"))
        project.run("apply")
        with Client(server) as client:
            client.call("POST", "/v1/admin/reload", {})
        mended = project.run("dead-letters", "replay", "events", "--offset", offset)
        self.assertIn("1 accepted, 0 accepted before, 0 refused again, 0 are no rows", mended.stdout)
        self.assertEqual(self.count(server, 1), 2)
        twice = project.run("dead-letters", "replay", "events", "--offset", offset)
        self.assertIn("0 accepted, 1 accepted before", twice.stdout)
        self.assertEqual((self.count(server, 1), self.count(server, 2)), (2, 0))
        # A row that is accepted outright, and one that is not, change nothing when they are only looked at.
        rows = project.folder / "rows.json"
        rows.write_text(json.dumps([event(3, 1), event(3, "x")]))
        looked = project.run("push", "events", rows, "--dry-run", check=False)
        self.assertIn("1 accepted, 0 duplicates, 1 refused", looked.stdout)
        self.assertEqual(self.count(server, 3), 0)
        everything = project.run("dead-letters", "replay", "events", check=False)
        self.assertIn("1 accepted, 1 accepted before, 1 refused again, 1 are no rows", everything.stdout)
        self.assertEqual((self.count(server, 1), self.count(server, 2)), (2, 1))
        self.assertEqual(len(json.loads(project.run("dead-letters", "list", "events", "--format", "json").stdout)), 4)
        self.assertEqual(project.run("verify", timeout=120).returncode, 0)

    def test_a_hangup_takes_up_what_was_applied_without_dropping_a_request(self):
        project, server = self.start()
        with Client(server) as client:
            client.push("events", [event(1, 5, note="a")])
        more = DEFINITIONS.replace("TYPE", "string!").replace("feature_services:", "  also:\n    fields: {x: int64!}\n"
                                                              "    features: {twice: x * 2}\nfeature_services:")
        (project.folder / "features" / "definitions.yaml").write_text(more)
        project.run("apply")
        cities = project.folder / "cities.txt"
        cities.write_text("Köln\n")
        load = subprocess.Popen(
            [program(), "bench", "serve", "--address", server.address, "--service", "all", "--key", "user_id=0..10",
             "--key", f"city=@{cities}", "--field", "limit=1", "--seconds", "2", "--warm-up", "0.1", "--format", "json"],
            text=True, stdout=subprocess.PIPE)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGHUP)
        answer, end = None, time.monotonic() + 30
        with Client(server) as client:
            while answer is None and time.monotonic() < end:
                try:
                    answer = client.call("POST", "/v1/features", {"features": ["also"], "entities": {}, "request": {"x": [21]}})
                except Failed:
                    time.sleep(0.05)
        self.assertEqual(answer["features"]["twice"]["values"], [42])
        got = json.loads(load.communicate()[0])
        self.assertEqual(got["failed"], 0, got["failures"])
        self.assertEqual(server.stop(), 0, server.tail())

    def test_a_status_is_watched_until_enough(self):
        project, server = self.start()
        with Client(server) as client:
            client.push("events", [event(1, 5, note="")])
        watching = subprocess.Popen([program(), "--project", project.folder, "status", "--watch", "0.1"], text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        pages, end = 0, time.monotonic() + 30
        seen = []
        while pages < 3 and time.monotonic() < end:
            line = watching.stdout.readline()
            seen.append(line)
            pages += line.startswith("snapshot ")
        self.assertEqual(pages, 3, seen)
        self.assertIn("servable after", "".join(seen))
        watching.send_signal(signal.SIGINT)
        self.assertEqual(watching.wait(30), 0, watching.stderr.read())
        watching.stdout.close()
        watching.stderr.close()
        with Client(server) as client:
            stream = client.call("GET", "/v1/status")["streams"][0]
            self.assertEqual((stream["source"], stream["events"]), ("events", 1))
            self.assertLess(stream["p99_s"], 60)
            metrics = client.call("GET", "/metrics")
        self.assertIn('springhouse_ingest_event_to_servable_seconds_count{source="events"} 1', metrics)
        self.assertEqual(project.run("status", "--watch", "0", check=False).returncode, 1)


if __name__ == "__main__":
    unittest.main()

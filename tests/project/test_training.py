"""Training sets that are taken up after a kill, and made again from their manifests: always the same bytes."""
import json
import random
import re
import subprocess
import time
import unittest

from springhouse_testing import LONG, SEED, Client, Project, program

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  pushed:
    stream: push
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: int64}
  table:
    table: {path: "history/*.csv", format: csv}
    event_time: at
    columns: {at: timestamp!, user_id: int64!, score: float64}
feature_views:
  totals:
    entity: user
    source: pushed
    ttl: 3650d
    aggregate:
      events: {fn: count, windows: [lifetime, 1h], default: 0}
      amount: {fn: sum, column: amount, windows: [lifetime], default: 0}
  newest:
    entity: user
    source: table
    ttl: 30d
    features: [score]
feature_services:
  all: {features: [totals, newest]}
"""
USERS, LABELS, DAYS = 50, 20_000, 60
BEGIN = 1_767_225_600       # 2026-01-01
RUNS = 12 if LONG else 3


def moment(rng):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGIN + rng.randrange(DAYS * 86_400)))


class TrainingTest(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}", flush=True)
        self.rng = random.Random(SEED)
        self.project = Project(DEFINITIONS, "project: test\npush: {segment_bytes: 65536}\n")
        self.addCleanup(self.project.__exit__, None, None, None)
        (self.project.folder / "history").mkdir()
        self.add_table("a")
        lines = [f"{self.rng.randrange(USERS)},{moment(self.rng)},{n}" for n in range(LABELS)]
        self.labels = self.project.folder / "labels.csv"
        self.labels.write_text("user_id,event_timestamp,number\n" + "\n".join(lines) + "\n")
        self.project.run("apply")
        self.push()

    def add_table(self, name):
        rows = [f"{moment(self.rng)},{self.rng.randrange(USERS)},{self.rng.random()}" for _ in range(2_000)]
        (self.project.folder / "history" / f"{name}.csv").write_text("at,user_id,score\n" + "\n".join(rows) + "\n")

    def push(self):
        server = self.project.serve()
        self.assertTrue(server.wait_ready(), server.tail())
        with Client(server) as client:
            for _ in range(3):
                client.push("pushed", [{"at": moment(self.rng), "user_id": self.rng.randrange(USERS), "amount": n}
                                       for n in range(500)])
        self.assertEqual(server.stop(), 0, server.tail())

    def train(self, out, *arguments, check=True):
        out = self.project.folder / out
        done = self.project.run("train", "--out", out, *arguments, check=check)
        return out.read_bytes() if done.returncode == 0 else done.stderr

    def ask(self, *more):
        return "--service", "all", "--labels", self.labels, *more

    def test_a_killed_run_is_taken_up_with_what_it_began_with(self):
        folder = self.project.folder
        for run in range(RUNS):
            name = f"out{run}.{self.rng.choice(['parquet', 'arrow', 'csv'])}"
            sample = [("--sample", "15000"), ("--sample", "60%"), ()][run % 3]
            expected = self.train(f"whole-{name}", *self.ask(*sample))
            part = self.rng.choice([1, 3_000])
            command = [program(), "--project", folder, "train", "--out", folder / name, "--resumable", str(part),
                       *self.ask(*sample)]
            parts = folder / f"{name}.parts"
            kills, seconds, moved_on = 0, 0.05, False
            while True:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                try:
                    _, errors = process.communicate(timeout=seconds)
                    self.assertEqual(process.returncode, 0, errors)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    kills += 1
                if (folder / name).exists():
                    break   # killed while it tidied up
                if not moved_on and (parts / "plan.json").exists():
                    # What came after the run began belongs to the next training set.
                    moved_on = True
                    self.add_table(f"b{run}")
                    self.push()
                seconds += self.rng.random() * 0.02
            self.assertEqual((folder / name).read_bytes(), expected, f"{name}, {kills} kills")
            manifest, whole = (folder / f"{n}.manifest.json" for n in (name, f"whole-{name}"))
            if process.returncode == 0:
                self.assertFalse(parts.exists())
                for key in ("features", "rows", "labels"):
                    self.assertEqual(json.loads(manifest.read_text())[key], json.loads(whole.read_text())[key])
            print(f"{name}: {kills} kills, {'' if moved_on else 'nothing '}moved on meanwhile", flush=True)

    def test_an_event_cache_is_whole_after_kills_and_reads_only_what_is_new(self):
        folder, settings = self.project.folder, self.project.folder / "springhouse.yaml"
        for name in "bcd":
            self.add_table(name)
        # Of files that were written just now nothing is cached.
        time.sleep(2.1)
        expected = self.train("plain.parquet", *self.ask())
        settings.write_text(settings.read_text() + "jobs: {event_cache_mb: 64, memory_budget_mb: 16}\n")

        command = [program(), "--project", folder, "train", "--out", folder / "killed.parquet", *self.ask()]
        for run in range(4 * RUNS):
            begun = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                begun.wait(self.rng.random() * 0.3)
            except subprocess.TimeoutExpired:
                begun.kill()
                begun.wait()
            if run % 4 == 3:
                self.assertEqual(self.train("cached.parquet", *self.ask()), expected)
                for file in (folder / ".springhouse" / "lake" / "_events").rglob("*.events"):
                    if self.rng.random() < 0.5:
                        file.unlink()
        self.train("cached.parquet", *self.ask())
        done = self.project.run("train", "--explain", "--out", folder / "cached.parquet", *self.ask())
        said = done.stdout + done.stderr
        self.assertRegex(said, r"table\s+cached events")
        self.assertRegex(said, r"pushed\s+cached events")
        self.assertNotRegex(said, r"pushed\s+events", said[-2500:])
        self.assertEqual((folder / "cached.parquet").read_bytes(), expected)
        dry = self.project.run("train", "--dry-run", "--out", folder / "dry.parquet", *self.ask()).stdout
        self.assertRegex(dry, r"pushed\s+cached events")
        again = self.train("again.parquet", "--from-manifest", folder / "cached.parquet.manifest.json")
        self.assertEqual(again, expected)
        self.assertEqual(self.train("parts.parquet", *self.ask("--resumable", "3000")), expected)
        # One more day.
        self.add_table("e")
        time.sleep(2.1)
        table = lambda said: re.findall(r"table\s+events\s+\d+\s+\d+\s+.*?B\s+.*?B\s+([\d,]+)", said)
        done = self.project.run("train", "--explain", "--out", folder / "grown.parquet", *self.ask())
        self.assertTrue(table(done.stdout + done.stderr), done.stdout)
        grown = (folder / "grown.parquet").read_bytes()
        settings.write_text(settings.read_text().replace("event_cache_mb: 64", "event_cache_mb: 0"))
        self.assertEqual(self.train("plain.parquet", *self.ask()), grown)
        self.assertNotEqual(grown, expected)

    def test_parts_of_another_question_are_not_taken(self):
        folder = self.project.folder
        self.train("first.parquet", *self.ask("--resumable", "1"))
        whole = self.train("whole.parquet", *self.ask("--features", "score"))
        process = subprocess.Popen([program(), "--project", folder, "train", "--out", folder / "other.parquet", "--resumable",
                                    "1", *self.ask()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = folder / "other.parquet.parts"
        while process.poll() is None and not list(parts.glob("*.arrow")):
            time.sleep(0.005)
        process.kill()
        process.wait()
        self.assertEqual(self.train("other.parquet", *self.ask("--features", "score", "--resumable", "1")), whole)

    def test_a_manifest_makes_the_same_again_when_everything_has_moved_on(self):
        folder = self.project.folder
        first = self.train("first.parquet", *self.ask("--sample", "5000", "--seed", "3"))
        manifest = folder / "first.parquet.manifest.json"
        self.add_table("b")
        self.push()
        self.project.run("optimize")
        definitions = next((folder / "features").glob("*.yaml"))
        definitions.write_text(definitions.read_text().replace("windows: [lifetime, 1h]", "windows: [lifetime, 2h]"))
        self.project.run("apply", "--allow-breaking", check=False)
        now = self.project.run("train", "--out", folder / "now.parquet", *self.ask("--sample", "5000", "--seed", "3"))
        self.assertEqual(now.returncode, 0)
        self.assertNotEqual((folder / "now.parquet").read_bytes(), first)
        self.assertEqual(self.train("again.parquet", "--from-manifest", manifest), first)
        self.assertEqual(self.train("parts.parquet", "--from-manifest", manifest, "--resumable", "1"), first)

        def refused(code, *arguments):
            errors = self.train("refused.parquet", "--from-manifest", manifest, *arguments, check=False)
            self.assertIn(f"[{code}]", errors if isinstance(errors, str) else "it was made")
            self.assertFalse((folder / "refused.parquet").exists())

        labels = self.labels.read_text()
        self.labels.write_text(labels.replace(",0\n", ",1\n", 1))
        refused("labels_changed")
        self.labels.write_text(labels)
        table = folder / "history" / "a.csv"
        rows = table.read_text()
        table.write_text(rows + rows.splitlines()[-1] + "\n")
        refused("source_changed")
        table.rename(folder / "a.csv")
        refused("source_changed")
        (folder / "a.csv").rename(table)
        table.write_text(rows)
        self.assertEqual(self.train("again.parquet", "--from-manifest", manifest), first)
        text = manifest.read_text()
        manifest.write_text(text[:100])
        refused("manifest_unreadable")
        manifest.write_text(text.replace(json.loads(text)["definition_hash"], "none such"))
        self.assertIn("none such", self.train("refused.parquet", "--from-manifest", manifest, check=False))


if __name__ == "__main__":
    unittest.main()

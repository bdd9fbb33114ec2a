"""The flights project, step by step with the built program."""
import hashlib
import json
import shutil
import unittest

from springhouse_testing import ROOT, Client, Project

FLIGHTS = ROOT / "examples" / "flights"


class FlightsTest(unittest.TestCase):
    def project(self):
        project = Project()
        shutil.copytree(FLIGHTS, project.folder, dirs_exist_ok=True)
        return project

    def test_the_shipped_definitions_have_no_mistake(self):
        with self.project() as project:
            project.run("validate")

    def test_a_training_set_keeps_every_label_and_comes_out_the_same_twice(self):
        with self.project() as project:
            project.run("apply")
            digests = []
            for name in ("one.parquet", "two.parquet"):
                out = project.folder / name
                project.run("train", "--service", "late_departure", "--labels", project.folder / "data" / "labels.parquet",
                            "--out", out)
                digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
                manifest = json.loads((project.folder / f"{name}.manifest.json").read_text())
                self.assertIn("10436", json.dumps(manifest), "the manifest has the number of rows")
            self.assertEqual(digests[0], digests[1])

    def test_the_history_is_loaded_served_and_equal_to_what_is_recomputed(self):
        with self.project() as project:
            project.run("apply")
            project.run("materialize")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            with Client(server) as client:
                answer = client.call("POST", "/v1/features", {
                    "service": "late_departure", "request": {"distance": [1617.0], "sched_hour": [17]},
                    "entities": {"origin": ["JFK"], "carrier": ["B6"], "tailnum": ["N705JB"]}})
                # Asked years later: the windows are empty, which is a value, and the latest values are long expired.
                self.assertEqual(answer["features"]["origin_departures_24h"]["values"], [0])
                self.assertEqual(answer["features"]["temp"]["status"], ["expired"])
                self.assertEqual(answer["features"]["distance_km"]["values"], [1617.0 * 1.609344])
            self.assertEqual(project.run("verify").returncode, 0)
            self.assertEqual(server.stop(), 0, server.tail())


if __name__ == "__main__":
    unittest.main()

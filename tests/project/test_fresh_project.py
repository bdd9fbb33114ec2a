"""A newcomer's first hour: `init`, then every step on the project that it made, with the built program."""
import json
import subprocess
import tempfile
import time
import unittest

from springhouse_testing import Client, Project, program


def stamp():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class FreshProjectTest(unittest.TestCase):
    def test_init_makes_a_project_that_goes_all_the_way(self):
        with Project() as project:
            project.run("init", project.folder)
            self.assertTrue((project.folder / "springhouse.yaml").exists())
            project.run("validate")
            plan = project.run("plan", check=False)
            self.assertEqual(plan.returncode, 2, plan.stdout + plan.stderr)
            self.assertIn("customer_orders", plan.stdout)
            project.run("apply")
            self.assertEqual(project.run("plan").returncode, 0)
            self.assertEqual(project.run("apply").returncode, 0, "nothing to apply is no mistake")
            project.run("materialize")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            with Client(server) as client:
                self.assertIn("paths", client.call("GET", "/openapi.json"))
                client.call("GET", "/health")
                self.assertIn("springhouse_", client.call("GET", "/metrics"))
                views = client.call("GET", "/v1/views")
                self.assertTrue(views["views"])
                client.push("orders", [{"order_id": "o1", "customer_id": 7, "ordered_at": stamp(), "amount": 20.0}])
            shown = project.run("get", "--service", "checkout", "-k", "customer_id=7", "-r", "basket=40", "--explain")
            for expected in ("orders_1h", "fresh", "basket_to_usual", "2.0", "customer_orders@1"):
                self.assertIn(expected, shown.stdout)
            # A second process beside the running server: no hang, no second writer.
            self.assertIn("view", project.run("status", timeout=60).stdout.lower())
            verified = project.run("verify", timeout=120)
            self.assertEqual(verified.returncode, 0)
            self.assertEqual(server.stop(), 0, server.tail())

    def test_a_second_server_says_who_holds_the_project(self):
        with Project() as project:
            project.run("init", project.folder)
            project.run("apply")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            second = project.run("serve", "--bind", "127.0.0.1:0", check=False, timeout=60)
            self.assertNotEqual(second.returncode, 0)
            self.assertNotIn("panicked", second.stderr)
            self.assertEqual(server.stop(), 0, server.tail())

    def test_the_lake_is_compacted_while_a_server_runs_and_answers_stay_the_same(self):
        with Project() as project:
            project.run("init", project.folder)
            (project.folder / "springhouse.yaml").write_text("project: fresh\npush: {flush_interval_ms: 20}\n")
            project.run("apply")
            project.run("materialize")
            server = project.serve()
            self.assertTrue(server.wait_ready(), server.tail())
            table = project.folder / ".springhouse" / "lake" / "orders"
            with Client(server) as client:
                for order in range(12):
                    client.push("orders", [{"order_id": f"p{order}", "customer_id": order % 3, "ordered_at": stamp(),
                                            "amount": 1.5 * order}])
                    end = time.monotonic() + 30
                    while len(list(table.glob("*.parquet"))) <= order and time.monotonic() < end:
                        time.sleep(0.02)
            planned = json.loads(project.run("optimize", "--dry-run", "--format", "json").stdout)
            self.assertGreater(planned[0]["files_rewritten"], 5, planned)
            shown = project.run("optimize", "orders").stdout
            self.assertIn("put together", shown)
            self.assertIn("nothing to put together", project.run("optimize").stdout)
            self.assertEqual(project.run("verify", timeout=120).returncode, 0)
            deleted = json.loads(project.run("optimize", "--vacuum", "0s", "--format", "json").stdout)
            self.assertGreater(deleted[0]["files_deleted"], 5)
            with Client(server) as client:
                client.push("orders", [{"order_id": "after", "customer_id": 1, "ordered_at": stamp(), "amount": 2.0}])
            self.assertEqual(project.run("verify", timeout=120).returncode, 0)
            self.assertEqual(server.stop(), 0, server.tail())
            wrong = project.run("optimize", "ordres", check=False)
            self.assertNotEqual(wrong.returncode, 0)
            self.assertIn("orders", wrong.stderr)

    def test_without_a_project_every_command_says_what_to_do(self):
        with tempfile.TemporaryDirectory() as folder:
            for command in ("validate", "plan", "apply", "materialize", "rebuild", "serve", "status", "verify",
                            "optimize"):
                done = subprocess.run([program(), "--project", folder, command], text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
                self.assertNotEqual(done.returncode, 0, command)
                self.assertNotIn("panicked", done.stderr, command)
                self.assertIn("springhouse", done.stderr, f"{command}: {done.stderr}")

    def test_the_help_names_every_command(self):
        text = subprocess.run([program(), "--help"], text=True, stdout=subprocess.PIPE, check=True).stdout
        for command in ("init", "validate", "plan", "apply", "materialize", "rebuild", "train", "serve", "push", "get",
                        "verify", "conformance", "status", "demo"):
            self.assertIn(command, text)


if __name__ == "__main__":
    unittest.main()

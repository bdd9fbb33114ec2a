"""The benchmarks still run, at a tiny size and with the debug program. Their numbers mean nothing here."""
import os
import subprocess
import unittest

from springhouse_testing import ROOT, program


class SmokeTest(unittest.TestCase):
    def smoke(self, name):
        done = subprocess.run([ROOT / "scripts" / "python.sh", ROOT / "benches" / f"{name}.py", "--smoke", "--program",
                               program()], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                              env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(name.split('_')[0], done.stdout)

    def test_serving(self):
        self.smoke("serving")

    def test_training_gives_the_answers_of_duckdb(self):
        self.smoke("training")

    def test_materialize(self):
        self.smoke("materialize")

    def test_push(self):
        self.smoke("push")

    def test_stream(self):
        self.smoke("stream")

    def test_redis_store(self):
        self.smoke("redis_store")

    def test_python(self):
        self.smoke("python")

    def test_kernel(self):
        build = ["cargo", "build", "--quiet", "--locked", "--workspace", "--example", "kernel_speed"]
        subprocess.run(build, cwd=ROOT, check=True)
        self.smoke("kernel")


if __name__ == "__main__":
    unittest.main()

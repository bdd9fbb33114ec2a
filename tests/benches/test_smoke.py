"""The benchmarks still run, at a tiny size and with the debug program. Their numbers mean nothing here."""
import os
import subprocess
import unittest

from springhouse_testing import ROOT, program


class SmokeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        subprocess.run(["cargo", "build", "--quiet", "--locked", "--workspace", "--example", "load"], cwd=ROOT,
                       check=True)

    def smoke(self, name):
        done = subprocess.run([ROOT / "scripts" / "python.sh", ROOT / "benches" / f"{name}.py", "--smoke", "--program",
                               program()], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                              env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(name, done.stdout)

    def test_serving(self):
        self.smoke("serving")

    def test_training_gives_the_answers_of_duckdb(self):
        self.smoke("training")

    def test_materialize(self):
        self.smoke("materialize")

    def test_push(self):
        self.smoke("push")

    def test_python(self):
        self.smoke("python")


if __name__ == "__main__":
    unittest.main()

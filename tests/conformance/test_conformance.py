"""Cases with known answers through the doors of the product: training set, with and without an event cache, history materialised, pushed,
messages of a topic, and all of it with a restart, redeliveries and a hand-over. The shipped cases always; fresh ones where the reference program is at hand.
"""
import gzip
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

from springhouse_testing import LONG, ROOT, SEED, program

CASES = pathlib.Path(__file__).parent / "cases.jsonl.gz"
# A slow, plain reference that makes random cases with their answers (not part of this tree).
ORACLE = pathlib.Path(os.environ.get("SPRINGHOUSE_ORACLE", ROOT.parent / "shared" / "oracle" / "oracle.py"))
SEEDS, CASES_A_SEED = (20, 300) if LONG else (2, 150)


class ConformanceTest(unittest.TestCase):
    def agree(self, cases, seed):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "cases.jsonl"
            file.write_bytes(cases)
            done = subprocess.run([program(), "conformance", file, "--seed", str(seed)], text=True, timeout=1800,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, f"seed {seed}\n{done.stdout[-8000:]}")

    def test_the_shipped_cases_agree_at_every_door(self):
        self.agree(gzip.decompress(CASES.read_bytes()), SEED)

    @unittest.skipUnless(ORACLE.exists(), "the reference program is not here")
    def test_fresh_cases_agree_at_every_door(self):
        for seed in random.Random(SEED).sample(range(10**6), SEEDS):
            with self.subTest(seed=seed):
                made = subprocess.run([sys.executable, ORACLE, "gen", "--seed", str(seed), "--cases", str(CASES_A_SEED)],
                                      stdout=subprocess.PIPE, check=True)
                self.agree(made.stdout, seed)

    def test_a_wrong_answer_is_found(self):
        case = next(c for c in map(json.loads, gzip.decompress(CASES.read_bytes()).decode().splitlines())
                    if c["view"]["kind"] == "windows")
        values = case["expected"][0]["values"]
        name = next(name for name, value in values.items() if isinstance(value, (int, float)))
        values[name] += 1
        with self.assertRaisesRegex(AssertionError, name):
            self.agree(json.dumps(case).encode(), 1)


if __name__ == "__main__":
    unittest.main()

"""The shipped flight data is what its description says."""
import json
import pathlib
import subprocess
import unittest

from springhouse_testing import ROOT


class DataTest(unittest.TestCase):
    def test_the_slice_is_small_ordered_and_in_real_instants(self):
        done = subprocess.run([ROOT / "scripts" / "python.sh", pathlib.Path(__file__).parent / "facts.py"],
                              stdout=subprocess.PIPE, text=True, check=True)
        facts = json.loads(done.stdout)
        self.assertLessEqual(facts["bytes"], 500_000)
        for stream, rows in (("departed", 12_126), ("arrived", 12_118)):
            self.assertEqual(facts[stream], {"rows": rows, "ids": rows, "sorted": True, "split": True,
                                             "type": "timestamp[us, tz=UTC]", "null keys": 0})
        self.assertTrue(facts["delay is departure minus schedule"])
        least, most = facts["minutes gate to gate"]
        self.assertGreater(least, 15, "a flight that landed before it could: a time zone is wrong")
        self.assertLess(most, 15 * 60, "a flight longer than any: a date or a time zone is wrong")
        self.assertAlmostEqual(facts["late share"], 0.0918)
        self.assertEqual(facts["UA1545"], [10 * 60 + 17, 14 * 60 + 30])


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Runs the tests and says in its last line `N passed, N failed`.

    scripts/test.py                 everything that `make test` runs
    scripts/test.py --long          more kills, more seeds, larger inputs
    scripts/test.py --rust          only `cargo test`
    scripts/test.py --python        only tests/ (they drive the built binary)
    scripts/test.py --package       only the Python package, as a wheel
    scripts/test.py kill flights    only these folders of tests/

Standard library only. Exits 0 when at least one test ran and none failed.
"""
import argparse
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import time
import unittest

import debian

ROOT = pathlib.Path(__file__).parent.parent
RESULT = re.compile(r"^test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--long", action="store_true")
    arguments.add_argument("--rust", action="store_true")
    arguments.add_argument("--python", action="store_true")
    arguments.add_argument("--package", action="store_true")
    arguments.add_argument("folders", nargs="*", help="folders of tests/")
    arguments = arguments.parse_args()
    os.environ["SPRINGHOUSE_TEST_LONG"] = "1" if arguments.long else "0"
    # Fresh on every run, printed, and the same for all that draws at random: a red run can be had again.
    os.environ.setdefault("SPRINGHOUSE_TEST_SEED", str(secrets.randbelow(1 << 31)))
    print(f"SPRINGHOUSE_TEST_SEED={os.environ['SPRINGHOUSE_TEST_SEED']}", flush=True)

    everything = not (arguments.rust or arguments.python or arguments.package or arguments.folders)
    # The tests talk to a real one.
    debian.have("redis-server", "redis-server")
    totals = [0, 0]
    if everything or arguments.rust:
        add(totals, rust())
    if everything or arguments.python or arguments.folders:
        add(totals, python(arguments.folders))
    if everything or arguments.package:
        add(totals, package())
    print(f"{totals[0]} passed, {totals[1]} failed", flush=True)
    return 0 if totals[0] > 0 and totals[1] == 0 else 1


def add(totals, part):
    totals[0] += part[0]
    totals[1] += part[1]


def rust():
    """`cargo test` of the workspace. A test program that doesn't compile or dies without a result is one failure."""
    started = time.monotonic()
    command = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace")
    passed = failed = 0
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := RESULT.match(line):
            passed += int(match[1])
            failed += int(match[2])
    if process.wait() != 0 and failed == 0:
        failed = 1
    print(f"cargo test: {passed} passed, {failed} failed, {time.monotonic() - started:.0f} s\n", flush=True)
    return passed, failed


def python(folders):
    """The tests below tests/, which drive the built program from outside."""
    if subprocess.run(["cargo", "build", "--quiet", "--locked", "--workspace", "--bins"], cwd=ROOT).returncode != 0:
        print("the program does not build: its tests were not run", flush=True)
        return 0, 1
    sys.path.insert(0, str(ROOT / "tests"))
    suite = unittest.TestSuite()
    for folder in folders or sorted(p.parent.name for p in (ROOT / "tests").glob("*/__init__.py")):
        suite.addTests(unittest.defaultTestLoader.discover(str(ROOT / "tests" / folder), "test_*.py", str(ROOT / "tests")))
    started = time.monotonic()
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.testsRun - failed - len(result.skipped)
    print(f"tests/: {passed} passed, {failed} failed, {len(result.skipped)} skipped, {time.monotonic() - started:.0f} s\n",
          flush=True)
    return max(passed, 0), failed


def package():
    """The Python package's tests, which use its wheel."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, ROOT / "scripts" / "python_package.py", "test"], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True, errors="replace",
                               env=os.environ | {"SPRINGHOUSE_PROGRAM": str(built_program())})
    passed = failed = 0
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := re.match(r"^python package: (\d+) passed, (\d+) failed", line):
            passed, failed = int(match[1]), int(match[2])
    if process.wait() != 0 and failed == 0:
        failed = 1
    print(f"python/: {time.monotonic() - started:.0f} s\n", flush=True)
    return passed, failed


def built_program():
    """The program that the tests drive."""
    if subprocess.run(["cargo", "build", "--quiet", "--locked", "--workspace", "--bins"], cwd=ROOT).returncode != 0:
        print("the program does not build: the Python package's tests will say so", flush=True)
    sys.path.insert(0, str(ROOT / "tests"))
    import springhouse_testing
    return springhouse_testing.program()


if __name__ == "__main__":
    sys.exit(main())

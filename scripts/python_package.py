#!/usr/bin/env python3
"""Builds the Python package's wheel and tests it as a user has it: installed.

    scripts/python_package.py wheel [--release]    builds the wheel; its path is the last line
    scripts/python_package.py test [pytest's words]

`test` builds the wheel from what `cargo` has built already, installs it into an empty environment and uses it there (so
that nothing else is needed), then installs it beside the test packages, checks the types and runs python/tests, the
examples in its docstrings and on its pages. Standard library only; packages come below the cache folder.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "python"
CACHE = pathlib.Path(os.environ.get("SPRINGHOUSE_CACHE") or
                     pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "springhouse")
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# What an empty environment must be able to do: no other package is there.
ALONE = """
import pathlib, sys, tempfile
import springhouse
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "features").mkdir()
(folder / "springhouse.yaml").write_text("project: alone\\n")
(folder / "features" / "all.yaml").write_text('''
entities: {user: {keys: {user: int64}}}
sources:
  events: {stream: push, event_time: at, columns: {at: timestamp!, user: int64!, amount: float64}}
feature_views:
  spending: {entity: user, source: events, ttl: 36500d, aggregate: {amount: {fn: sum, column: amount, windows: [1h]}}}
''')
from datetime import datetime, timezone
with springhouse.open(folder) as store:
    store.apply()
    assert store.push("events", {"at": datetime.now(timezone.utc), "user": 1, "amount": 2.5}).accepted == 1
    assert store.features(["spending"], {"user": 1}).rows() == [{"amount_1h": 2.5}]
    assert store.verify(progress=False)["difference_count"] == 0
assert "site-packages" in springhouse.__file__, springhouse.__file__
print("alone: ok", springhouse.__version__)
"""


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("wheel", "test"):
        sys.exit(__doc__)
    if sys.argv[1] == "wheel":
        print(wheel("--release" in sys.argv[2:]))
        return
    sys.exit(test(sys.argv[2:]))


def environment():
    """The interpreter with the test packages; made on the first call and when the requirements change."""
    requirements = ROOT / "scripts" / "requirements-python.txt"
    folder = CACHE / f"python-package-{zlib.crc32(requirements.read_bytes()):08x}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making a Python environment in {folder}", file=sys.stderr, flush=True)
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
        (folder / "ready").touch()
    return python


def java():
    """Spark is tested for real, and runs on Java; installs it where there is none and apt is."""
    if shutil.which("java") is None:
        print("installing Java for the tests in Spark", file=sys.stderr, flush=True)
        run("apt-get", "install", "--yes", "--quiet", "default-jre-headless", stdout=sys.stderr)


def wheel(release):
    """Builds the wheel; its path."""
    out = TARGET / "wheels" / ("release" if release else "debug")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.whl"):
        old.unlink()
    python = environment()
    command = [python.parent / "maturin", "build", "--quiet", "--locked", "--out", out, "--interpreter", python,
               "--manifest-path", PACKAGE / "Cargo.toml"]
    command += ["--release"] if release else ["--profile", "dev", "--compression-level", "1"]
    # The linker writes this machine's glibc into the wheel's name; nothing is bundled.
    run(*command, "--auditwheel", "skip", env=os.environ | {"CARGO_TARGET_DIR": str(TARGET)})
    [built] = out.glob("*.whl")
    return built


def test(words):
    java()
    built = wheel(release=False)
    with tempfile.TemporaryDirectory(prefix="springhouse-wheel-") as folder:
        empty = pathlib.Path(folder) / "empty"
        run(sys.executable, "-m", "venv", empty)
        run(empty / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", built)
        run(empty / "bin" / "python", "-c", ALONE, cwd=folder)
    python = environment()
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
        "--force-reinstall", built)
    failed = subprocess.run([python, "-m", "mypy", "--strict", "--cache-dir", TARGET / "mypy", "springhouse"],
                            cwd=PACKAGE).returncode
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "tests", "springhouse", *words]
    # Not from the folder of the sources: what is imported must be what is installed.
    done = subprocess.run(command, cwd=PACKAGE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"})
    print(done.stdout, flush=True)
    counts = dict((word, int(number)) for number, word in re.findall(r"(\d+) (passed|failed|errors?)\b", done.stdout))
    passed = counts.get("passed", 0) + (failed == 0)
    bad = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0) + (failed != 0)
    if done.returncode != 0 and bad == 0:
        bad = 1
    print(f"python package: {passed} passed, {bad} failed", flush=True)
    return 0 if bad == 0 and passed > 1 else 1


def run(*command, **more):
    try:
        done = subprocess.run([str(word) for word in command], **more)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not there; install it, or what it would have installed: {' '.join(map(str, command))}")
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(word) for word in command[:4])} ... failed with status {done.returncode}")


if __name__ == "__main__":
    main()

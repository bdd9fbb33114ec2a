#!/usr/bin/env python3
"""What Python costs: a call of `features()` embedded, beside the same request over HTTP; a training set from a table in
memory to a table in memory, beside the program from file to file.

Runs itself again inside an environment that has the wheel (see scripts/python_package.py).
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

from bench import ROOT, TARGET, Project, Results, arguments

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  events:
    table: data/events.parquet
    event_time: at
    columns: {at: timestamp!, user_id: int64!, amount: float64}
feature_views:
  activity:
    entity: user
    source: events
    ttl: 36500d
    aggregate:
      amount: {fn: [count, sum, mean, max, min], column: amount, windows: [1h, 24h]}
  newest: {entity: user, source: events, ttl: 36500d, features: [amount]}
feature_services:
  all: {features: [activity, newest]}
"""
SEED = 7


def main():
    if os.environ.get("BENCH_PYTHON_INSIDE") != "1":
        inside()
    options = arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]))
    import pyarrow
    import pyarrow.parquet
    import springhouse

    results = Results("python", options.smoke)
    rows, users, labels = (20_000, 500, 5_000) if options.smoke else (5_000_000, 100_000, 1_000_000)
    calls, runs = (50, 1) if options.smoke else (20_000, 5)
    with Project(options.program, DEFINITIONS, keep=options.keep) as project:
        (project.folder / "data").mkdir()
        pyarrow.parquet.write_table(events(rows, users), project.folder / "data" / "events.parquet")
        table = events(labels, users, seed=SEED + 1).rename_columns(["event_timestamp", "user_id", "weight"])
        pyarrow.parquet.write_table(table, project.folder / "labels.parquet")
        with springhouse.open(project.folder) as store:
            store.apply()
            store.materialize(progress=False)
            entity = {"user_id": [1]}
            embedded = per_call(lambda: store.features("all", entity), calls)
            values = per_call(lambda: store.features("all", entity, metadata=False), calls)
            from springhouse.testing import FeatureTester

            tested = FeatureTester(project.folder)
            given = {"events": [{"at": "2026-01-01T00:00:00Z", "user_id": 1, "amount": 1.0}]}
            check = per_call(lambda: tested.check(given, at="2026-01-01T00:00:01Z", entities=entity,
                                                  expect={"amount_count_1h": 1}), max(calls // 100, 20))
            results.add("python_feature_test", check * 1e3, "ms")
        server = project.serve()
        with springhouse.connect(server if "//" in server else f"http://{server}") as remote:
            over_http = per_call(lambda: remote.features("all", entity), calls)
        project.process.terminate()
        project.process.wait(120)
        results.add("python_features_embedded", embedded * 1e6, "us", "the same over HTTP", over_http * 1e6, embedded / over_http)
        results.add("python_features_embedded_values_only", values * 1e6, "us")

        ours, theirs = [], []
        for run in range(runs):
            out = project.folder / f"out-{run}.parquet"
            _, seconds, _, _ = project.run("train", "--service", "all", "--labels", project.folder / "labels.parquet",
                                           "--out", out)
            theirs.append(seconds)
            with springhouse.open(project.folder) as store:
                started = time.monotonic()
                made = store.training_set("all", table, progress=False)
                ours.append(time.monotonic() - started)
            expected = pyarrow.parquet.read_table(out)
            if not made.to_arrow().equals(expected):
                sys.exit("the training set from Python differs from the program's")
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        results.add("python_training_set", ours, "s", "the program, file to file", theirs, ours / theirs, rows=rows, labels=labels)


def inside():
    """Goes on in an environment with the wheel: the release wheel, or the debug one for the smoke test."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import python_package

    smoke = "--smoke" in sys.argv
    folder = TARGET / "wheels" / ("debug" if smoke else "release")
    # The smoke test is of this source, not of what was built some time ago.
    built = None if smoke else next(folder.glob("*.whl"), None)
    built = built or python_package.wheel(release=not smoke)
    python = python_package.environment()
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
                    "--force-reinstall", built], check=True)
    os.execve(python, [str(python), *sys.argv], os.environ | {"BENCH_PYTHON_INSIDE": "1"})


def events(rows, users, seed=SEED):
    import numpy
    import pyarrow

    draw = numpy.random.default_rng(seed)
    start = 1_767_225_600_000_000
    at = numpy.sort(draw.integers(start, start + 30 * 86_400_000_000, rows))
    return pyarrow.table({
        "at": pyarrow.array(at, pyarrow.timestamp("us", tz="UTC")),
        "user_id": draw.integers(0, users, rows),
        "amount": draw.random(rows).round(2),
    })


def per_call(call, calls):
    """The median of 20 blocks, seconds a call."""
    for _ in range(min(calls, 200)):
        call()
    blocks = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(max(calls // 20, 1)):
            call()
        blocks.append((time.perf_counter() - started) / max(calls // 20, 1))
    return statistics.median(blocks)


if __name__ == "__main__":
    main()

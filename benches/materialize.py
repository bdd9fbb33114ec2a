#!/usr/bin/env python3
"""History into the online store: latest rows and windows, rows a second and peak memory, and how fast the store opens."""
import argparse
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import Project, Results, arguments, peak_bytes

DEFINITIONS = """
entities:
  user: {keys: {user_id: int64}}
sources:
  wide: {table: data/wide.parquet, event_time: at, columns: {at: timestamp!, user_id: int64!, COLUMNS}}
  events: {table: data/events.parquet, event_time: at, columns: {at: timestamp!, user_id: int64!, amount: float64, shop: int64}}
feature_views:
  latest: {entity: user, source: wide, ttl: 36500d, features: [NAMES]}
  windows:
    entity: user
    source: events
    ttl: 36500d
    aggregate:
      amount: {fn: [count, sum, mean, max], column: amount, windows: [1h, 24h, 7d, 30d]}
"""
FEAST_ROWS = 10_400     # recorded: `feast materialize`, one view of 10 features, 1 M rows, Redis, two cores of this class


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    options = arguments(parser)
    rows, users = (2_000, 50) if options.smoke else (options.rows, options.users)
    names = [f"f{i}" for i in range(10)]
    text = DEFINITIONS.replace("COLUMNS", ", ".join(f"{n}: float64" for n in names)).replace("NAMES", ", ".join(names))
    results, rng = Results("materialize", options.smoke), np.random.default_rng(7)
    with Project(options.program, text, keep=options.keep) as project:
        (project.folder / "data").mkdir()
        now = int(time.time() * 1e6)
        at = pa.array(np.sort(now - rng.integers(0, 40 * 86_400 * 10**6, rows)), pa.timestamp("us", "UTC"))
        keys = rng.integers(0, users, rows)
        pq.write_table(pa.table({"at": at, "user_id": np.arange(rows)} | {n: rng.standard_normal(rows) for n in names}),
                       project.folder / "data" / "wide.parquet")
        pq.write_table(pa.table({"at": at, "user_id": keys, "amount": rng.integers(0, 4000, rows) / 4.0,
                                 "shop": rng.integers(0, 2000, rows)}), project.folder / "data" / "events.parquet")
        project.run("apply")
        for view in ("latest", "windows"):
            _, wall, cpu, peak = project.run("materialize", "--view", view)
            feast = FEAST_ROWS if view == "latest" and not options.smoke else None
            results.add(f"materialize: {view}, {rows:,} rows", rows / wall, "rows/s", feast and "Feast (recorded)", feast,
                        feast and rows / wall / feast, seconds=round(wall, 2), cpu_s=round(cpu, 2),
                        peak_mib=round(peak / 2**20))
        started = time.monotonic()
        project.serve()
        results.add("serve: from start to ready", (time.monotonic() - started) * 1000, "ms")
        results.add("serve: memory after start", peak_bytes(project.process.pid) / 2**20, "MiB")


if __name__ == "__main__":
    main()

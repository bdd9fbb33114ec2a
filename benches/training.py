#!/usr/bin/env python3
"""A training set beside DuckDB's ASOF join in the same run: 1 M labels x 3 views x 5 M rows, 10 features a view.

100,000 entities of uneven popularity, 90 days, rows in order of arrival, 1 % corrections (same entity and event time, a
later row), 5 % nulls in one column, TTL 7 days, snappy Parquet in and out, two threads. Rule for both: the newest row not
after the label, the later correction where two tie, null when older than the TTL. Every value is compared.
"""
import argparse
import os
import statistics
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import Project, Results, arguments

T0 = 1_735_689_600_000_000
SPAN_MS = 90 * 86_400_000
TTL_DAYS = 7
VIEWS, COLUMNS = 3, 10
STAMP = pa.timestamp("us", "UTC")


def definitions():
    text = "entities:\n  entity: {keys: {entity_id: int64}}\nsources:\n"
    columns = ", ".join(f"f{i}: float64" for i in range(COLUMNS))
    for k in range(VIEWS):
        text += (f"  table{k}: {{table: data/view{k}.parquet, event_time: event_timestamp, sequence: arrival, columns: "
                 f"{{event_timestamp: timestamp!, entity_id: int64!, arrival: int64!, {columns}}}}}\n")
    text += "feature_views:\n"
    for k in range(VIEWS):
        names = ", ".join(f"v{k}_f{i}: f{i}" for i in range(COLUMNS))
        text += f"  view{k}: {{entity: entity, source: table{k}, ttl: {TTL_DAYS}d, features: {{{names}}}}}\n"
    return text + f"feature_services:\n  training: {{features: [{', '.join(f'view{k}' for k in range(VIEWS))}]}}\n"


def sampler(entities, rng):
    weights = (np.arange(1, entities + 1) + 20.0) ** -0.9
    cumulative, order = np.cumsum(weights / weights.sum()), rng.permutation(entities)
    return lambda n: order[np.minimum(np.searchsorted(cumulative, rng.random(n)), entities - 1)]


def generate(folder, labels, rows, entities, seed):
    """labels.parquet and data/viewK.parquet; row i of a view arrived as the i-th."""
    (folder / "data").mkdir()
    rng = np.random.default_rng(seed)
    draw = sampler(entities, rng)
    at = np.sort(rng.integers(0, SPAN_MS, labels)) * 1000 + T0
    pq.write_table(pa.table({"entity_id": draw(labels), "event_timestamp": pa.array(at, STAMP),
                             "label": rng.integers(0, 2, labels).astype(np.int32)}),
                   folder / "labels.parquet", row_group_size=250_000)
    for k in range(VIEWS):
        base = rows - rows // 100
        entity, when = draw(base), rng.integers(0, SPAN_MS, base)
        _, first = np.unique(entity * (SPAN_MS + 1) + when, return_index=True)
        entity, when = entity[first], when[first]
        again = np.unique(rng.integers(0, len(entity), rows - len(entity)))
        arrived = np.concatenate([when + rng.integers(1, 300_000, len(when)),
                                  when[again] + rng.integers(300_000, 86_400_000, len(again))])
        entity, when = np.concatenate([entity, entity[again]]), np.concatenate([when, when[again]])
        order = np.argsort(arrived, kind="stable")
        entity, when = entity[order], when[order] * 1000 + T0
        columns = {"entity_id": entity, "event_timestamp": pa.array(when, STAMP), "arrival": np.arange(len(entity))}
        for i in range(COLUMNS):
            mask = rng.random(len(entity)) < 0.05 if i == COLUMNS - 1 else None
            columns[f"f{i}"] = pa.array(rng.standard_normal(len(entity)), mask=mask)
        pq.write_table(pa.table(columns), folder / "data" / f"view{k}.parquet", row_group_size=250_000)


def with_duckdb(folder, out, corrections):
    """Chained ASOF joins; with `corrections`, superseded rows are taken out before by a narrow anti join."""
    connection = duckdb.connect()
    connection.execute(f"SET threads={min(2, os.cpu_count())}; SET preserve_insertion_order=false")
    columns, joins = ["l.entity_id", "l.event_timestamp", "l.label"], []
    for k in range(VIEWS):
        table = f"read_parquet('{folder}/data/view{k}.parquet')"
        if corrections:
            connection.execute(
                f"CREATE TEMP TABLE old{k} AS SELECT v.entity_id, v.event_timestamp, v.arrival FROM {table} v JOIN "
                f"(SELECT entity_id, event_timestamp, max(arrival) newest FROM {table} GROUP BY ALL HAVING count(*) > 1) g "
                f"USING (entity_id, event_timestamp) WHERE v.arrival < g.newest")
            table = f"(SELECT v.* FROM {table} v ANTI JOIN old{k} o USING (entity_id, event_timestamp, arrival))"
        joins.append(f"ASOF LEFT JOIN {table} v{k} ON l.entity_id = v{k}.entity_id "
                     f"AND l.event_timestamp >= v{k}.event_timestamp")
        columns += [f"CASE WHEN v{k}.event_timestamp >= l.event_timestamp - INTERVAL {TTL_DAYS} DAY THEN v{k}.f{i} END "
                    f"AS v{k}_f{i}" for i in range(COLUMNS)]
    connection.execute(f"COPY (SELECT {', '.join(columns)} FROM read_parquet('{folder}/labels.parquet') l "
                       f"{' '.join(joins)}) TO '{out}' (FORMAT parquet, COMPRESSION snappy)")


def differences(ours, theirs):
    """How many values differ between two answers, rows matched by what identifies a label (duplicates by their values)."""
    names = [f"v{k}_f{i}" for k in range(VIEWS) for i in range(COLUMNS)]
    tables = []
    for path in (ours, theirs):
        table = pq.read_table(path, columns=["entity_id", "event_timestamp", "label", *names])
        columns = [table["entity_id"].to_numpy(), table["event_timestamp"].cast("int64").to_numpy(),
                   table["label"].to_numpy()]
        values = [table[n].cast("float64").to_numpy().view(np.uint64) for n in names]
        nulls = [table[n].is_null().to_numpy() for n in names]
        values = [np.where(n, np.uint64(0x7FF8DEADBEEF0001), v) for v, n in zip(values, nulls)]
        order = np.lexsort([*values[:2], *columns[::-1]])
        tables.append([c[order] for c in (*columns, *values)])
    if len(tables[0][0]) != len(tables[1][0]):
        raise SystemExit(f"{len(tables[0][0])} rows and {len(tables[1][0])} rows")
    return int(sum((a != b).sum() for a, b in zip(*tables)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    options = arguments(parser)
    labels, rows, entities, runs = options.labels, options.rows, options.entities, options.runs
    if options.smoke:
        labels, rows, entities, runs = 500, 2_000, 50, 1
    results = Results("training", options.smoke)
    with Project(options.program, definitions(), keep=options.keep) as project:
        generate(project.folder, labels, rows, entities, options.seed)
        project.run("apply")
        seconds, cpus, peaks, plain, anti = [], [], [], [], []
        for run in range(runs):      # in turn, so that a busy machine is busy for both
            out = project.folder / f"ours-{run}.parquet"
            _, wall, cpu, peak = project.run("train", "--service", "training", "--labels", project.folder / "labels.parquet",
                                             "--out", out, "--availability", "event")
            seconds.append(wall), cpus.append(cpu), peaks.append(peak)
            for times, corrections in ((plain, False), (anti, True)):
                started = time.monotonic()
                with_duckdb(project.folder, project.folder / f"duckdb-{corrections}.parquet", corrections)
                times.append(time.monotonic() - started)
        wrong = differences(out, project.folder / "duckdb-True.parquet")
        if wrong:
            raise SystemExit(f"{wrong} values differ from DuckDB's")
        ours, simple, right = (statistics.median(times) for times in (seconds, plain, anti))
        size = f"{labels:,} labels x {VIEWS} x {rows:,} rows"
        results.add(f"training: {size}", ours, "s", "DuckDB ASOF + corrections", right, right / ours,
                    cpu_s=round(statistics.median(cpus), 2), peak_mib=round(max(peaks) / 2**20))
        results.add(f"training: {size}", ours, "s", "DuckDB plain ASOF (ties wrong)", simple, simple / ours)
        results.add("training: values that differ", wrong, "values")
        results.add("training: peak memory", max(peaks) / 2**20, "MiB")


if __name__ == "__main__":
    main()

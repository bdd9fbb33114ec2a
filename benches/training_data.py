"""Data of the training benchmarks, from a seed: point-in-time joins and windows."""
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

T0 = 1_735_689_600_000_000
SPAN_MS = 90 * 86_400_000
TTL_DAYS = 7
VIEWS, COLUMNS = 3, 10
STAMP = pa.timestamp("us", "UTC")
WINDOWS = {"1h": 3_600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
DAY_MS = 86_400_000


def sampler(entities, hot, rng):
    """Draws entities of uneven popularity; `hot`: the share of all that one entity has besides."""
    weights = (np.arange(1, entities + 1) + 20.0) ** -0.9
    cumulative, order = np.cumsum(weights / weights.sum()), rng.permutation(entities)

    def draw(n):
        drawn = order[np.minimum(np.searchsorted(cumulative, rng.random(n)), entities - 1)]
        return np.where(rng.random(n) < hot, order[0], drawn) if hot else drawn
    return draw


def join_definitions(pushed=False):
    """`pushed`: the rows are in the tables of streams."""
    text = "entities:\n  entity: {keys: {entity_id: int64}}\nsources:\n"
    columns = ", ".join(f"f{i}: float64" for i in range(COLUMNS))
    for k in range(VIEWS):
        rows = "stream: push" if pushed else f"table: data/view{k}.parquet, sequence: arrival"
        text += (f"  table{k}: {{{rows}, event_time: event_timestamp, columns: "
                 f"{{event_timestamp: timestamp!, entity_id: int64!, arrival: int64!, {columns}}}}}\n")
    text += "feature_views:\n"
    for k in range(VIEWS):
        names = ", ".join(f"v{k}_f{i}: f{i}" for i in range(COLUMNS))
        text += f"  view{k}: {{entity: entity, source: table{k}, ttl: {TTL_DAYS}d, features: {{{names}}}}}\n"
    return text + f"feature_services:\n  training: {{features: [{', '.join(f'view{k}' for k in range(VIEWS))}]}}\n"


def window_definitions():
    windows = ", ".join(WINDOWS)
    return f"""
entities:
  user: {{keys: {{user_id: int64}}}}
sources:
  events:
    table: data/events.parquet
    event_time: happened_at
    columns: {{happened_at: timestamp!, user_id: int64!, amount: float64, merchant: int32}}
feature_views:
  activity:
    entity: user
    source: events
    ttl: 36500d
    aggregate:
      n: {{fn: count, windows: [{windows}], hop: exact}}
      amount: {{fn: [sum, mean, max], column: amount, windows: [{windows}], hop: exact}}
      merchants: {{fn: count_distinct, column: merchant, windows: [7d], hop: exact, cap: 100000, over_cap: null}}
feature_services:
  training: {{features: [activity]}}
"""


def join_data(folder, labels, rows, entities, hot, seed):
    """labels.parquet and data/viewK.parquet; row i of a view arrived as the i-th."""
    (folder / "data").mkdir()
    rng = np.random.default_rng(seed)
    draw = sampler(entities, hot, rng)
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
                                  when[again] + rng.integers(300_000, DAY_MS, len(again))])
        entity, when = np.concatenate([entity, entity[again]]), np.concatenate([when, when[again]])
        order = np.argsort(arrived, kind="stable")
        entity, when = entity[order], when[order] * 1000 + T0
        schema = pa.schema([("entity_id", pa.int64()), ("event_timestamp", STAMP), ("arrival", pa.int64())]
                           + [(f"f{i}", pa.float64()) for i in range(COLUMNS)])
        with pq.ParquetWriter(folder / "data" / f"view{k}.parquet", schema) as writer:
            for a in range(0, len(entity), 250_000):        # piece by piece: M is 6.5 GB
                b = min(a + 250_000, len(entity))
                columns = [pa.array(entity[a:b]), pa.array(when[a:b], STAMP), pa.array(np.arange(a, b))]
                for i in range(COLUMNS):
                    mask = rng.random(b - a) < 0.05 if i == COLUMNS - 1 else None
                    columns.append(pa.array(rng.standard_normal(b - a), mask=mask))
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def pushed_join(folder, out, flush_rows):
    """The labels and rows of `join_data` in `folder` as another project has them to whom they were pushed, `flush_rows` at a
    time: tables as the server writes them, before they are compacted."""
    shutil.copy(folder / "labels.parquet", out / "labels.parquet")
    for k in range(VIEWS):
        table = out / ".springhouse" / "lake" / f"table{k}"
        (table / "_delta_log").mkdir(parents=True)
        with pq.ParquetFile(folder / "data" / f"view{k}.parquet") as file:
            first, actions, schema = 0, [], None
            for batch in file.iter_batches(flush_rows):
                rows = pa.Table.from_batches([batch])
                last = first + len(rows) - 1
                rows = (rows.append_column("_known_at", rows["event_timestamp"])
                        .append_column("_offset", pa.array(np.arange(first, last + 1)))
                        .append_column("_event_id", pa.nulls(len(rows), pa.binary())))
                path = table / f"part-{first:020}-{last:020}-{k:016x}.parquet"
                pq.write_table(rows, path, compression="zstd", store_schema=False)
                statistics = {"numRecords": len(rows), "minValues": {"_offset": first}, "maxValues": {"_offset": last}}
                actions.append({"add": {"path": path.name, "partitionValues": {}, "size": path.stat().st_size, "dataChange": True,
                                        "modificationTime": int(path.stat().st_mtime * 1000), "stats": json.dumps(statistics)}})
                first, schema = last + 1, rows.schema
        names = {"int64": "long", "double": "double", "binary": "binary", str(STAMP): "timestamp"}
        fields = [{"name": field.name, "type": names[str(field.type)], "nullable": True, "metadata": {}} for field in schema]
        metadata = {"id": f"table{k}", "format": {"provider": "parquet", "options": {}}, "partitionColumns": [],
                    "configuration": {}, "createdTime": 0, "schemaString": json.dumps({"type": "struct", "fields": fields})}
        actions = [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}, *actions]
        (table / "_delta_log" / f"{0:020}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")


def window_data(folder, labels, events, users, hot, seed):
    """labels.parquet and data/events.parquet. Amounts are multiples of 1/4, so that sums don't depend on their order. One
    label in ten is just after an event of its user."""
    (folder / "data").mkdir()
    rng = np.random.default_rng(seed)
    draw = sampler(users, hot, rng)
    when = np.sort(rng.integers(0, SPAN_MS, events)) * 1000 + T0
    user = draw(events)
    amount = np.maximum(1, np.round(rng.lognormal(3.0, 1.0, events) * 4)) / 4
    merchant = np.minimum(rng.random(events) ** 2 * 2000, 1999).astype(np.int32)
    pq.write_table(pa.table({"user_id": user, "happened_at": pa.array(when, STAMP), "amount": amount, "merchant": merchant}),
                   folder / "data" / "events.parquet", row_group_size=500_000)
    asked, at = draw(labels), rng.integers(0, SPAN_MS, labels) * 1000 + T0
    same = rng.integers(0, events, labels // 10)
    asked[:len(same)], at[:len(same)] = user[same], when[same]
    order = np.argsort(at, kind="stable")
    # A window ends before its moment here and with its moment elsewhere: a microsecond makes them the same.
    pq.write_table(pa.table({"label_id": np.arange(labels), "user_id": asked[order],
                             "event_timestamp": pa.array(at[order] + 1, STAMP)}),
                   folder / "labels.parquet", row_group_size=500_000)


def every(path, out, part):
    """Every so many-th row of a file as another file."""
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(range(0, len(table), part))), out)


def fingerprint(path):
    """(rows, hash) of a training set, whatever the order of its rows and columns: 64 bits over every value."""
    def mix(x):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
    rows, total = 0, np.uint64(0)
    import pyarrow.dataset as dataset
    for batch in dataset.dataset(path).to_batches(batch_size=1 << 20):
        row = np.zeros(batch.num_rows, np.uint64)
        for name, column in zip(batch.schema.names, batch.columns):
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
            null = column.is_null().to_numpy(zero_copy_only=False)
            values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) if name != "event_timestamp" \
                else column.fill_null(0).to_numpy(zero_copy_only=False)
            null = null | (np.isnan(values) if values.dtype.kind == "f" else False)
            bits = np.where(null, 0, values + 0).view(np.uint64)
            salt = np.uint64(int.from_bytes(name.encode()[:8].rjust(8, b"\0"), "big") * 31 + len(name) & (1 << 64) - 1)
            row += mix(np.where(null, np.uint64(0x9E3779B97F4A7C15), bits) ^ mix(np.full(len(bits), salt)))
        rows, total = rows + len(row), total + mix(row).sum(dtype=np.uint64)
    return rows, f"{int(total):016x}"

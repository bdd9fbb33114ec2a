"""The peers of the training benchmarks, each as its users would write it: `training_peers.py PEER WORKLOAD FOLDER OUT THREADS`.

Point-in-time joins: the newest row not after the label, the later arrival where two tie, null when older than the TTL.
Windows: count, sum, mean and max of the events from the window's tail to the label, distinct merchants of seven days.
"""
import sys
import pathlib

from training_data import COLUMNS, TTL_DAYS, VIEWS, WINDOWS

FEATURES = [[f"v{k}_f{i}" for i in range(COLUMNS)] for k in range(VIEWS)]


def window_columns():
    """SQL of all features over a named frame per window."""
    out = []
    for w in WINDOWS:
        out += [f"count(amount) OVER w{w} AS n_{w}", f"sum(amount) OVER w{w} AS amount_sum_{w}",
                f"avg(amount) OVER w{w} AS amount_mean_{w}", f"max(amount) OVER w{w} AS amount_max_{w}"]
    return out


def duckdb_connection(threads):
    import duckdb
    connection = duckdb.connect()
    connection.execute(f"SET threads={threads}; SET preserve_insertion_order=false; SET TimeZone='UTC'")
    return connection


def duckdb_join(folder, out, threads):
    """Chained ASOF joins; superseded rows are taken out before by a narrow anti join."""
    connection = duckdb_connection(threads)
    columns, joins = ["l.entity_id", "l.event_timestamp", "l.label"], []
    for k in range(VIEWS):
        table = f"read_parquet('{folder}/data/view{k}.parquet')"
        connection.execute(
            f"CREATE TEMP TABLE old{k} AS SELECT v.entity_id, v.event_timestamp, v.arrival FROM {table} v JOIN "
            f"(SELECT entity_id, event_timestamp, max(arrival) newest FROM {table} GROUP BY ALL HAVING count(*) > 1) g "
            f"USING (entity_id, event_timestamp) WHERE v.arrival < g.newest")
        joins.append(f"ASOF LEFT JOIN (SELECT v.* FROM {table} v ANTI JOIN old{k} o USING "
                     f"(entity_id, event_timestamp, arrival)) v{k} ON l.entity_id = v{k}.entity_id "
                     f"AND l.event_timestamp >= v{k}.event_timestamp")
        columns += [f"CASE WHEN v{k}.event_timestamp >= l.event_timestamp - INTERVAL {TTL_DAYS} DAY THEN v{k}.f{i} END "
                    f"AS v{k}_f{i}" for i in range(COLUMNS)]
    connection.execute(f"COPY (SELECT {', '.join(columns)} FROM read_parquet('{folder}/labels.parquet') l "
                       f"{' '.join(joins)}) TO '{out}' (FORMAT parquet, COMPRESSION snappy)")


def window_sql(events, labels):
    """Labels among the events, frames over both; RANGE frames in microseconds of event time."""
    # A frame that goes back W microseconds includes the event that is exactly W old; a window does not.
    frames = ", ".join(f"w{w} AS (PARTITION BY user_id ORDER BY t RANGE BETWEEN {s * 1_000_000 - 1} PRECEDING AND CURRENT ROW)"
                       for w, s in WINDOWS.items())
    both = (f"SELECT user_id, epoch_us(happened_at) AS t, amount, merchant, CAST(NULL AS BIGINT) AS label_id FROM {events} UNION ALL "
            f"SELECT user_id, epoch_us(event_timestamp) - 1, NULL, NULL, label_id FROM {labels}")
    columns = window_columns() + ["count(DISTINCT merchant) OVER w7d AS merchants_7d"]
    return f"SELECT label_id, user_id, t, {', '.join(columns)} FROM ({both}) WINDOW {frames}"


def duckdb_windows(folder, out, threads):
    connection = duckdb_connection(threads)
    inner = window_sql(f"read_parquet('{folder}/data/events.parquet')", f"read_parquet('{folder}/labels.parquet')")
    features = "* EXCLUDE (t), make_timestamptz(t + 1) AS event_timestamp"
    connection.execute(f"COPY (SELECT {features} FROM ({inner}) WHERE label_id IS NOT NULL) TO '{out}' "
                       f"(FORMAT parquet, COMPRESSION snappy)")


def datafusion_windows(folder, out, threads):
    import datafusion
    config = datafusion.SessionConfig().with_target_partitions(threads)
    context = datafusion.SessionContext(config)
    context.register_parquet("events", f"{folder}/data/events.parquet")
    context.register_parquet("labels", f"{folder}/labels.parquet")
    inner = window_sql("events", "labels").replace("epoch_us(happened_at)", "CAST(happened_at AS BIGINT)") \
        .replace("epoch_us(event_timestamp)", "CAST(event_timestamp AS BIGINT)")
    names = [f"{f}_{w}" for w in WINDOWS for f in ("n", "amount_sum", "amount_mean", "amount_max")]
    names.append("merchants_7d")
    context.sql(f"SELECT label_id, user_id, arrow_cast(t + 1, 'Timestamp(Microsecond, Some(\"UTC\"))') AS event_timestamp, "
                f"{', '.join(names)} FROM ({inner}) WHERE label_id IS NOT NULL").write_parquet(str(out), compression="snappy")


def polars_join(folder, out, threads):
    import polars as pl
    answer = pl.scan_parquet(f"{folder}/labels.parquet").sort("event_timestamp")
    for k in range(VIEWS):
        view = pl.scan_parquet(f"{folder}/data/view{k}.parquet").sort("event_timestamp", "arrival") \
            .rename({f"f{i}": f"v{k}_f{i}" for i in range(COLUMNS)}) \
            .with_columns(seen=pl.col("event_timestamp")).drop("arrival")
        young = pl.col("seen") >= pl.col("event_timestamp") - pl.duration(days=TTL_DAYS)
        answer = answer.join_asof(view, on="event_timestamp", by="entity_id", check_sortedness=False) \
            .with_columns(pl.when(young).then(pl.col(name)) for name in FEATURES[k]).drop("seen")
    answer.collect().write_parquet(out, compression="snappy")


def polars_windows(folder, out, threads):
    import polars as pl
    events = pl.read_parquet(f"{folder}/data/events.parquet").rename({"happened_at": "t"})
    labels = pl.read_parquet(f"{folder}/labels.parquet").with_columns(
        t=pl.col("event_timestamp") - pl.duration(microseconds=1)).drop("event_timestamp")
    both = pl.concat([events.with_columns(label_id=pl.lit(None, pl.Int64)), labels], how="diagonal").sort("user_id", "t")
    answer = both.select("label_id", "user_id", event_timestamp=pl.col("t") + pl.duration(microseconds=1))
    for w in WINDOWS:
        amount = pl.col("amount")
        columns = [amount.count().cast(pl.Int64).alias(f"n_{w}"), amount.sum().alias(f"amount_sum_{w}"),
                   amount.mean().alias(f"amount_mean_{w}"), amount.max().alias(f"amount_max_{w}")]
        if w == "7d":
            columns.append(pl.col("merchant").drop_nulls().n_unique().cast(pl.Int64).alias("merchants_7d"))
        answer = answer.hstack(both.rolling("t", period=w, group_by="user_id", closed="right").agg(columns)
                               .drop("user_id", "t"))
    for w in WINDOWS:
        answer = answer.with_columns(pl.when(pl.col(f"n_{w}") > 0).then(pl.col(f"amount_sum_{w}"))
                                     .alias(f"amount_sum_{w}"))
    answer.filter(pl.col("label_id").is_not_null()).write_parquet(out, compression="snappy")


def pandas_join(folder, out, threads):
    import pandas as pd
    answer = pd.read_parquet(f"{folder}/labels.parquet").sort_values("event_timestamp", kind="stable")
    for k in range(VIEWS):
        view = pd.read_parquet(f"{folder}/data/view{k}.parquet").sort_values(["event_timestamp", "arrival"], kind="stable")
        view = view.drop(columns="arrival").rename(columns={f"f{i}": f"v{k}_f{i}" for i in range(COLUMNS)})
        view["seen"] = view["event_timestamp"]
        answer = pd.merge_asof(answer, view, on="event_timestamp", by="entity_id")
        old = ~(answer["seen"] >= answer["event_timestamp"] - pd.Timedelta(days=TTL_DAYS))
        answer.loc[old, FEATURES[k]] = float("nan")
        answer = answer.drop(columns="seen")
    answer.to_parquet(out, compression="snappy", index=False)


def spark_session(threads):
    from pyspark.sql import SparkSession
    return SparkSession.builder.master(f"local[{threads}]").config("spark.driver.memory", "6g") \
        .config("spark.sql.shuffle.partitions", threads * 4).config("spark.ui.enabled", "false") \
        .config("spark.sql.session.timeZone", "UTC").config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS") \
        .getOrCreate()


def spark_join(folder, out, threads):
    """Labels among the rows, the last row before each by a window."""
    from pyspark.sql import Window, functions as f
    spark = spark_session(threads)
    answer = spark.read.parquet(f"{folder}/labels.parquet").withColumn("id", f.monotonically_increasing_id())
    labels = answer
    for k in range(VIEWS):
        view = spark.read.parquet(f"{folder}/data/view{k}.parquet")
        row = f.struct("event_timestamp", *[f"f{i}" for i in range(COLUMNS)])
        both = view.select("entity_id", "event_timestamp", "arrival", row.alias("row"), f.lit(None).cast("long").alias("id")) \
            .unionByName(labels.select("entity_id", "event_timestamp", "id"), allowMissingColumns=True)
        # A label comes after every row of its moment.
        order = Window.partitionBy("entity_id").orderBy("event_timestamp", f.col("id").isNotNull(), "arrival") \
            .rowsBetween(Window.unboundedPreceding, Window.currentRow)
        seen = both.withColumn("seen", f.last("row", ignorenulls=True).over(order)).filter("id IS NOT NULL")
        young = f.expr(f"seen.event_timestamp >= event_timestamp - INTERVAL {TTL_DAYS} DAYS")
        seen = seen.select("id", *[f.when(young, f.col(f"seen.f{i}")).alias(f"v{k}_f{i}") for i in range(COLUMNS)])
        answer = answer.join(seen, "id")
    answer.drop("id").write.mode("overwrite").parquet(str(out))
    spark.stop()


def spark_windows(folder, out, threads):
    from pyspark.sql import Window, functions as f
    spark = spark_session(threads)
    events = spark.read.parquet(f"{folder}/data/events.parquet").withColumn("t", f.unix_micros("happened_at")).drop("happened_at")
    labels = spark.read.parquet(f"{folder}/labels.parquet").withColumn("t", f.unix_micros("event_timestamp") - 1) \
        .drop("event_timestamp")
    both = events.unionByName(labels, allowMissingColumns=True)
    columns = []
    for w, seconds in WINDOWS.items():
        frame = Window.partitionBy("user_id").orderBy("t").rangeBetween(1 - seconds * 1_000_000, 0)
        columns += [f.count("amount").over(frame).alias(f"n_{w}"), f.sum("amount").over(frame).alias(f"amount_sum_{w}"),
                    f.avg("amount").over(frame).alias(f"amount_mean_{w}"), f.max("amount").over(frame).alias(f"amount_max_{w}")]
        if w == "7d":
            columns.append(f.size(f.collect_set("merchant").over(frame)).cast("long").alias("merchants_7d"))
    answer = both.select("label_id", "user_id", f.timestamp_micros(f.col("t") + 1).alias("event_timestamp"), *columns)
    answer.filter("label_id IS NOT NULL").write.mode("overwrite").parquet(str(out))
    spark.stop()


def floor_join(folder, out, threads):
    """Not a peer: decodes every file and encodes an answer's worth of columns, and nothing else."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    pa.set_cpu_count(threads)
    answer = pq.read_table(f"{folder}/labels.parquet")
    for k in range(VIEWS):
        view = pq.read_table(f"{folder}/data/view{k}.parquet")
        for i in range(COLUMNS):
            values = view[f"f{i}"].combine_chunks()
            answer = answer.append_column(f"v{k}_f{i}", pa.array(np.resize(values.to_numpy(zero_copy_only=False), len(answer))))
    pq.write_table(answer, out, compression="snappy", use_dictionary=False)


PEERS = {"duckdb": {"join": duckdb_join, "windows": duckdb_windows}, "polars": {"join": polars_join, "windows": polars_windows},
         "pandas": {"join": pandas_join}, "datafusion": {"windows": datafusion_windows},
         "spark": {"join": spark_join, "windows": spark_windows}, "floor": {"join": floor_join}}

if __name__ == "__main__":
    peer, workload, folder, out, threads = sys.argv[1:]
    PEERS[peer][workload](pathlib.Path(folder), pathlib.Path(out), int(threads))

"""Training sets made inside a real, local Spark are those of the local engine, bit for bit."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import springhouse
import springhouse.spark

DEFINITIONS = """
entities:
  user: {keys: {user: int64}}
  item: {keys: {item: string, shop: int32}}
sources:
  orders:
    table: data/orders/*.parquet
    event_time: at
    known_at: known
    event_id: id
    columns: {at: timestamp!, known: timestamp!, id: string, user: int64, item: string, shop: int32, amount: float64, n: int32}
  profiles:
    table: data/profiles.parquet
    event_time: at
    columns: {at: timestamp!, user: int64!, city: string, score: "decimal(9,2)", born: date, place: "vector<2>"}
feature_views:
  spending:
    entity: user
    source: orders
    ttl: 36500d
    aggregate:
      orders: {fn: count, windows: [1h, 1d, lifetime], default: 0}
      amount: {fn: [sum, mean, max, stddev, last], column: amount, windows: [1h, 1d], hop: exact}
      kinds: {fn: count_distinct, column: item, windows: [1d], cap: 3, over_cap: null}
      by_shop: {fn: count, windows: [lifetime], group_by: shop, default: null}
  newest: {entity: item, source: orders, ttl: {soft: 1h, hard: 2d}, features: {amount: {default: -1.0}, n: {default: null}}}
  profile:
    entity: user
    source: profiles
    ttl: 2d
    features: {city: {default: nowhere}, score: {default: null}, born: {default: null}, place: {default: null}, since: {column: at, default: null}}
request_views:
  basket:
    fields: {basket: float64!}
    inputs: {usual: "spending:amount_mean_1d"}
    features: {basket_to_usual: {sql: "basket - usual", default: 0.0}}
feature_services:
  all: {features: [spending, newest, profile, basket]}
"""
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
STAMP = pyarrow.timestamp("us", "UTC")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").appName("springhouse tests")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "Asia/Tokyo",
        "spark.sql.shuffle.partitions": "3",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


def moments(dice: random.Random, count: int) -> list[datetime]:
    # Few different ones, so that ties and edges of windows happen.
    return [START + timedelta(minutes=15 * dice.randrange(600)) for _ in range(count)]


def generate(folder: Path, seed: int) -> pyarrow.Table:
    """A project with random history, and labels for it."""
    dice = random.Random(seed)
    (folder / "features").mkdir(parents=True)
    (folder / "data" / "orders").mkdir(parents=True)
    (folder / "springhouse.yaml").write_text("project: random\n")
    (folder / "features" / "all.yaml").write_text(DEFINITIONS)
    maybe = lambda value: None if dice.random() < 0.1 else value  # noqa: E731
    written: list[dict[str, Any]] = []
    for part in range(3):
        rows: list[dict[str, Any]] = []
        for at in moments(dice, 400):
            if written and dice.random() < 0.1:
                # A redelivery: the same event, known again.
                again = dice.choice(written)
                rows.append(again | {"known": again["known"] + timedelta(minutes=dice.choice([0, 5, 500]))})
                continue
            late = timedelta(minutes=dice.choice([0, 0, 1, 90, 3000]))
            rows.append(
                {
                    "at": at,
                    "known": at + late,
                    "id": maybe(f"o{part}-{len(rows)}"),
                    "user": maybe(dice.randrange(12)),
                    "item": dice.choice("abcdé"),
                    "shop": dice.randrange(3),
                    "amount": maybe(dice.choice([dice.gauss(20, 5), 0.1, -0.0, 1e-30, float("inf")])),
                    "n": maybe(dice.randrange(100)),
                }
            )
        written += [row for row in rows if row["id"] is not None]
        schema = pyarrow.schema(
            [("at", STAMP), ("known", STAMP), ("id", "string"), ("user", "int64"), ("item", "string")]
            + [("shop", "int32"), ("amount", "float64"), ("n", "int32")]
        )
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows, schema), folder / "data" / "orders" / f"{part}.parquet", row_group_size=100
        )
    profiles = {
        "at": pyarrow.array(moments(dice, 100), STAMP),
        "user": [dice.randrange(12) for _ in range(100)],
        "city": [maybe(dice.choice(["Köln", "Bonn", ""])) for _ in range(100)],
        "score": pyarrow.array(
            [None if i % 9 == 0 else Decimal(f"{i}.25") for i in range(100)], pyarrow.decimal128(9, 2)
        ),
        "born": pyarrow.array([i * 37 for i in range(100)], pyarrow.date32()),
        "place": pyarrow.array([[i / 3, -i] for i in range(100)], pyarrow.list_(pyarrow.float32(), 2)),
    }
    pyarrow.parquet.write_table(pyarrow.table(profiles), folder / "data" / "profiles.parquet")
    asked = moments(dice, 500)
    return pyarrow.table(
        {
            "number": list(range(500)),
            "user": pyarrow.array([maybe(dice.randrange(14)) for _ in asked], "int64"),
            "item": [dice.choice("abcdéz") for _ in asked],
            "shop": pyarrow.array([dice.randrange(3) for _ in asked], "int32"),
            "asked": pyarrow.array([at + timedelta(microseconds=dice.randrange(2)) for at in asked], STAMP),
            "basket": [dice.random() for _ in asked],
        }
    )


def bits(table: pyarrow.Table) -> list[dict[str, Any]]:
    """Rows in the order of their numbers; floats as their bits."""

    def exact(value: Any) -> Any:
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, list):
            return [exact(item) for item in value]
        return value.astimezone(timezone.utc) if isinstance(value, datetime) else value

    rows = sorted(table.to_pylist(), key=lambda row: row["number"])
    return [{name: exact(value) for name, value in row.items()} for row in rows]


def differences(made: pyarrow.Table, expected: pyarrow.Table) -> list[tuple[Any, ...]]:
    """(row, column, what Spark has, what the local engine has)."""
    ours, theirs = bits(made), bits(expected)
    assert len(ours) == len(theirs)
    return [
        (number, name, value, other[name])
        for number, (row, other) in enumerate(zip(ours, theirs, strict=True))
        for name, value in row.items()
        if value != other[name]
    ]


@pytest.mark.parametrize("seed", [1, 2, 20261127])
@pytest.mark.parametrize("availability", ["known", "event"])
def test_spark_and_the_local_engine_agree_bit_for_bit(
    spark: Any, tmp_path: Path, seed: int, availability: Any
) -> None:
    print(f"seed {seed}")
    labels = generate(tmp_path, seed)
    with springhouse.open(tmp_path) as store:
        store.apply()
        local = store.training_set("all", labels, at="asked", availability=availability, progress=False)
    frame = springhouse.spark.training_set(
        spark, "all", spark.createDataFrame(labels), project=tmp_path, at="asked", availability=availability, tasks=3
    )
    made = frame.toArrow()
    assert made.schema.names == local.to_arrow().schema.names
    assert differences(made, local.to_arrow()) == []


def test_the_demos_flights_agree_too(spark: Any, tmp_path: Path) -> None:
    """The project that `springhouse demo` shows, with the flights that come with it."""
    import shutil

    source, service = Path(__file__).resolve().parents[2] / "examples" / "flights", "late_departure"
    project = tmp_path / "flights"
    shutil.copytree(source, project, ignore=shutil.ignore_patterns(".springhouse", "full", "*.py"))
    with springhouse.open(project) as store:
        store.apply()
        local = store.training_set(service, project / "data" / "labels.parquet", progress=False)
    table = local.to_arrow()
    given = table.select(table.schema.names[: len(table.schema.names) - len(local.feature_names)])
    given = given.append_column("number", pyarrow.array(range(len(given))))
    frame = springhouse.spark.training_set(spark, service, spark.createDataFrame(given), project=project, tasks=2)
    made = frame.toArrow()
    expected = table.append_column("number", pyarrow.array(range(len(table)))).select(made.schema.names)
    assert differences(made, expected) == []


def test_what_is_wrong_is_said_before_any_job_starts(spark: Any, tmp_path: Path) -> None:
    labels = spark.createDataFrame(generate(tmp_path, 3))
    with pytest.raises(springhouse.errors.Conflict, match="nothing has been applied"):
        springhouse.spark.training_set(spark, "all", labels, project=tmp_path)
    with springhouse.open(tmp_path) as store:
        store.apply()
    with pytest.raises(springhouse.errors.NotFound, match="no feature service `al`"):
        springhouse.spark.training_set(spark, "al", labels, project=tmp_path)
    with pytest.raises(springhouse.errors.InvalidInput, match="`shop`"):
        springhouse.spark.training_set(spark, "all", labels.drop("shop"), project=tmp_path, at="asked")
    with pytest.raises(springhouse.errors.InvalidInput, match="tasks"):
        springhouse.spark.training_set(spark, "all", labels, project=tmp_path, at="asked", tasks=0)
    with pytest.raises(springhouse.errors.NotFound, match="no project"):
        springhouse.spark.training_set(spark, "all", labels, project=tmp_path / "nowhere")


def test_a_source_that_changed_in_between_fails_the_job(spark: Any, tmp_path: Path) -> None:
    labels = spark.createDataFrame(generate(tmp_path, 4))
    with springhouse.open(tmp_path) as store:
        store.apply()
    frame = springhouse.spark.training_set(spark, "all", labels, project=tmp_path, at="asked", tasks=2)
    first = tmp_path / "data" / "orders" / "0.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(first), tmp_path / "data" / "orders" / "3.parquet")
    with pytest.raises(Exception, match="source_changed"):
        frame.collect()

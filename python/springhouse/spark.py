"""Training sets inside Spark: the same kernel in the executors, the same bits as on one machine.

Every task makes the training set of its share of the entities, with the engine that `Store.training_set` has: it reads the
project's sources itself (the files and Delta tables, not through Spark), within a memory budget of its own, and Spark moves
nothing but labels and answers. So the project's folder and its sources must be readable under the same paths from every
executor, and the package must be installed there.

    import springhouse.spark

    labels = spark.read.parquet("labels.parquet")
    training = springhouse.spark.training_set(spark, "delay_model", labels, project="/shared/flights")
    training.write.parquet("training.parquet")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _native
from .errors import Conflict, InvalidInput, from_native

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["training_set"]

#: Service, column of the moment, time zone, availability.
Options = tuple[str, str | None, str | None, str]

#: Rows of one batch that a task hands to Spark.
BATCH_ROWS = 10_000


def training_set(
    spark: SparkSession,
    service: str,
    labels: DataFrame,
    *,
    project: str | Path,
    at: str | None = None,
    availability: Literal["known", "event"] = "known",
    time_zone: str | None = None,
    tasks: int | None = None,
    memory_mb: int | None = None,
) -> DataFrame:
    """The labels with one column per feature of the service: what it would have answered at the moment of every label.

    Lazy: this checks everything that can be checked without reading rows, on the driver, and returns a DataFrame; rows are
    made when it is used. Rows come in no particular order, as everywhere in Spark; all columns of the labels are passed
    through.

    ``project``: the project's folder, under a path that every executor has too. Definitions are those applied now, sent
    along with the tasks; what still is in the push log of a running server is not history yet. ``at``, ``availability``,
    ``time_zone``: as for :meth:`springhouse.Store.training_set`. ``tasks``: how many shares the entities are divided into
    (the session's shuffle partitions when left out, at most one per core of the cluster is best: each task scans keys and
    times of the sources once). ``memory_mb``: the budget of one task; the project's ``memory_budget_mb`` when left out. A
    task holds the labels of its share in memory besides.

    Raises :class:`InvalidInput` for labels that don't fit, :class:`NotFound` for an unknown service. A task fails with
    ``source_changed`` when a source is not what it was when this was called.
    """
    import pyarrow
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    folder = str(Path(project).absolute())
    options: Options = (service, at, time_zone, availability)
    # Timestamps of Spark are instants, shown in the session's zone; in Arrow they are UTC.
    given = to_arrow_schema(labels.schema, timezone="UTC")
    try:
        history = _native.NativeHistory(folder, None)
        shared = history.shared()
        shape, inputs, keys = history.training_shape(given.empty_table(), *options)
    except _native.NativeError as error:
        raise from_native(error) from None
    wanted = _for_spark(pyarrow.schema(shape))
    columns = from_arrow_schema(wanted)
    # Spark's own types where the column is Spark's own: it knows a timestamp without zone, for example.
    for number, field in enumerate(labels.schema.fields):
        columns.fields[number] = field
    count = tasks if tasks is not None else int(str(spark.conf.get("spark.sql.shuffle.partitions", "200")))
    if count < 1:
        raise InvalidInput("invalid_argument", f"`tasks` is {count}; there is at least one")
    shares = labels.repartition(count, *keys) if keys else labels.repartition(count)
    return shares.mapInArrow(_task(folder, shared, options, memory_mb, inputs, wanted), columns)


def _task(
    folder: str, shared: str, options: Options, memory_mb: int | None, inputs: str, wanted: Any
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """What an executor does with its share; it is pickled, so it holds nothing but plain values."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow

        rows = [batch for batch in batches if batch.num_rows > 0]
        if not rows:
            return
        table = pyarrow.Table.from_batches(rows)
        try:
            history = _native.NativeHistory(folder, shared)
            made, manifest = history.training_set(table, *options, memory_mb)
        except _native.NativeError as error:
            raise from_native(error) from None
        _check_inputs(json.loads(inputs), json.loads(manifest)["sources"])
        for batch in pyarrow.table(made).cast(wanted).to_batches(max_chunksize=BATCH_ROWS):
            yield batch

    return run


def _check_inputs(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Every task must have read what the driver saw, or one training set would be of two histories."""
    for source, inputs in expected.items():
        if any(found.get(source, {}).get(name) != value for name, value in inputs.items()):
            raise Conflict(
                "source_changed",
                f"the source `{source}` has other files than when the training set was asked for, or this executor sees others",
                "call `training_set` again; give Delta tables or immutable files under one path to all executors",
            )


def _for_spark(schema: Any) -> Any:
    """The schema with types that Spark has: fixed-size lists (vectors) are lists, timestamps have microseconds."""
    import pyarrow

    def plain(kind: Any) -> Any:
        if pyarrow.types.is_fixed_size_list(kind) or pyarrow.types.is_list(kind):
            return pyarrow.list_(plain(kind.value_type))
        if pyarrow.types.is_timestamp(kind):
            return pyarrow.timestamp("us", kind.tz)
        return kind

    return pyarrow.schema([pyarrow.field(field.name, plain(field.type), True) for field in schema])

"""A training set: the labels with one column per feature, in the labels' order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["TrainingSet"]

#: Rows whose distribution is shown in a notebook.
SAMPLE_ROWS = 10_000


class TrainingSet:
    """What a service would have answered at the moment of every label.

    It is an Arrow table: anything that takes the Arrow PyCapsule interface takes it without a copy
    (``polars.DataFrame(ts)``, ``pyarrow.table(ts)``, ``duckdb.from_arrow(ts)``). Rows are the labels' rows, in their order
    and number; columns are the labels' columns, then the features.

    ``manifest`` says what it was made from (definition hash, files, availability), so that it can be made again bit for
    bit, and how many values of each feature were fresh, stale, expired, missing or null.
    """

    __slots__ = ("_table", "manifest", "path")

    def __init__(self, table: Any, manifest: Mapping[str, Any], path: Path | None = None) -> None:
        self._table = table
        self.manifest = manifest
        self.path = path

    @property
    def feature_names(self) -> list[str]:
        """The columns that are features."""
        return [feature["name"] for feature in self.manifest["features"]]

    @property
    def rows(self) -> int:
        """Rows."""
        return int(self.manifest["rows"])

    def __len__(self) -> int:
        return self.rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface: a stream of record batches."""
        return self._table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The Arrow PyCapsule interface: the schema."""
        return self._table.schema.__arrow_c_schema__()

    def to_arrow(self) -> Any:
        """A :class:`pyarrow.Table`, without a copy."""
        import pyarrow

        return pyarrow.table(self)

    def to_pandas(self, **options: Any) -> Any:
        """A :class:`pandas.DataFrame`; ``options`` go to :meth:`pyarrow.Table.to_pandas`."""
        return self.to_arrow().to_pandas(**options)

    def to_polars(self) -> Any:
        """A :class:`polars.DataFrame`, without a copy."""
        import polars

        return polars.DataFrame(self)

    def __repr__(self) -> str:
        return f"TrainingSet({self.manifest['service']}: {self.rows} rows, {len(self.feature_names)} features)"

    def _repr_html_(self) -> str:
        from .display import manifest_html

        return manifest_html(self.manifest, self._sample())

    def _sample(self) -> dict[str, dict[str, list[Any]]] | None:
        """The first rows of every feature, for its distribution; None where pyarrow is not installed."""
        try:
            table = self.to_arrow().slice(0, SAMPLE_ROWS)
        except ImportError:
            return None
        return {name: {"values": table[name].to_pylist()} for name in self.feature_names}

"""A training set: the labels with one column per feature, in the labels' order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _native
from .errors import from_native

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

    __slots__ = ("_loaded", "manifest", "path", "report")

    def __init__(
        self,
        table: Any,
        manifest: Mapping[str, Any],
        path: Path | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        self._loaded = table
        self.manifest = manifest
        #: The file it was written to, if it was. It is read when the rows are first asked for.
        self.path = path
        #: How it was made: what was read and left out of every source, the time each stage took. None through a server.
        self.report = report

    @property
    def _table(self) -> Any:
        if self._loaded is None:
            try:
                self._loaded = _native.read_training_set(str(self.path), self.manifest["format"])
            except _native.NativeError as error:
                raise from_native(error) from None
        return self._loaded

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
        of = f"{self.manifest['service']}: " if self.manifest["service"] else ""
        return f"TrainingSet({of}{self.rows} rows, {len(self.feature_names)} features)"

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
